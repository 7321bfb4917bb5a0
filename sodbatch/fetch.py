"""Fetch: sources to bytes, by a thread pool, with a time-out and a bounded number of retries.

What cannot be fetched is a :class:`PictureError`, the value of its row.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sodbatch.config import FetchSection, LimitsSection
from sodbatch.errors import ErrorClass, PictureError, UsageError
from sodbatch.storage import NotAFileError, Storage, TooLargeError, redact
from sodbatch.storage.retry import may_pass, with_retries

AHEAD_BYTES = 256 * 2**20
"""Fetching ahead of the consumer pauses while this much waits to be taken."""

_MAX_MESSAGE = 300
_MISSING_ERRNO = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class Fetcher:
    """Fetches sources; picklable, each process starts its own threads when it first needs them.

    Args:
        storage: Opens the sources.
        fetch: Threads, time-out of one attempt, retries, and the first pause between attempts.
        limits: ``max_bytes`` is the most that one source may have.
    """

    def __init__(self, storage: Storage, fetch: FetchSection, limits: LimitsSection) -> None:
        self._storage = storage
        self._fetch = fetch
        self._limits = limits
        self._pool: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Fetcher, (self._storage, self._fetch, self._limits)

    def fetch(self, source: str) -> bytes:
        """Fetch one source, trying again after errors that may pass.

        Raises:
            PictureError: It could not be fetched; its message shows no credentials.
        """
        if not source:
            raise PictureError(ErrorClass.MISSING, "the manifest names no path in this row")
        try:
            data = with_retries(lambda: self._storage.read_bytes(source, self._limits.max_bytes), self._fetch)
        except Exception as error:
            failure, tried_again = classify(error)
            if tried_again:
                failure = PictureError(failure.error_class, _after(failure.message, self._fetch.retries + 1))
            raise failure from error
        if not data:
            raise PictureError(ErrorClass.EMPTY, "0 bytes")
        return data

    def fetch_all(self, sources: Sequence[str]) -> Iterator[bytes | PictureError]:
        """Fetch many sources at once, in order.

        At most two sources a thread, and about ``AHEAD_BYTES``, are held ahead of the consumer.

        Yields:
            For each source its bytes, or the error that is its row's value.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._fetch.threads, thread_name_prefix="fetch")
        ahead: deque[Future[bytes | PictureError]] = deque()
        remaining = iter(sources)
        exhausted = False
        try:
            while True:
                while not exhausted and self._has_room(ahead):
                    source = next(remaining, None)
                    if source is None:
                        exhausted = True
                    else:
                        ahead.append(self._pool.submit(self._try_fetch, source))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def _has_room(self, ahead: deque[Future[bytes | PictureError]]) -> bool:
        if len(ahead) >= 2 * self._fetch.threads:
            return False
        results = (future.result() for future in ahead if future.done())
        return sum(len(result) for result in results if isinstance(result, bytes)) < AHEAD_BYTES

    def _try_fetch(self, source: str) -> bytes | PictureError:
        try:
            return self.fetch(source)
        except PictureError as error:
            return error


def classify(error: Exception) -> tuple[PictureError, bool]:
    """Say what an error of ``Storage.read_bytes`` means for its row, and whether another attempt may help."""
    strerror = error.strerror if isinstance(error, OSError) else None
    text = " ".join(redact(strerror or str(error) or type(error).__name__).split())
    return PictureError(_class_of(error), text[:_MAX_MESSAGE]), may_pass(error)


def _class_of(error: Exception) -> ErrorClass:
    if isinstance(error, TooLargeError):
        return ErrorClass.TOO_LARGE
    if isinstance(error, (NotAFileError, IsADirectoryError, UsageError)):  # UsageError: no package for the scheme
        return ErrorClass.UNSUPPORTED
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno in _MISSING_ERRNO):
        return ErrorClass.MISSING
    if isinstance(error, PermissionError):
        return ErrorClass.FORBIDDEN
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return ErrorClass.TIMEOUT
    if isinstance(error, ValueError):  # a path with a NUL character, a URL without a host
        return ErrorClass.MISSING
    return ErrorClass.UNAVAILABLE


def _after(message: str, attempts: int) -> str:
    return message if attempts == 1 else f"{message} (after {attempts} attempts)"
