"""Memory of a process and all that it has started, sampled from Linux's ``/proc``.

Counted is the proportional set size: what a process has to itself, and its share of what several have mapped, so
that a sum over processes counts Ray's object store once.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measure import environment

KIB = 1024


@dataclass(frozen=True)
class Memory:
    """One process at one moment.

    Attributes:
        name: What it does.
        bytes: Proportional set size.
        own: What of it is not shared memory: without Ray's object store and what travels between processes.
    """

    name: str
    bytes: int
    own: int


@dataclass(frozen=True)
class Sample:
    """All processes at one moment: seconds since the start, and memory by process id."""

    seconds: float
    processes: dict[int, Memory]

    @property
    def total(self) -> int:
        return sum(memory.bytes for memory in self.processes.values())


@dataclass(frozen=True)
class Sampled:
    """A run that was watched: seconds, and samples in order."""

    pid: int
    seconds: float
    samples: list[Sample]

    @property
    def peak(self) -> int:
        """The most bytes that all processes together had."""
        return max(sample.total for sample in self.samples)

    @property
    def driver_peak(self) -> int:
        """The most bytes that the first process had."""
        return max(sample.processes[self.pid].bytes for sample in self.samples if self.pid in sample.processes)


def run_sampled(
    command: Sequence[str], every_s: float, *, only_driver: bool = False, look: Callable[[float], None] | None = None
) -> Sampled:
    """Run a command and sample its memory.

    Args:
        command: What to run.
        every_s: Pause between samples.
        only_driver: Sample the command's own process only.
        look: Called at each sample with the seconds since the start.

    Raises:
        SystemExit: The command failed; with its output.
    """
    samples: list[Sample] = []
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment())
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(every_s)
                break
            seconds = time.perf_counter() - started
            if look is not None:
                look(seconds)
            pids = [process.pid] if only_driver else _tree(process.pid)
            found = {pid: memory for pid in pids if (memory := _memory(pid, process.pid)) is not None}
            samples.append(Sample(seconds, found))
        seconds = time.perf_counter() - started
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output.read().decode()}")
    return Sampled(process.pid, seconds, samples)


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (parent := _parent(int(entry))) is not None:
            children.setdefault(parent, []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def _memory(pid: int, root: int) -> Memory | None:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            fields = {line.split(":")[0]: int(line.split()[1]) * KIB for line in file if line.endswith(" kB\n")}
    except OSError:
        return None
    return Memory(_name(pid, root), fields["Pss"], fields["Pss"] - fields["Pss_Shmem"])


def _name(pid: int, root: int) -> str:
    """Say what a process does: from its title, or for a child of ours from its parent's."""
    if pid == root:
        return "driver"
    title = _title(pid)
    if "serve(*map" in title:
        parent = _parent(pid)
        return f"child of {_name(parent, root)}" if parent else "child"
    return title.split()[0].rpartition("/")[2] if title and not title.startswith("ray::") else title


def _title(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return ""
