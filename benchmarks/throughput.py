"""Pictures a second of ``predict``, of the predictor alone, and of PaddleX, on the same pictures and cores.

Steady rates, free of start-up: from the difference between a long and a short run. Targets: 0.9 of the predictor
alone, twice PaddleX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import PREDICT, THRESHOLD, Result, Setup, Steady, Table, predict_command, ratio, run, script
from benchmarks.measure import steady
from benchmarks.paddlex_modes import fastest

RAW, ASYNC = "OpenVINO predictor alone, batches of 16", "OpenVINO's own asynchronous benchmark mode"


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    return side_by_side(setup, setup.model("S"), setup.size(80, 8), setup.size(400, 24), "S at 640")


def side_by_side(
    setup: Setup, model: Path, short: int, long: int, what: str, threshold: float = THRESHOLD
) -> Result:
    """Measure all tools on one model folder."""
    paddlex, modes = fastest(setup, model)
    tools = {f"sodbatch, {engine}": _sodbatch(setup, model, engine, threshold) for engine in ("ray", "inline")}
    tools[RAW] = _raw(setup, model, "openvino", threshold)
    tools[ASYNC] = _raw(setup, model, "benchmark", threshold)
    if paddlex is not None:
        tools[paddlex.name] = lambda count: paddlex.seconds(count, threshold=threshold)
    measured = steady(setup.rounds, short, long, tools)
    title = (
        f"{what}, {setup.threads} cores, threshold {threshold:g}: steady rates from runs of {short} and {long} "
        f"pictures, medians of {setup.rounds} rounds in turn"
    )
    table = _table(title, measured, paddlex.name if paddlex else None)
    return Result([modes, table], {"runs": {name: asdict(value) for name, value in measured.items()}})


def _sodbatch(setup: Setup, model: Path, engine: str, threshold: float) -> Callable[[int], float]:
    keys = {"Predict__engine": engine, "Predict__threshold": threshold}
    return lambda count: run(predict_command(PREDICT, model, setup.listing(count), setup.output(), **keys))[0]


def _raw(setup: Setup, model: Path, backend: str, threshold: float) -> Callable[[int], float]:
    def seconds(count: int) -> float:
        options = ["--backend", backend, "--threads", setup.threads, "--floor", threshold]
        options += ["--batch", count if backend == "benchmark" else 16]
        return float(script("raw", model, setup.listing(count), count, *options)["seconds"])

    return seconds


def _table(title: str, measured: dict[str, Steady], paddlex: str | None) -> Table:
    header = ["", "pictures/s, steady", "whole command (s)", "of the predictor alone", "times PaddleX"]
    rows = []
    for name, value in measured.items():
        times = ratio(value, measured[paddlex]) if paddlex else None
        whole = None if name in (RAW, ASYNC) else value.whole
        rows.append([name, value.rate, whole, ratio(value, measured[RAW]), times])
    return Table(title, header, rows)
