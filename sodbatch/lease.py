"""The lease: whether a run is at work on an output.

A run writes ``OUT/lease.json`` anew every few seconds, with a counter. Who finds one looks for a while whether that
moves. So no clock is read, let alone two machines' compared, and the store need not know of locks or conditions.
The lease makes runs wait for one another and ends one soon that has lost its output; what keeps late writers out is
:func:`sodbatch.record.check_ours`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

from sodbatch.errors import RunEndedError, UsageError
from sodbatch.record import Rank
from sodbatch.storage import Storage, display_uri, redact
from sodbatch.storage.retry import with_retries

LEASE = "lease.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often a lease is renewed, and how long another is watched before it is taken for dead, in seconds."""

    beat_s: float = 5.0
    watch_s: float = 20.0


USUAL_PACE = Pace()


@dataclass(frozen=True)
class Holder:
    """What a lease says.

    Attributes:
        attempt, run_id: The run's rank.
        host, pid: Where its driver runs.
        machine: Boot and process namespace that the pid belongs to; None where the system does not tell.
        started: When the process started, in ticks since boot; None where the system does not tell.
        beat: Counter of renewals.
    """

    attempt: int = 0
    run_id: str = ""
    host: str = "unknown"
    pid: int = 0
    machine: str | None = None
    started: int | None = None
    beat: int = 0

    @property
    def rank(self) -> Rank:
        """Which of two runs keeps the lease."""
        return Rank(self.attempt, self.run_id)


def this_process(rank: Rank) -> Holder:
    """Describe a run whose driver is this process."""
    pid = os.getpid()
    return Holder(rank.attempt, rank.run_id, socket.gethostname(), pid, _machine(), _started(pid))


def read_lease(output: str, storage: Storage) -> Holder | None:
    """Read a lease; None where there is none. One that says nothing a run would write is a nameless run's."""
    try:
        data = with_retries(lambda: storage.read_bytes(f"{output}/{LEASE}"), storage.fetch_section)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        said = json.loads(data)
        holder = Holder(**{field.name: said[field.name] for field in fields(Holder)})
    except (ValueError, TypeError, KeyError, RecursionError):
        return Holder()
    sound = isinstance(holder.run_id, str) and all(type(x) is int for x in (holder.attempt, holder.pid, holder.beat))
    return holder if sound else Holder()


def wait_until_free(
    output: str, storage: Storage, pace: Pace, say: Callable[[str], None], known_dead: Holder | None = None
) -> Holder | None:
    """Make sure that no run is at work on an output.

    Args:
        output: The folder.
        storage: Where it lies.
        pace: How long a lease is watched; counted in looks, so that a pause of this process never shortens it.
        say: Told why it takes long.
        known_dead: What an earlier call has returned, which need not be watched again.

    Returns:
        The lease of a run that has died; None where there is none.

    Raises:
        UsageError: A run is at work there.
    """
    found = read_lease(output, storage)
    if found is None or found == known_dead or _has_ended(found):
        return found
    say(
        f"{display_uri(output)} has a lease of a run on {found.host} (process {found.pid}) that has not ended; "
        f"watching {pace.watch_s:g} s whether it is alive"
    )
    pause = min(1.0, pace.beat_s / 2)
    for _ in range(math.ceil(pace.watch_s / pause)):
        time.sleep(pause)
        now = read_lease(output, storage)
        if now is None:
            return None
        if now != found:
            raise _at_work(output, now)
    say("it is not: this run takes over")
    return found


class Lease:
    """Holds an output for a run while entered, renewed by a thread; :func:`wait_until_free` comes before.

    Of two runs that take a lease at once the one of the higher rank keeps it, whoever wrote last: the other finds
    that out when it looks next. Where the store fails in passing, the lease is renewed later.

    Args:
        output: The folder.
        storage: Where it lies.
        holder: This run, from :func:`this_process`.
        pace: How often the lease is renewed.

    Raises:
        UsageError: On entering: another run has just taken it.
    """

    def __init__(self, output: str, storage: Storage, holder: Holder, pace: Pace) -> None:
        self._output = output
        self._storage = storage
        self._holder = holder
        self._pace = pace
        self._lost_to: Holder | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._beat()
        self._look()
        if self._lost_to is not None:
            raise _at_work(self._output, self._lost_to)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(self._pace.beat_s)
        try:
            found = read_lease(self._output, self._storage)
            if found is not None and found.rank == self._holder.rank:
                self._storage.delete(f"{self._output}/{LEASE}")
        except Exception as error:  # the next run will see that nobody renews it
            log.warning("the lease of %s could not be deleted: %s", display_uri(self._output), redact(str(error)))

    def check(self) -> None:
        """Raise when the lease is known to be lost; asks nobody.

        Raises:
            RunEndedError: Another run has taken the output over.
        """
        if (other := self._lost_to) is not None:
            raise RunEndedError(
                f"another run has taken over {display_uri(self._output)} ({other.host}, process {other.pid}), for this "
                "one gave no sign of life; run the same command again when that has ended"
            )

    def _look(self) -> None:
        found = read_lease(self._output, self._storage)
        if found is not None and found.rank > self._holder.rank:
            self._lost_to = found

    def _beat(self) -> None:
        self._look()
        if self._lost_to is None:
            self._holder = replace(self._holder, beat=self._holder.beat + 1)
            data = json.dumps(asdict(self._holder), indent=2).encode() + b"\n"
            self._storage.write_atomic(f"{self._output}/{LEASE}", data)

    def _renew(self) -> None:
        failing = False
        while self._lost_to is None and not self._stop.wait(self._pace.beat_s):
            try:
                self._beat()
                failing = False
            except Exception as error:
                if not failing:
                    where = display_uri(self._output)
                    log.warning("the lease of %s cannot be renewed, trying on: %s", where, redact(str(error)))
                failing = True


def _at_work(output: str, holder: Holder) -> UsageError:
    return UsageError(
        f"another run is at work on {display_uri(output)} ({holder.host}, process {holder.pid}); wait for it or stop it"
    )


def _has_ended(holder: Holder) -> bool:
    """Tell whether a run's process is known to be gone: only on its own machine, and where the system tells."""
    if holder.machine is None or holder.started is None or holder.machine != _machine():
        return False
    started = _started(holder.pid)
    if started is not None:
        return started != holder.started
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False  # it is there, and /proc hides it


def _machine() -> str | None:
    """Name this boot of this machine and this process's namespace of pids, as Linux does; containers differ in it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """Return when a process started, in ticks since boot, 0 for a zombie; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *numbers = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return 0 if state in (b"Z", b"X") else int(numbers[18])
