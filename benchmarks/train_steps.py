"""Steps of a training, in a process of its own.

    python -m benchmarks.train_steps MODEL SIDE BATCH DATASET OUTPUT

Trains one epoch of a data set at one input side; prints JSON: pictures a second and the share of the time that the
training waited for data, of each group of steps that the log has, without the first.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

from sodbatch.config.file import load_config
from sodbatch.dataset.coco import read_part
from sodbatch.dataset.faults import Faults
from sodbatch.evaluate.truth import truth_of
from sodbatch.model.spec import find_spec
from sodbatch.predictor.base import usable_cpus
from sodbatch.storage import Storage
from sodbatch.train.examples import examples_of
from sodbatch.train.loop import Plan, train

LINE = re.compile(r"([0-9.]+) pictures/s, (\d+)% of the time waiting")
STEPS_OF_A_LINE = 4


def main() -> None:
    """Measure and print."""
    model, side, batch, dataset, output = sys.argv[1:]
    settings = {"Global.model": model, "Global.output": output, "Train.epochs_iters": 1, "Train.batch_size": int(batch)}
    config = load_config(None, (), settings | {"Train.log_interval": STEPS_OF_A_LINE})
    parts = [read_part(p, f"{dataset}/annotations/instance_{p}.json", Storage(), Faults({})) for p in ("train", "val")]
    learned, val = (examples_of(part, dataset) for part in parts)
    names = tuple(name for _, name in parts[0].categories)
    spec = replace(find_spec(model), labels=names, train_sides=(int(side),))
    lines: list[str] = []
    train(Plan(config, spec, learned, val, truth_of(parts[1]), "", None, int(batch), usable_cpus()), lines.append)
    groups = [found.groups() for line in lines if (found := LINE.search(line))][1:]
    rates, waited = [float(rate) for rate, _ in groups], [int(share) for _, share in groups]
    print(json.dumps({"rates": rates, "waited": waited}))


if __name__ == "__main__":
    main()
