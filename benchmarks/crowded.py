"""Crowded scenes: a model for which every anchor passes the graph's score floor, so that suppression is the work.

Target: four times PaddleX, at the default threshold; a threshold near the floor is measured beside it, where no tool
can leave candidates out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.measure import NAMES, Result, Setup, Table, script
from benchmarks.throughput import side_by_side
from sodbatch.model.export import NMS_SCORE_THRESHOLD, export_state
from sodbatch.model.folder import open_model_folder
from sodbatch.model.seeded import ScoreSpread, seeded_state
from sodbatch.model.spec import SPECS

CROWDED = ScoreSpread(mean=-2.0, std=0.8)
"""Of the class logits: 99.9 % are over the floor, 0.6 % over 0.5."""

LOW_THRESHOLD = 0.02
CHECKED = 8


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    model = setup.work / "crowded"
    counted = script("crowded", model, setup.listing(CHECKED))
    short, long = setup.size(40, 4), setup.size(240, 12)
    results = [
        side_by_side(setup, model, short, long, "Crowded scenes, S at 640", threshold)
        for threshold in (0.5, LOW_THRESHOLD)
    ]
    title = f"Candidates of the crowded model, means of {CHECKED} pictures"
    candidates = Table(title, list(counted), [list(counted.values())])
    return Result(
        [candidates, *(table for result in results for table in result.tables)], [result.raw for result in results]
    )


def make(folder: Path, listing: Path) -> dict[str, float]:
    """Export the model, and count what passes the floor on pictures."""
    import paddle

    from benchmarks.raw import load
    from sodbatch.model.network import SODNetwork
    from sodbatch.model.weights import load_state

    spec = SPECS[NAMES["S"]]
    state = seeded_state(spec, 0, CROWDED)
    export_state(spec, state, folder)
    network = SODNetwork(spec)
    load_state(network, state)
    network.eval()
    images, _ = load([Path(line) for line in listing.read_text().split()], open_model_folder(str(folder)).preprocess)
    with paddle.no_grad():
        planes = paddle.to_tensor(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        scores = network(planes)[1].numpy()
    return {
        "anchors": scores.shape[2],
        f"over {NMS_SCORE_THRESHOLD:g} in some class": float((scores.max(axis=1) > NMS_SCORE_THRESHOLD).sum(1).mean()),
        f"scores over {NMS_SCORE_THRESHOLD:g}": float((scores > NMS_SCORE_THRESHOLD).sum((1, 2)).mean()),
        "scores over 0.5": float((scores > 0.5).sum((1, 2)).mean()),
    }


if __name__ == "__main__":
    print(json.dumps(make(Path(sys.argv[1]), Path(sys.argv[2]))))
