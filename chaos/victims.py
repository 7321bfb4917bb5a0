"""Whom to kill: processes of this soak, found by a mark in their environment."""

from __future__ import annotations

import os
from pathlib import Path

MARK = "SODBATCH_CHAOS_MARK"

KINDS = {"worker": b"ray::", "child": b"sodbatch.isolate"}
"""What the command line of a process of each kind holds: Ray's tasks and actors, and the processes of their stages."""


def processes(kind: str) -> list[int]:
    """Return the ids of the living processes of a kind that carry this soak's mark."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and KINDS[kind] in _read(entry / "cmdline") and mark in _read(entry / "environ")
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""
