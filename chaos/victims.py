"""Whom to kill: processes of this soak, found by a mark in their environment."""

from __future__ import annotations

import os
from pathlib import Path

MARK = "SODBATCH_CHAOS_MARK"

KINDS = {"worker": b"ray::", "child": b"sodbatch.isolate"}
"""What the command line of a process of each kind holds: Ray's tasks and actors, and the processes of their stages."""

NO_VICTIM = b"Agent"
"""A node's own agents are called ``ray::`` too; a node dies with them, and the first carries cluster and driver."""


def processes(kind: str) -> list[int]:
    """Return the ids of the living processes of a kind that carry this soak's mark."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        command = _read(entry / "cmdline") if entry.name.isdigit() else b""
        if KINDS[kind] in command and NO_VICTIM not in command and mark in _read(entry / "environ"):
            found.append(int(entry.name))
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""
