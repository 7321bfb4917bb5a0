"""Quarantine: the stages in processes of their own; a picture that kills its process twice is a failed row.

Nothing but the picture in hand is ever blamed: what else its process had not finished is done again.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.engine.pipeline import InferSpec, Loads
from sodbatch.errors import ErrorClass, JobError, PictureError
from sodbatch.isolate import Child, ChildDiedError, Journal, Stage

KILLS = 2
"""A picture with which its process has died so often is not tried again."""

KILLS_FROM_OUTSIDE = 4
"""The same, when it died of a signal that others send: by chance, that hits one picture twice sooner or later."""

IDLE_DEATHS = 10
"""Deaths of one call with nothing in hand, after which the run ends."""

Suspect = tuple[str, "int | None"]
"""Id of an input, and index of a page."""

_NOBODY: Suspect = ("", None)


class IsolatedLoad:
    """Load in a child process; called as Load is.

    A copy that is made by pickle is the same object within a process, so that all tasks that a worker runs share
    one child.
    """

    _of_process: ClassVar[IsolatedLoad | None] = None

    def __init__(self, load: Loads, stall_s: float, key: str | None = None) -> None:
        self._load = load
        self._stall_s = stall_s
        self._key = key or uuid.uuid4().hex
        self._child = Child(partial(_load_stage, load), "reading pictures")

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_of_process, (self._load, self._stall_s, self._key)

    def start(self) -> None:
        """Start the child ahead of the first call."""
        self._child.start()

    def close(self) -> None:
        """Stop the child."""
        self._child.close()

    def __call__(self, pending: pa.Table) -> Iterator[pa.Table]:
        """See :meth:`sodbatch.stages.Load.__call__`.

        Raises:
            JobError: The child dies again and again without anything in hand.
        """
        kills: Counter[tuple[str, int | None]] = Counter()
        while len(pending):
            loaded = _Loaded()
            try:
                for table in self._child.call(pending, self._stall_s):
                    loaded.add(table)
                    yield table
                    del table  # lets its memory be written again
                return
            except ChildDiedError as death:
                suspect = _suspect(pending, death)
                pending = loaded.subtract_from(pending)
                kills[suspect] += 1
                if suspect == _NOBODY and kills[_NOBODY] == IDLE_DEATHS:
                    raise JobError(f"the process that reads pictures has died {IDLE_DEATHS} times: {death}") from None
                if suspect != _NOBODY and kills[suspect] >= limit(death):
                    failed = self._failed(pending, suspect, kills[suspect], death)
                    loaded.add(failed)
                    yield failed
                    pending = loaded.subtract_from(pending)

    def _failed(self, pending: pa.Table, suspect: Suspect, kills: int, death: ChildDiedError) -> pa.Table:
        kind = ErrorClass.TIMEOUT if death.held.fetching else ErrorClass.DECODER_FAILURE
        row = pending.filter(pc.equal(pending["input_id"], suspect[0]))
        return self._load.failed(row, suspect[1], death.held.page_count, blame(kind, kills, death))


class IsolatedInfer:
    """Infer in a child process; called as Infer is.

    Args:
        spec: How to make the stage.
        max_seconds: The longest that one picture may take.
    """

    def __init__(self, spec: InferSpec, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._child = Child(partial(_infer_stage, spec), f"the model in {spec.folder.path}")

    def start(self) -> None:
        """Start the child ahead of the first call."""
        self._child.start()

    def close(self) -> None:
        """Stop the child."""
        self._child.close()

    def reason(self) -> str:
        """Return which backend was chosen, and why.

        Raises:
            UsageError: The model cannot be loaded.
        """
        return self._child.info()

    def __call__(self, loaded: pa.Table) -> pa.Table:
        """See :meth:`sodbatch.stages.Infer.__call__`."""
        try:
            return self._once(loaded)
        except ChildDiedError:
            return pa.concat_tables(self._alone(loaded.slice(index, 1)) for index in range(len(loaded)))

    def _once(self, loaded: pa.Table) -> pa.Table:
        return pa.concat_tables(self._child.call(loaded, self._max_seconds * max(1, len(loaded))))

    def _alone(self, row: pa.Table) -> pa.Table:
        """Infer one picture that was in hand when its process died."""
        kills = 1
        while True:
            try:
                return self._once(row)
            except ChildDiedError as death:
                kills += 1
                if kills >= limit(death):
                    return self._once(_without_pixels(row, blame(ErrorClass.PREDICTOR_FAILURE, kills, death)))


def limit(death: ChildDiedError) -> int:
    """Return at how many deaths what was in hand is to blame."""
    return KILLS_FROM_OUTSIDE if death.from_outside else KILLS


def blame(error_class: ErrorClass, kills: int, death: ChildDiedError) -> PictureError:
    """Return the error of a picture that has killed its process."""
    return PictureError(error_class, f"its process died {kills} times with this picture in hand ({death.reason})")


def _suspect(pending: pa.Table, death: ChildDiedError) -> Suspect:
    """Return what to blame; nobody is to blame for a process that dies while it waits for bytes."""
    held = death.held
    if held.row is None or (held.fetching and not death.stalled):
        return _NOBODY
    return pending["input_id"][held.row].as_py(), held.page


def _load_of_process(load: Loads, stall_s: float, key: str) -> IsolatedLoad:
    found = IsolatedLoad._of_process
    if found is not None and found._key == key:
        return found
    if found is not None:
        found.close()
    IsolatedLoad._of_process = IsolatedLoad(load, stall_s, key)
    return IsolatedLoad._of_process


def _load_stage(load: Loads) -> tuple[Stage, str]:
    import cv2

    cv2.setNumThreads(1)  # the other cores have work; its threads cost more than they save on a picture
    return load, ""


def _infer_stage(spec: InferSpec) -> tuple[Stage, str]:
    infer, reason = spec.create()

    def stage(rows: pa.Table, journal: Journal) -> Iterator[pa.Table]:
        yield infer(rows)

    return stage, reason


def _without_pixels(row: pa.Table, error: PictureError) -> pa.Table:
    """Make a loaded row a failed one."""
    changed: dict[str, Any] = {
        "pixels": None,
        "error_class": error.error_class.value,
        "error_message": error.message,
    }
    for name, value in changed.items():
        index = row.schema.get_field_index(name)
        row = row.set_column(index, row.schema.field(index), pa.array([value], row.schema.field(index).type))
    return row


class _Loaded:
    """What a call has yielded so far, by input."""

    def __init__(self) -> None:
        self._whole: set[str] = set()
        self._pages: dict[str, set[int]] = {}
        self._counts: dict[str, int] = {}

    def add(self, table: pa.Table) -> None:
        """Add a table of loaded rows."""
        for row in table.select(["input_id", "page_index", "page_count"]).to_pylist():
            if row["page_index"] is None:
                self._whole.add(row["input_id"])
            else:
                self._pages.setdefault(row["input_id"], set()).add(row["page_index"])
                self._counts[row["input_id"]] = row["page_count"]

    def subtract_from(self, pending: pa.Table) -> pa.Table:
        """Return the pending rows of which something is left, documents without the pages that are there."""
        rows = pending.select(["input_id", "page_count", "skip_pages"]).to_pylist()
        for row in rows:
            if pages := self._pages.get(row["input_id"]):
                row["page_count"] = self._counts[row["input_id"]]
                row["skip_pages"] = sorted(pages.union(row["skip_pages"] or ()))
        for name in ("page_count", "skip_pages"):
            index = pending.schema.get_field_index(name)
            field = pending.schema.field(index)
            pending = pending.set_column(index, field, pa.array([row[name] for row in rows], field.type))
        left = [
            row["input_id"] not in self._whole and len(row["skip_pages"] or ()) < (row["page_count"] or 1)
            for row in rows
        ]
        return pending.filter(pa.array(left, pa.bool_()))
