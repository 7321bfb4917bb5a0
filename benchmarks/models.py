"""Time and memory a picture of each model, and which batch, threads and actors are best for it.

The sweep runs predictors alone, each actor a process, all at once: pictures a second of all together, and the peak
memory of all of them.
"""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.measure import MIB, PREDICT, Result, Setup, Table, in_turn, predict_command, script
from benchmarks.processes import run_sampled

PICTURES = {"S": (32, 8), "L": (8, 3), "largesize-L": (3, 2)}
"""Pictures of each actor in the sweep, in full and in small."""

RUNS = {"S": (100, 12), "L": (24, 4), "largesize-L": (6, 2)}
"""Pictures of the whole runs, of which an eighth is the short one."""


@dataclass(frozen=True)
class Choice:
    """One way to use the cores.

    Attributes:
        backend: The predictor.
        actors: Processes.
        threads: Of each.
        streams: Pictures at a time of each; of Paddle the batch.
    """

    backend: str
    actors: int
    threads: int
    streams: int

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"{self.backend}, {self.actors} x {self.threads} threads, {self.streams} at a time"


def choices(cores: int) -> list[Choice]:
    """Return what the sweep tries: the shared cores in one process and in several, pictures alone and together."""
    made = [Choice(backend, 1, cores, streams) for backend in ("openvino", "onnxruntime") for streams in (1, cores)]
    made += [Choice("openvino", 1, cores, 2 * cores), Choice("openvino", 1, 1, 1)]
    made += [Choice("openvino", cores, 1, 1), Choice("openvino", cores, cores, cores)]
    made += [Choice("paddle", 1, cores, batch) for batch in (1, 2, 4)] + [Choice("paddle", cores, 1, 1)]
    return made


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    tables, raw = [], {}
    for name in ("S", "L", "largesize-L"):
        sweep, raw[f"{name}, sweep"] = _sweep(setup, name)
        whole, raw[f"{name}, runs"] = _runs(setup, name)
        tables += [sweep, whole]
    return Result(tables, raw)


def _sweep(setup: Setup, name: str) -> tuple[Table, Any]:
    count = setup.size(*PICTURES[name])
    tried = {choice.name: choice for choice in choices(setup.threads)}
    tools = {key: partial(_actors, setup, name, choice, count) for key, choice in tried.items()}
    measured = in_turn(setup.rounds, tools)
    rows = []
    for key, results in measured.items():
        choice = tried[key]
        rate = statistics.median(sum(count / one["seconds"] for one in actors) for actors in results)
        peak = max(sum(one["peak_bytes"] for one in actors) for actors in results) / MIB
        rows.append([choice.backend, choice.actors, choice.threads, choice.streams, rate, 1 / rate, peak])
    title = f"{name}: predictors alone, {setup.threads} cores, {count} pictures an actor, {setup.rounds} rounds in turn"
    header = ["backend", "actors", "threads", "streams or batch", "pictures/s", "s/picture", "peak memory (MiB)"]
    rows.sort(key=lambda row: -float(row[4]))
    return Table(title, header, rows), measured


def _actors(setup: Setup, name: str, choice: Choice, count: int) -> list[dict[str, Any]]:
    """Run the processes of one choice at the same time."""
    options = ["--backend", choice.backend, "--threads", choice.threads]
    if choice.backend == "paddle":
        options += ["--paddle-batch", choice.streams, "--batch", choice.streams]
    else:
        options += ["--streams", choice.streams]

    def one(_: int) -> dict[str, Any]:
        return script("raw", setup.model(name), setup.listing(count), count, *options)

    with ThreadPoolExecutor(choice.actors) as pool:
        return list(pool.map(one, range(choice.actors)))


def _runs(setup: Setup, name: str) -> tuple[Table, Any]:
    """Run whole commands with the defaults."""
    long = setup.size(*RUNS[name])
    short = max(1, long // 8)

    def pair(engine: str) -> tuple[tuple[float, int], tuple[float, int]]:
        return once(engine, short), once(engine, long)

    def once(engine: str, count: int) -> tuple[float, int]:
        keys = {"Predict__engine": engine}
        command = predict_command(PREDICT, setup.model(name), setup.listing(count), setup.output(), **keys)
        sampled = run_sampled(command, 0.5)
        return sampled.seconds, sampled.peak

    measured = in_turn(setup.rounds, {engine: partial(pair, engine) for engine in ("ray", "inline")})
    rows = []
    for engine, pairs in measured.items():
        each = statistics.median((b[0] - a[0]) / (long - short) for a, b in pairs)
        rows.append([engine, each, max(b[1] for _, b in pairs) / MIB])
    title = f"{name}: `predict` with its defaults, from runs of {short} and {long} pictures"
    return Table(title, ["engine", "s/picture, steady", "peak memory, all processes (MiB)"], rows), measured
