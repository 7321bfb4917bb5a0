"""Training steps: pictures a second, and the share of the time that the training waits for data.

Target: waiting at most 5 %; a step alone at least as fast as PaddleDetection's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from operator import truediv
from typing import Any

from benchmarks.measure import ROOT, Result, Setup, Table, in_turn, printed, script
from sodbatch.scenes import write_scenes

MODELS = {"S": ("PP-YOLOE_plus_SOD-S", 640, 2, 24), "demo": ("PP-YOLOE_plus_SOD-demo", 448, 8, 96)}
"""Of each its name, the input side, the pictures of a step and those of an epoch."""


SIDE_ALONE, BATCH_ALONE = 640, 2


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    tools: dict[str, Callable[[], Any]] = {}
    for name, (model, side, batch, pictures) in MODELS.items():
        dataset = write_scenes(setup.work / f"scenes-{name}", setup.size(pictures, 2 * batch * 4), 1)
        tools[f"{name} at {side}, batch {batch}"] = partial(_steps, setup, model, side, batch, dataset)
    measured = in_turn(setup.rounds, tools)
    rows = [
        [
            name,
            statistics.median(rate for one in values for rate in one["rates"]),
            statistics.median(share for one in values for share in one["waited"]),
            max(share for one in values for share in one["waited"]),
        ]
        for name, values in measured.items()
    ]
    title = f"Training steps on {setup.threads} cores, medians of {setup.rounds} rounds"
    header = ["", "pictures/s", "waiting for data (%)", "the most of any 4 steps (%)"]
    return Result([Table(title, header, rows), *_alone(setup, measured)], measured)


def _alone(setup: Setup, measured: dict[str, list[Any]]) -> list[Table]:
    """Measure steps on arrays in memory beside PaddleDetection's, where there are a clone and an environment for it."""
    if setup.paddledet is None or setup.paddlex_python is None:
        return []
    words = [ROOT / "benchmarks" / "step_alone.py", SIDE_ALONE, BATCH_ALONE, setup.size(8, 2)]
    tools = {"sodbatch": words, "PaddleDetection": [*words, setup.paddledet]}
    found = in_turn(
        setup.rounds, {name: partial(printed, setup.paddlex_python, *given) for name, given in tools.items()}
    )
    measured |= found
    rates = {name: [statistics.median(one["rates"]) for one in values] for name, values in found.items()}
    ratio = statistics.median(map(truediv, rates["sodbatch"], rates["PaddleDetection"]))
    rows = [[name, statistics.median(values), ratio if name == "sodbatch" else 1.0] for name, values in rates.items()]
    title = f"A step alone, S at {SIDE_ALONE}, batch {BATCH_ALONE}, one thread"
    return [Table(title, ["", "pictures/s", "median of the rounds' ratios"], rows)]


def _steps(setup: Setup, model: str, side: int, batch: int, dataset: Any) -> dict[str, Any]:
    return script("train_steps", model, side, batch, dataset, setup.output())
