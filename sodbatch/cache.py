"""Where downloaded models and converted graphs are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$SODBATCH_CACHE``, else ``sodbatch`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("SODBATCH_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sodbatch"
