"""Do sodbatch and PaddleX find the same boxes on the same model folder and pictures? A check, not a speed.

Every box has a partner of the same class in the other's, within the tolerances of its backend.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from benchmarks.measure import PREDICT, Result, Setup, Table, predict_command, run
from benchmarks.paddlex_modes import PaddleX
from sodbatch.predictor.agreement import Agreement, compare

TOLERANCES = {"paddle": (1e-4, 0.02), "openvino": (1e-3, 0.1), "onnxruntime": (1e-3, 0.1)}
"""Of scores, and of coordinates in pixels."""

THRESHOLD = 0.3


def measure(setup: Setup) -> Result:
    """Run the check."""
    if setup.paddlex_python is None:
        return Result([Table("Boxes were not compared: no --paddlex-python", ["backend"], [])], {})
    model, count = setup.model("S"), setup.size(len(setup.pictures), 4)
    boxes = setup.work / "boxes.json"
    PaddleX(setup, model, "paddle", 1).seconds(count, boxes, THRESHOLD)
    theirs = json.loads(boxes.read_text())
    rows = []
    for backend, tolerances in TOLERANCES.items():
        output = setup.output()
        keys = {"Predict__backend": backend, "Predict__engine": "inline", "Predict__threshold": THRESHOLD}
        run(predict_command(PREDICT, model, setup.listing(count), output, **keys))
        agreement = _compare(theirs, dict(_of_run(output)), *tolerances)
        rows.append([backend, agreement.unmatched, str(agreement)])
    total = sum(map(len, theirs.values()))
    title = f"Boxes beside PaddleX's: {count} pictures, {total:,} boxes over {THRESHOLD}, S at 640"
    return Result([Table(title, ["backend", "without a partner", "agreement"], rows)], rows)


def _compare(
    theirs: dict[str, list[list[float]]], ours: dict[str, list[list[float]]], score: float, box: float
) -> Agreement:
    total = Agreement()
    for name, boxes in theirs.items():
        total += compare(
            np.array(boxes, np.float32).reshape(-1, 6),
            np.array(ours[name], np.float32).reshape(-1, 6),
            score_tolerance=score,
            box_tolerance=box,
            keep_top_k=sys.maxsize,
            score_floor=THRESHOLD,  # of a box that scores just this, the last bit decides: PaddleX's own modes differ
        )
    return total


def _of_run(output: Path) -> Iterator[tuple[str, list[list[float]]]]:
    keys = ("cls_id", "score", "xmin", "ymin", "xmax", "ymax")
    for row in ds.dataset(output / "images", format="parquet").to_table(columns=["uri", "detections"]).to_pylist():
        yield Path(row["uri"]).name, [[box[key] for key in keys] for box in row["detections"]]
