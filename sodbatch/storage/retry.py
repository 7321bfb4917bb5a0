"""Trying a call to a store again after an error that may pass.

This is the one place that decides how often: a store sees at most ``Fetch.retries`` + 1 attempts, and what lies below,
s3fs and botocore, is told not to try again itself. Beneath those, aiohttp sends a request twice where the connection
that it had kept open breaks.
"""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from sodbatch.config import FetchSection
from sodbatch.storage.errors import TransientError

T = TypeVar("T")

MAX_PAUSE_S = 30.0
"""The longest pause between two attempts."""

_TRANSIENT_ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ESTALE, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED,
    errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EREMOTEIO,
    errno.EMFILE, errno.ENFILE,
}  # fmt: skip


def with_retries(call: Callable[[], T], fetch: FetchSection) -> T:
    """Return what a call returns; after an error that may pass call again, ``fetch.retries`` times at most.

    Raises:
        Exception: What the last call raised.
    """
    for attempt in range(fetch.retries):
        try:
            return call()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(pause_s(fetch.backoff_s, attempt))
    return call()


def longest_s(fetch: FetchSection) -> float:
    """Return how long a call may take with all its attempts and the pauses between them, in seconds."""
    return (fetch.retries + 1) * (fetch.timeout_s + MAX_PAUSE_S)


def may_pass(error: Exception) -> bool:
    """Tell whether another attempt may help."""
    if isinstance(error, (TransientError, TimeoutError, asyncio.TimeoutError, ConnectionError)):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO


def pause_s(backoff_s: float, attempt: int) -> float:
    """Return the pause after an attempt (from 0): doubled each time, bounded, times a random 0.5 to 1.

    The chance keeps workers that a store has turned away together from coming back together.
    """
    return float(min(backoff_s * 2**attempt, MAX_PAUSE_S) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
