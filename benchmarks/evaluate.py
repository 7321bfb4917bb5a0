"""The figures of an evaluation, beside pycocotools.

Target: 50,000 pictures with 100 boxes each under 60 s and 4 GiB.
"""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.measure import Result, Setup, Table, in_turn, script

BOXES = 100


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    many, few = setup.size(50_000, 500), setup.size(2_000, 100)
    tools = {
        f"sodbatch, {many:,} pictures": partial(script, "figures", "sodbatch", many, BOXES),
        f"sodbatch, {few:,} pictures": partial(script, "figures", "sodbatch", few, BOXES),
        f"pycocotools, {few:,} pictures": partial(script, "figures", "pycocotools", few, BOXES),
    }
    measured = in_turn(setup.rounds, tools)
    rows = [
        [name, *(statistics.median(each[key] for each in values) for key in ("seconds", "peak")), values[0]["AP"]]
        for name, values in measured.items()
    ]
    title = f"COCO's figures, {BOXES} boxes a picture, medians of {setup.rounds} rounds"
    return Result([Table(title, ["", "s", "peak memory (MiB)", "AP"], rows)], measured)
