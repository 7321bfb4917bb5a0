"""Pictures a second of ``predict``, of the predictor alone, and of PaddleX, on the same pictures and cores.

Steady rates, free of start-up: from the difference between a long and a short run. Targets: 0.9 of the predictor
alone, twice PaddleX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.measure import (
    PREDICT,
    THRESHOLD,
    Result,
    Setup,
    Steady,
    Table,
    Tool,
    predict_command,
    ratio,
    run,
    script,
    steady,
)
from benchmarks.paddlex_modes import fastest

ALONE = {
    "OpenVINO predictor alone, on arrays in memory": ("openvino", 1_000_000),
    "OpenVINO's throughput hint, results thrown away": ("benchmark", 1_000_000),
}
"""The same model on arrays in memory: backend and batch; the fastest is what the others are compared with."""

RIVALS = (8, 40)
"""Pictures of a short and a long run of PaddleX, whose rate does not change with them."""


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    return side_by_side(setup, setup.model("S"), setup.size(40, 8), setup.size(400, 24), "S at 640")


def side_by_side(setup: Setup, model: Path, short: int, long: int, what: str, threshold: float = THRESHOLD) -> Result:
    """Measure all tools on one model folder."""
    rivals, modes = fastest(setup, model)
    tools = {
        f"sodbatch, {engine}": Tool(_sodbatch(setup, model, engine, threshold), short, long)
        for engine in ("ray", "inline")
    }
    tools |= {name: Tool(_alone(setup, model, *how, threshold), 0, long) for name, how in ALONE.items()}
    few = [setup.size(size, size // 4) for size in RIVALS]
    tools |= {rival.name: Tool(partial(rival.seconds, threshold=threshold), *few) for rival in rivals}
    measured = steady(setup.rounds, tools)
    title = (
        f"{what}, {setup.threads} cores, threshold {threshold:g}: steady rates from runs of {short} and {long} "
        f"pictures (PaddleX: {few[0]} and {few[1]}), medians of {setup.rounds} rounds in turn"
    )
    table = _table(title, measured, [rival.name for rival in rivals])
    return Result([modes, table], {name: asdict(value) for name, value in measured.items()})


def _sodbatch(setup: Setup, model: Path, engine: str, threshold: float) -> Callable[[int], float]:
    keys = {"Predict__engine": engine, "Predict__threshold": threshold}
    return lambda count: run(predict_command(PREDICT, model, setup.listing(count), setup.output(), **keys))[0]


def _alone(setup: Setup, model: Path, backend: str, batch: int, threshold: float) -> Callable[[int], float]:
    options = ["--backend", backend, "--threads", setup.threads, "--batch", batch, "--floor", threshold]
    return lambda count: float(script("raw", model, setup.listing(count), count, *options)["seconds"])


def _table(title: str, measured: dict[str, Steady], rivals: list[str]) -> Table:
    alone = max((measured[name] for name in ALONE), key=lambda value: value.rate)
    rows = [
        [
            name,
            value.rate,
            None if name in ALONE else value.whole,
            ratio(value, alone),
            *(ratio(value, measured[rival]) for rival in rivals),
        ]
        for name, value in measured.items()
    ]
    header = ["", "pictures/s, steady", "whole command (s)", "of the fastest predictor alone"]
    return Table(title, [*header, *(f"times {rival}" for rival in rivals)], rows)
