"""What all benchmarks share: inputs and models, processes in turn, medians, tables."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from sodbatch.predictor.base import usable_cpus

ROOT = Path(__file__).parents[1]
NAMES = {name: f"PP-YOLOE_plus_SOD-{name}" for name in ("S", "L", "largesize-L", "tiny")}
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
THRESHOLD = 0.5
MIB = 2**20


@dataclass(frozen=True)
class Setup:
    """What a benchmark is to measure on.

    Attributes:
        pictures: The pictures that are repeated.
        models: Folder of inference folders; one that is missing is exported there with seeded weights.
        work: An empty folder for what is made meanwhile.
        paddlex_python: Interpreter of an environment with PaddleX; None to leave it out.
        paddledet: A clone of PaddleDetection; None to leave it out.
        rounds: How often everything is measured.
        small: Few pictures and short runs, to try the benchmarks themselves.
        threads: CPU cores that every tool uses.
    """

    pictures: tuple[Path, ...]
    models: Path
    work: Path
    paddlex_python: str | None
    paddledet: Path | None
    rounds: int
    small: bool
    threads: int = usable_cpus()

    def size(self, full: int, small: int) -> int:
        """Return how large a part of a benchmark is to be."""
        return small if self.small else full

    def model(self, name: str) -> Path:
        """Return an official model's inference folder."""
        folder = self.models / name
        if not (folder / "inference.yml").exists():
            run([*PREDICT[:-1], "export", "-o", f"Global.model={NAMES[name]}", "-o", f"Global.output={folder}"])
        return folder

    def listing(self, count: int) -> Path:
        """Write a list of ``count`` paths, all different: links to the pictures, again and again."""
        listing = self.work / f"{count}.txt"
        if not listing.exists():
            links = self.work / f"links-{count}"
            links.mkdir()
            paths = []
            for i, picture in enumerate(islice(cycle(self.pictures), count)):
                paths.append(links / f"{i:07d}{picture.suffix}")
                paths[-1].symlink_to(picture)
            listing.write_text("".join(f"{path}\n" for path in paths))
        return listing

    def output(self) -> Path:
        """Return a new folder for one run's tables; what an earlier one has left is deleted."""
        for old in self.work.glob("out-*"):
            shutil.rmtree(old)
        return Path(tempfile.mkdtemp(prefix="out-", dir=self.work))


PREDICT = (sys.executable, "-m", "sodbatch", "predict")
NOOP = (sys.executable, "-m", "benchmarks.noop")


def predict_command(program: Sequence[str], model: Path, listing: Path | str, output: Path, **keys: Any) -> list[str]:
    """Make the command line of one run; ``keys`` are configuration keys with ``__`` for the dot."""
    settings = {"Global.device": "cpu", "Predict.threshold": THRESHOLD, "Predict.model_dir": model}
    settings |= {"Predict.input": listing, "Global.output": output}
    settings |= {key.replace("__", "."): value for key, value in keys.items()}
    return [*program, *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]


def environment() -> dict[str, str]:
    """Return the environment of what is started: it finds this package and the source tree."""
    return os.environ | {"PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"}


def run(command: Sequence[str]) -> tuple[float, str]:
    """Run a command; return how long it took and its standard output.

    Raises:
        SystemExit: It failed; with its output.
    """
    started = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    return time.perf_counter() - started, ended.stdout


def script(module: str, *arguments: Any) -> dict[str, Any]:
    """Run a module of this package in a process of its own; return the JSON of its last line."""
    return printed(sys.executable, "-m", f"benchmarks.{module}", *arguments)


def printed(*command: Any) -> dict[str, Any]:
    """Run a command; return the JSON of the last line that it prints."""
    _, output = run([*map(str, command)])
    return dict(json.loads(output.strip().splitlines()[-1]))


def in_turn(rounds: int, tools: Mapping[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Call every tool once a round, one after the other, so that what the machine does otherwise hits all alike."""
    results: dict[str, list[Any]] = {name: [] for name in tools}
    for number in range(rounds):
        for name, tool in tools.items():
            print(f"  round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(tool())
    return results


@dataclass(frozen=True)
class Steady:
    """Seconds of a short and a long run of one tool, in each round; their difference is free of start-up."""

    short: int
    long: int
    seconds: list[tuple[float, float]]

    @property
    def rates(self) -> list[float]:
        """Pictures a second, by round."""
        return [(self.long - self.short) / (long - short) for short, long in self.seconds]

    @property
    def rate(self) -> float:
        """The median of them."""
        return statistics.median(self.rates)

    @property
    def whole(self) -> float:
        """Median seconds of the long run, from start to end."""
        return statistics.median(long for _, long in self.seconds)


class Tool(NamedTuple):
    """What is to be measured: called with a number of pictures, it returns seconds.

    ``short`` is 0 where those are without start-up, so that one run tells the rate.
    """

    run: Callable[[int], float]
    short: int
    long: int


def steady(rounds: int, tools: Mapping[str, Tool]) -> dict[str, Steady]:
    """Measure the steady rates of tools."""

    def pair(tool: Tool) -> Callable[[], tuple[float, float]]:
        return lambda: (tool.run(tool.short) if tool.short else 0.0, tool.run(tool.long))

    measured = in_turn(rounds, {name: pair(tool) for name, tool in tools.items()})
    return {name: Steady(tools[name].short, tools[name].long, seconds) for name, seconds in measured.items()}


def ratio(over: Steady, under: Steady) -> float:
    """Return the median of the rates' ratios, round by round."""
    return statistics.median(a / b for a, b in zip(over.rates, under.rates, strict=True))


@dataclass(frozen=True)
class Table:
    """One table of results: a title that says what was measured on what, and rows of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [[_cell(cell) for cell in row] for row in (self.header, ["---"] * len(self.header), *self.rows)]
        return "\n".join([f"{self.title}:", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass(frozen=True)
class Result:
    """Of one benchmark: tables, and all times and sizes that they are made from."""

    tables: Sequence[Table]
    raw: Any
