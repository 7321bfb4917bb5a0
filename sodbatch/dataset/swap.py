"""Swap: several new files take the place of old ones, so that in the end all have or none has.

What is to be renamed is noted down first. If the process dies in it, :func:`finish_swap` does the rest.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from sodbatch.errors import UsageError
from sodbatch.storage.local import LEFTOVERS, read, write_atomic

_NOTE = ".sodbatch-swap.json"
_MAX_NOTE_BYTES = 1 << 16
_BACKUP = r"\.bak\d*"

CHANGES = ("convert", "split")
TARGETS = frozenset(
    [
        *(f"annotations/instance_{part}.json" for part in ("train", "val")),
        *(f"{part}_anno_list.txt" for part in ("train", "val")),
        "annotations/unlabeled.txt",
    ]
)
"""The files that a change may write."""


def new_name(target: str) -> str:
    """Return the name, relative to the data set, under which a file is written before it is swapped in."""
    folder, _, name = target.rpartition("/")
    return f"{folder}/.{name}.new" if folder else f".{name}.new"


def swap(folder: str, change: str, targets: Mapping[str, bool]) -> None:
    """Move files that lie under :func:`new_name` to where they belong.

    Args:
        folder: The data set.
        change: What is done to it, for whoever finishes it.
        targets: Those of :data:`TARGETS` that change; true where a file that is there is kept as ``.bak``.
    """
    root = Path(folder)
    steps = [
        {"target": name, "backup": _free_backup(root, name) if keep and (root / name).exists() else None}
        for name, keep in targets.items()
    ]
    write_atomic(str(root / _NOTE), json.dumps({"change": change, "steps": steps}).encode())
    finish_swap(folder)


def finish_swap(folder: str) -> str | None:
    """Finish a swap that was begun; return what change it was, None where there was none.

    Raises:
        UsageError: The note of it is none that this project would write; nothing is changed.
    """
    root = Path(folder)
    note = root / _NOTE
    if not os.path.lexists(note):
        return None
    change, steps = _read_note(note)
    for target, backup in steps:
        new = root / new_name(target)
        if new.is_file() and not new.is_symlink():  # else this step has been done
            if backup is not None and not (root / backup).exists():
                os.replace(root / target, root / backup)
            os.replace(new, root / target)
    for parent in {(root / target).parent for target, _ in steps} | {root}:
        for left in parent.glob(LEFTOVERS):  # of a process that died while it wrote
            left.unlink()
    note.unlink()
    return change


def _read_note(note: Path) -> tuple[str, list[tuple[str, str | None]]]:
    """Read what was begun. A data set may come from anybody: only files that a change writes are followed."""
    try:
        content = json.loads(read(str(note), _MAX_NOTE_BYTES))
        steps = [(step["target"], step["backup"]) for step in content["steps"]]
        known = all(target in TARGETS for target, _ in steps)
        backups = all(backup is None or re.fullmatch(re.escape(target) + _BACKUP, backup) for target, backup in steps)
        if content["change"] in CHANGES and known and backups:
            return content["change"], steps
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    raise UsageError(
        f"{note} should note a conversion or division that was interrupted, and holds something else: delete it, "
        f"after a look at annotations/ and its files that end in .new"
    )


def _free_backup(root: Path, name: str) -> str:
    """Return the name under which a file is kept: an older backup is not written over."""
    number, backup = 1, f"{name}.bak"
    while (root / backup).exists():
        number += 1
        backup = f"{name}.bak{number}"
    return backup
