"""Isolate: a stage in a child process, whose death is an exception here and not the end of this process.

Parent and child share a :class:`sodbatch.link.Link` and a :class:`Journal`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from sodbatch.errors import JobError, UsageError
from sodbatch.link import Link, memory_file
from sodbatch.storage import redact

TABLES_AHEAD = 2
"""Tables that a child makes ahead of those that have been taken."""

START_TRIES = 4
"""How often a child is started before that is given up."""

_RUN, _TAKEN, _READY, _TABLE, _END, _ERROR = b"r", b"a", b"y", b"t", b"e", b"x"
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from sodbatch.isolate import serve; serve(*map(int, sys.argv[1:3]))"


@dataclass(frozen=True)
class Held:
    """What a child had in hand.

    Attributes:
        moves: How often that has changed.
        row: Index of the row; None when it had nothing in hand.
        page: Index of the page; None for a picture, or a document that is being opened.
        page_count: Pages of the document.
        fetching: The row's bytes were not there yet.
    """

    moves: int
    row: int | None
    page: int | None
    page_count: int
    fetching: bool


class Journal:
    """What the child has in hand, in memory that outlives it; written by the child, read by the parent."""

    _RECORD = struct.Struct("qqqq")
    _NONE, _WHOLE, _FETCHING = -1, -1, -2

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, self._RECORD.size)
        self._moves = 0

    @classmethod
    def create(cls) -> tuple[Journal, int]:
        """Make an empty one; also return the descriptor of its memory, which is the caller's to close."""
        descriptor = memory_file(cls._RECORD.size)
        return cls(descriptor), descriptor

    def idle(self) -> None:
        """The child has nothing in hand."""
        self._write(self._NONE, self._WHOLE, 0)

    def fetching(self, row: int) -> None:
        """The child waits for a row's bytes."""
        self._write(row, self._FETCHING, 0)

    def decoding(self, row: int, page: int | None = None, page_count: int = 1) -> None:
        """The child decodes a picture, opens a document, or decodes one of its pages."""
        self._write(row, self._WHOLE if page is None else page, page_count)

    def read(self) -> Held:
        """Return the last entry."""
        moves, row, page, page_count = self._RECORD.unpack(self._memory[:])
        in_hand = moves > 0 and row != self._NONE
        return Held(moves, row if in_hand else None, page if page >= 0 else None, page_count, page == self._FETCHING)

    def _write(self, row: int, page: int, page_count: int) -> None:
        self._moves += 1
        self._memory[:] = self._RECORD.pack(self._moves, row, page, page_count)


class Stage(Protocol):
    """What runs in a child."""

    def __call__(self, rows: pa.Table, journal: Journal, /) -> Iterator[pa.Table]:
        """Yield tables made from rows, saying in the journal what is in hand."""


class ChildDiedError(Exception):
    """The child ended before it had finished a call.

    Attributes:
        reason: Such as ``SIGSEGV``.
        held: What it had in hand.
        from_outside: It was a signal that others send (a person, an operating system short of memory), so that what
            was in hand is not yet to blame.
        stalled: It was killed from here, since it had not moved for too long.
    """

    def __init__(self, reason: str, held: Held, *, from_outside: bool = False, stalled: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.held = held
        self.from_outside = from_outside
        self.stalled = stalled


class Child:
    """Runs a stage in a child process, which is started when it is first needed and again after it has died.

    Args:
        create: Makes the stage, in the child; returns with it what is to be known of it. Picklable.
        name: What the process does, for errors.
    """

    def __init__(self, create: Callable[[], tuple[Stage, str]], name: str) -> None:
        self._create = create
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._info = ""
        self._ready = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        if self._process is not None:
            return
        self._journal, journal = Journal.create()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(journal), *sys.path]
        output = None if os.environ.get("SODBATCH_DEBUG") == "1" else subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(theirs.fileno(), journal)
            )
        finally:
            theirs.close()
            os.close(journal)
        self._link = Link(ours)
        self._ready = False
        self._link.send(_RUN, pickle.dumps(self._create))

    def info(self) -> str:
        """Return what ``create`` said of the stage, when that is there.

        Raises:
            UsageError: ``create`` raised it, or killed its process.
            JobError: The process was killed from outside, again and again.
        """
        for _ in range(START_TRIES):
            try:
                self._wait_until_ready()
            except ChildDiedError as error:
                death = error
            else:
                return self._info
        if death.from_outside:
            raise JobError(
                f"the process of {self._name} was killed from outside when it started ({death.reason}, {START_TRIES} "
                "times): by a person, or by the system for want of memory; the same command goes on"
            )
        raise UsageError(f"{self._name} kills its process when it starts ({death.reason}, {START_TRIES} times)")

    def call(self, rows: pa.Table, stall_s: float) -> Iterator[pa.Table]:
        """Yield what the stage makes of rows.

        Args:
            rows: The stage's input.
            stall_s: Without a table and without a move in the journal for so many seconds, the child is killed.

        Raises:
            ChildDiedError: The child ended; the next call starts another.
        """
        with self._lock:
            ended = False
            try:
                self.info()
                self._send(_RUN, rows)
                while True:
                    kind, payload, table = self._receive(stall_s)
                    if kind == _END:
                        ended = True
                        return
                    if kind == _ERROR:
                        ended = True
                        raise _error(payload)
                    if table is not None:
                        yield table
                        table = None  # lets its memory be written again
                        self._send(_TAKEN)
            finally:
                if not ended:
                    self._stop()

    def close(self) -> None:
        """Stop the process."""
        with self._lock:
            self._stop()

    def _wait_until_ready(self) -> None:
        self.start()
        if self._ready:
            return
        kind, payload, _ = self._receive(None)
        if kind == _ERROR:
            self._stop()
            raise _error(payload)
        self._info, self._ready = payload.decode(), True

    def _send(self, kind: bytes, table: pa.Table | None = None) -> None:
        try:
            self._link.send(kind, table=table)
        except OSError as error:
            raise self._death() from error

    def _receive(self, stall_s: float | None) -> tuple[bytes, bytes, pa.Table | None]:
        since, moves = time.monotonic(), 0
        while not self._link.readable(1.0):
            held = self._journal.read()
            if held.moves != moves:
                since, moves = time.monotonic(), held.moves
            elif stall_s is not None and time.monotonic() - since > stall_s:
                self._stop()
                raise ChildDiedError(f"no sign of life for {stall_s:g} s", held, stalled=True)
        try:
            return self._link.receive()
        except (EOFError, OSError) as error:
            raise self._death() from error

    def _death(self) -> ChildDiedError:
        """Find out how the child ended."""
        held = self._journal.read()
        code = self._stop(wait_s=10.0)
        if code < 0:
            return ChildDiedError(signal.Signals(-code).name, held, from_outside=-code in _FROM_OUTSIDE)
        return ChildDiedError(f"exit code {code}", held)

    def _stop(self, wait_s: float = 0.0) -> int:
        """End the process, which may be ending by itself; return its exit code, or minus its signal."""
        if self._process is None:
            return 0
        self._link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        self._process.kill()
        code = self._process.wait()
        self._process, self._ready = None, False
        del self._link, self._journal
        return code


def serve(socket_fd: int, journal_fd: int) -> None:
    """Be a child: make the stage, then answer calls until the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to act on
    link, journal = Link(socket.socket(fileno=socket_fd)), Journal(journal_fd)
    threading.Thread(target=_end_with_parent, args=(socket_fd,), daemon=True).start()
    try:
        stage, info = pickle.loads(link.receive()[1])()  # noqa: S301 - from the parent, which is this program
    except Exception as error:
        link.send(_ERROR, _described(error))
        return
    link.send(_READY, info.encode())
    while True:
        kind, _, rows = link.receive()
        if kind == _RUN:
            _answer(link, journal, stage, rows)


def _answer(link: Link, journal: Journal, stage: Stage, rows: Any) -> None:
    ahead = 0
    journal.idle()
    try:
        for table in stage(rows, journal):
            if ahead == TABLES_AHEAD:
                link.receive()
                ahead -= 1
            link.send(_TABLE, table=table)
            ahead += 1
    except Exception as error:
        link.send(_ERROR, _described(error))
    else:
        link.send(_END)


def _end_with_parent(socket_fd: int) -> None:
    """End this process as soon as the other side of the socket is closed, whatever it is doing."""
    waiting = select.poll()
    waiting.register(socket_fd, 0)
    waiting.poll()
    os._exit(1)


def _described(error: Exception) -> bytes:
    """Describe an error of this package as it is, and any other as a JobError of one line."""
    if isinstance(error, (UsageError, JobError)):
        kind, text = type(error).__name__, str(error)
    else:
        kind, text = "JobError", redact(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    return json.dumps([kind, text]).encode()


def _error(description: bytes) -> UsageError | JobError:
    """Make the error that the child has described; what comes from there is data, never code."""
    kind, text = json.loads(description)
    return UsageError(text) if kind == "UsageError" else JobError(text)
