"""Link: messages between a parent and its child over a socket, with tables in memory that both have mapped.

A table travels as an Arrow stream in a memory file, whose descriptor goes over the socket once. When the receiver has
let go of the table, the sender writes the next to the same memory: new memory costs more than the copy into it.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import socket
import struct
import tempfile
import weakref
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

_HEADER = struct.Struct("!cQiQH")
"""Kind; bytes of the payload; number of the table's memory, -1 without a table; bytes of the table; how many numbers
are given back, which follow."""

_NUMBER = struct.Struct("!I")
_NONE = -1

ROOM = 8
"""Memory is made larger than its first table by this part of it, since the next is seldom of the very same size."""


class Link:
    """One end of a connection.

    Args:
        connection: A stream socket of the Unix family.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._outbox = _Outbox()
        self._inbox = _Inbox()

    def send(self, kind: bytes, payload: bytes = b"", table: pa.Table | None = None) -> None:
        """Send a message: one byte that says its kind, any bytes, and at most one table.

        Raises:
            OSError: The other side has gone.
        """
        number, size, new_file = (_NONE, 0, None) if table is None else self._outbox.put(table)
        back = self._inbox.given_back()
        header = _HEADER.pack(kind, len(payload), number, size, len(back))
        message = header + b"".join(map(_NUMBER.pack, back)) + payload
        if new_file is None:
            self._socket.sendall(message)
            return
        try:
            sent = socket.send_fds(self._socket, [message], [new_file])
        finally:
            os.close(new_file)
        self._socket.sendall(message[sent:])

    def readable(self, timeout_s: float) -> bool:
        """Wait for a message, or for the other side to close."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(timeout_s * 1000))

    def receive(self) -> tuple[bytes, bytes, pa.Table | None]:
        """Return the next message; its table is valid as long as anything refers to it.

        Raises:
            EOFError: The other side has closed.
        """
        header, files, _, _ = socket.recv_fds(self._socket, _HEADER.size, 1)
        kind, length, number, size, count = _HEADER.unpack(header + self._exactly(_HEADER.size - len(header)))
        back = self._exactly(_NUMBER.size * count)
        self._outbox.take_back(found for (found,) in _NUMBER.iter_unpack(back))
        payload = self._exactly(length)
        if number == _NONE:
            return kind, payload, None
        return kind, payload, self._inbox.table(number, size, files[0] if files else None)

    def close(self) -> None:
        """Close the socket; tables that were received stay valid."""
        self._socket.close()

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


class _Outbox:
    """The memory of tables that were sent, by number, and which of it can be written again."""

    def __init__(self) -> None:
        self._memory: list[mmap.mmap] = []
        self._free: list[int] = []

    def put(self, table: pa.Table) -> tuple[int, int, int | None]:
        """Write a table; return its number, its bytes, and the file to send where the memory is new."""
        counter = pa.MockOutputStream()
        _write(table, counter)
        size, new_file = counter.size(), None
        if self._free:
            number = self._free.pop()
        else:
            number = len(self._memory)
            self._memory.append(mmap.mmap(-1, 1))
        if len(self._memory[number]) < size:
            new_file = memory_file(size + size // ROOM)
            try:
                self._memory[number] = mmap.mmap(new_file, 0)
            except BaseException:
                os.close(new_file)
                raise
        _write(table, pa.FixedSizeBufferWriter(pa.py_buffer(self._memory[number])))
        return number, size, new_file

    def take_back(self, numbers: Iterable[int]) -> None:
        """Let memory be written again."""
        self._free.extend(numbers)


class _Inbox:
    """The memory of tables that were received, by number, and which of it nothing refers to any more."""

    def __init__(self) -> None:
        self._memory: dict[int, mmap.mmap] = {}
        self._back: list[int] = []

    def table(self, number: int, size: int, new_file: int | None) -> pa.Table:
        """Return the table of that number; the file is closed here."""
        if new_file is not None:
            try:
                self._memory[number] = mmap.mmap(new_file, 0, prot=mmap.PROT_READ)
            finally:
                os.close(new_file)
        if number not in self._memory or len(self._memory[number]) < size:  # the kernel drops files over the limit
            raise OSError(errno.EMFILE, "the memory of a table did not arrive: too many open files")
        view = np.frombuffer(self._memory[number], np.uint8, size)
        weakref.finalize(view, self._back.append, number).atexit = False
        return pa.ipc.open_stream(pa.py_buffer(view)).read_all()

    def given_back(self) -> list[int]:
        """Return what has been let go since the last call."""
        return [self._back.pop() for _ in range(len(self._back))]


def memory_file(size: int) -> int:
    """Return the descriptor of a new file without a name: in memory on Linux, elsewhere in the temporary folder."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sodbatch")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _write(table: pa.Table, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
