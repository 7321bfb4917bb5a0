"""Local files: read without ever blocking, write atomically, walk in order."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

from sodbatch.storage.errors import NotAFileError, TooLargeError
from sodbatch.storage.info import FileInfo
from sodbatch.storage.uris import local_source

_PREFIX, _SUFFIX = ".sodbatch-", ".tmp"

LEFTOVERS = f"{_PREFIX}*{_SUFFIX}"
"""Names of files that a process has begun to write, which stay where it dies."""


def read(path: str, max_bytes: int | None = None) -> bytes:
    """Read a regular file whole.

    Raises:
        NotAFileError: A folder, FIFO, socket or device; these are never opened for reading.
        TooLargeError: More than ``max_bytes``.
        OSError: As ``open`` raises it.
    """
    _require_regular(path, os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        _require_regular(path, status.st_mode)
        if max_bytes is not None and status.st_size > max_bytes:
            raise TooLargeError(f"{status.st_size} bytes, more than the limit of {max_bytes}")
        return file.readall() if max_bytes is None else _read_at_most(file, max_bytes)


def _read_at_most(file: IO[bytes], max_bytes: int) -> bytes:
    """Read a file that may grow while it is read (or that says size 0, as those of /proc)."""
    chunks, total = [], 0
    while chunk := file.read(min(max_bytes + 1 - total, 1 << 24)):
        chunks.append(chunk)
        total += len(chunk)
        if total > max_bytes:
            raise TooLargeError(f"more than the limit of {max_bytes} bytes")
    return b"".join(chunks)


def _require_regular(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise NotAFileError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise NotAFileError(f"{path} is not a regular file (FIFO, socket or device)")


def write_atomic(path: str, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, also after a crash; makes missing folders."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, 0o666 & ~_umask())
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _umask() -> int:
    """Read the process's file mode mask without changing it where the kernel tells."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return 0o022


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot sync a folder; the rename holds all the same
    finally:
        os.close(descriptor)


def walk(folder: str, max_slashes: int | None = None) -> Iterator[str]:
    """Yield all files under a folder, in the order of the whole paths; one folder's names in memory.

    With ``max_slashes``, folders are not entered whose files' paths would have more slashes than that.

    Symbolic links to files are followed, those to folders are not (as ``os.walk``), so no loop is entered.

    Raises:
        OSError: A folder that cannot be read; nothing is skipped in silence.
    """
    folders = [(folder, iter(_names(folder)))]
    while folders:
        folder, names = folders[-1]
        for name in names:
            path = os.path.join(folder, name)
            if not name.endswith("/"):
                yield path
            elif max_slashes is None or path.count("/") <= max_slashes:
                folders.append((path[:-1], iter(_names(path))))
                break
        else:
            folders.pop()


def _names(folder: str) -> list[str]:
    """List a folder; a folder in it sorts as ``name/``, which makes the walk's order that of the whole paths."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if not _links_to_folder(entry)
        )


def _links_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link that leads to itself, or behind a folder that may not be entered
        return False


def list_files(folder: str) -> Iterator[FileInfo]:
    """Yield all files under a folder with size and etag, in the order of ``walk``; nothing without a folder."""
    if not os.path.isdir(folder):
        return
    for path in walk(os.path.abspath(folder)):
        try:
            status = os.stat(path)
        except OSError:  # a link that dangles or goes in a circle, or deleted since
            yield FileInfo(local_source(path), None, None)
        else:
            yield FileInfo(local_source(path), status.st_size, etag(status))


def any_file(folder: str, accept: Callable[[str], bool]) -> bool:
    """Tell whether a path that ``walk`` would yield is accepted; stops at the first, in no order."""
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif accept(entry.path) and not _links_to_folder(entry):
                    return True
    return False


def etag(status: os.stat_result) -> str:
    """Return what changes when a file's content is replaced: its time of change and its size."""
    return f"{status.st_mtime_ns}-{status.st_size}"
