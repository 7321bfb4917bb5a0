"""A process that dies before one of its renames, as far as files can tell."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def dying_before_rename(number: int) -> Iterator[None]:
    """End the block at the rename of this number, from 0, without a word; it may also end before that."""
    left, replace = [number], os.replace

    def dying(source: Any, target: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "replace", dying)
        yield
