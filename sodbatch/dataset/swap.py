"""Swap: several new files take the place of old ones, so that in the end all have or none has.

What is to be renamed is noted down first. If the process dies in it, :func:`finish_swap` does the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from sodbatch.storage.local import LEFTOVERS, write_atomic

_NOTE = ".sodbatch-swap.json"


def new_name(target: str) -> str:
    """Return the name, relative to the data set, under which a file is written before it is swapped in."""
    folder, _, name = target.rpartition("/")
    return f"{folder}/.{name}.new" if folder else f".{name}.new"


def swap(folder: str, change: str, targets: Mapping[str, bool]) -> None:
    """Move files that lie under :func:`new_name` to where they belong.

    Args:
        folder: The data set.
        change: What is done to it, for whoever finishes it.
        targets: Names relative to it; true where a file that is there is kept as ``.bak``.
    """
    root = Path(folder)
    steps = [
        {"target": name, "backup": _free_backup(root, name) if keep and (root / name).exists() else None}
        for name, keep in targets.items()
    ]
    write_atomic(str(root / _NOTE), json.dumps({"change": change, "steps": steps}).encode())
    finish_swap(folder)


def finish_swap(folder: str) -> str | None:
    """Finish a swap that was begun; return what change it was, None where there was none."""
    root = Path(folder)
    note = root / _NOTE
    if not note.exists():
        return None
    noted = json.loads(note.read_text())
    for step in noted["steps"]:
        target, new = root / step["target"], root / new_name(step["target"])
        if new.exists():  # else this step has been done
            backup = step["backup"]
            if backup is not None and not (root / backup).exists():
                os.replace(target, root / backup)
            os.replace(new, target)
    for parent in {(root / step["target"]).parent for step in noted["steps"]} | {root}:
        for left in parent.glob(LEFTOVERS):  # of a process that died while it wrote
            left.unlink()
    note.unlink()
    return str(noted["change"])


def _free_backup(root: Path, name: str) -> str:
    """Return the name under which a file is kept: an older backup is not written over."""
    number, backup = 1, f"{name}.bak"
    while (root / backup).exists():
        number += 1
        backup = f"{name}.bak{number}"
    return backup
