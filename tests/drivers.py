"""Whole drivers in processes of their own, forked from a server that has imported what they need.

The engine is a stand-in that commits rows without looking at pictures, so that a run takes a fraction of a second:
these are for tests of what happens between drivers, and between a driver and its store.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - pyarrow imports it at its first use
import pyarrow as pa
import pytest
from fakes import inferred_rows
from rich.console import Console

from sodbatch import predict_job, write
from sodbatch.cli import EXIT_FAILED, EXIT_USAGE
from sodbatch.config import Config
from sodbatch.engine.pipeline import Listener, Pipeline
from sodbatch.engine.resources import ActorPlan
from sodbatch.errors import JobError, UsageError
from sodbatch.lease import Pace
from sodbatch.storage import Storage

FAST = Pace(beat_s=0.2, watch_s=2.0)

CHANGES = ("write_atomic", "delete", "rename")
LOOKS = ("read_bytes", "list_files", "open")


@dataclass(frozen=True)
class Trap:
    """Where a driver gets a signal: before its n-th use of the store of these kinds.

    Attributes:
        before: Which use, from 1.
        signal: What it gets; None to wait there, in this thread alone, until :meth:`Drive.let_go`.
        kinds: Which uses count.
        at: A part of the URL that they are about.
    """

    before: int
    signal: int | None = signal.SIGKILL
    kinds: tuple[str, ...] = CHANGES
    at: str = ""


@dataclass(frozen=True)
class Drive:
    """One driver.

    Attributes:
        sections: Its configuration.
        trap: Where it gets a signal.
        clock_s: How wrong its clock is.
        pace: Of its lease.
        log: File for what it prints and how it ends; one line a use of the store goes to ``<log>.uses``.
    """

    sections: dict[str, dict[str, Any]]
    log: str
    trap: Trap | None = None
    clock_s: float = 0.0
    pace: Pace = field(default=FAST)

    def start(self) -> BaseProcess:
        """Start the driver."""
        process = _server().Process(target=_drive, args=(self,))
        process.start()
        _started.append(process)
        return process

    def run(self) -> int:
        """Run the driver to its end; return its exit code, negative when a signal ended it."""
        process = self.start()
        process.join(120)
        assert process.exitcode is not None, "the driver does not end"
        return process.exitcode

    def let_go(self) -> None:
        """End the wait in its trap."""
        Path(f"{self.log}.go").touch()

    def waits(self) -> bool:
        """Tell whether it has come to its trap."""
        return Path(f"{self.log}.here").exists()

    def said(self) -> str:
        """Return what it has printed so far."""
        return Path(self.log).read_text() if Path(self.log).exists() else ""

    def uses(self) -> list[str]:
        """Return the kinds of its uses of the store so far."""
        return Path(f"{self.log}.uses").read_text().split()


_started: list[BaseProcess] = []


def kill_all() -> None:
    """End all drivers, those that stand still too."""
    while _started:
        process = _started.pop()
        process.kill()
        process.join()


@functools.cache
def _server() -> ForkServerContext:
    """Start the server; it imports this module, with all that a driver needs, once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["drivers"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        forkserver.ensure_running()
    return context


class PlainEngine:
    """Commits a row for each input in parts of the shard's size: failed where its name says so."""

    description = "a stand-in"

    def __init__(self, config: Config) -> None:
        self.actors = ActorPlan(1, 1, 1.0, 0.0, 1)

    def __enter__(self) -> PlainEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, pipeline: Pipeline, pending: Iterable[pa.Table], listener: Listener) -> None:
        for rows in pending:
            for start in range(0, len(rows), pipeline.shard_size):
                shard = rows.slice(start, pipeline.shard_size)
                parts = []
                for failed in (False, True):
                    chosen = [row for row in shard.to_pylist() if ("missing" in row["uri"]) == failed]
                    ids, uris = [row["input_id"] for row in chosen], [row["uri"] for row in chosen]
                    if chosen:
                        parts.append(inferred_rows(ids, boxes=2, failed=failed, uri=uris))
                listener.written(pipeline.write(pa.concat_tables(parts)))
                listener.check()


def _drive(drive: Drive) -> None:
    predict_job.make_engine = PlainEngine  # type: ignore[assignment]
    _set_traps(drive)
    _set_clock(drive.clock_s)
    with open(drive.log, "a", buffering=1) as log:
        console = Console(file=log, width=1000)
        try:
            code = predict_job.run(Config.model_validate(drive.sections), console=console, pace=drive.pace)
        except UsageError as error:
            log.write(f"usage: {error}\n")
            code = EXIT_USAGE
        except JobError as error:
            log.write(f"{type(error).__name__}: {error}\n")
            code = EXIT_FAILED
    sys.exit(code)


def _set_traps(drive: Drive) -> None:
    uses = open(f"{drive.log}.uses", "w", buffering=1)  # noqa: SIM115 - it lives as long as the process
    trap = drive.trap or Trap(0)
    count = 0

    def trapped(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def use(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            uses.write(f"{kind}\n")
            if kind in trap.kinds and trap.at in str(args[1]):
                count += 1
                if count == trap.before:
                    _spring(drive, trap.signal)
            return call(*args, **kwargs)

        return use

    for kind in ("write_atomic", "delete", "read_bytes", "list_files", "open"):
        setattr(Storage, kind, trapped(kind, getattr(Storage, kind)))
    os.replace = trapped("rename", os.replace)


def _spring(drive: Drive, number: int | None) -> None:
    Path(f"{drive.log}.here").touch()
    if number is not None:
        os.kill(os.getpid(), number)
    while number is None and not Path(f"{drive.log}.go").exists():
        threading.Event().wait(0.01)


def _set_clock(wrong_s: float) -> None:
    right = time.time

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(right(), tz or timezone.utc) + timedelta(seconds=wrong_s)

    if wrong_s:
        time.time = lambda: right() + wrong_s
        time.time_ns = lambda: int((right() + wrong_s) * 1e9)
        write.datetime = Wrong  # type: ignore[misc]
