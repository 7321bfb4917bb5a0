"""Trying a call to a store again after an error that may pass (fetching has its own, with a class for the row)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sodbatch.storage.errors import TransientError

T = TypeVar("T")

_PAUSE_S = 0.5


def with_retries(call: Callable[[], T], retries: int) -> T:
    """Return what a call returns; after a TransientError or TimeoutError call again, with doubled pauses."""
    for attempt in range(retries):
        try:
            return call()
        except (TransientError, TimeoutError):
            time.sleep(_PAUSE_S * 2**attempt)
    return call()
