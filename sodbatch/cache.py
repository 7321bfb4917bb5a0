"""Where downloaded models and converted graphs are kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Return ``$SODBATCH_CACHE``, else ``sodbatch`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("SODBATCH_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sodbatch"


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Make a folder that appears whole or not at all.

    Yields:
        An empty folder beside ``target``, with its name. At the end it becomes ``target``, unless another process was
        first; after an exception it goes away.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        yield folder
        try:
            os.rename(folder, target)
        except OSError:
            if not target.is_dir():
                raise
