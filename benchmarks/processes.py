"""Memory and CPU time of a process and all that it has started, sampled from Linux's ``/proc``.

Memory is the proportional set size: what a process has to itself, and its share of what several have mapped, so
that a sum over processes counts Ray's object store once.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measure import environment

KIB = 1024


@dataclass(frozen=True)
class Usage:
    """One process at one moment.

    Attributes:
        name: What it does.
        bytes: Proportional set size.
        own: Its share of anonymous memory: without what is mapped from files, such as libraries, and without shared
            memory, which is Ray's object store and what travels between processes.
        cpu_seconds: Spent since it started, in user and system mode.
    """

    name: str
    bytes: int
    own: int
    cpu_seconds: float


@dataclass(frozen=True)
class Sample:
    """All processes at one moment: seconds since the start, and usage by process id."""

    seconds: float
    processes: dict[int, Usage]

    @property
    def total(self) -> int:
        return sum(usage.bytes for usage in self.processes.values())


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

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """CPU time by what processes did, as last seen of each."""
        last = {pid: usage for sample in self.samples for pid, usage in sample.processes.items()}
        names = last | {
            pid: usage
            for sample in self.samples
            for pid, usage in sample.processes.items()
            if usage.name.startswith("ray::") and usage.name != "ray::IDLE"
        }
        seconds: defaultdict[str, float] = defaultdict(float)
        for pid, usage in last.items():
            seconds[names[pid].name] += usage.cpu_seconds
        return dict(seconds)


def run_sampled(
    command: Sequence[str], every_s: float, *, only_driver: bool = False, look: Callable[[float], None] | None = None
) -> Sampled:
    """Run a command and sample what it uses.

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
            found = {pid: usage for pid in pids if (usage := _usage(pid, process.pid)) is not None}
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


def _stat(pid: int) -> list[bytes]:
    """Return a process's numbers from its parent's id on; empty when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[1:]
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    return int(stat[0]) if (stat := _stat(pid)) else None


def _usage(pid: int, root: int) -> Usage | None:
    stat = _stat(pid)
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            sizes = {line.split(":")[0]: int(line.split()[1]) * KIB for line in file if line.endswith(" kB\n")}
    except OSError:
        return None
    if not stat or "Pss" not in sizes:
        return None
    cpu = (int(stat[10]) + int(stat[11])) / os.sysconf("SC_CLK_TCK")
    return Usage(_name(pid, root), sizes["Pss"], sizes["Pss_Anon"], cpu)


def _name(pid: int, root: int) -> str:
    """Say what a process does: from its title, or for a child of ours from its parent's."""
    if pid == root:
        return "driver"
    title = _title(pid)
    if "serve(*map" in title:
        return "Infer's child" if "_InferActor" in _title(_parent(pid) or 0) else "Load's child"
    return title if title.startswith("ray::") else title.partition(" ")[0].rpartition("/")[2]


def _title(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return ""
