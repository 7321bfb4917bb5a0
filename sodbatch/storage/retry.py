"""Trying a call to a store again after an error that may pass (fetching has its own, with a class for the row)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sodbatch.config import FetchSection
from sodbatch.storage.errors import TransientError

T = TypeVar("T")

_MAX_PAUSE_S = 30.0


def with_retries(call: Callable[[], T], fetch: FetchSection) -> T:
    """Return what a call returns; after a TransientError or TimeoutError call again.

    The pauses double from ``backoff_s`` to 30 seconds.
    """
    for attempt in range(fetch.retries):
        try:
            return call()
        except (TransientError, TimeoutError):
            time.sleep(min(fetch.backoff_s * 2**attempt, _MAX_PAUSE_S))
    return call()
