"""Pending: the manifest minus what is committed, and minus repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from sodbatch.ids import IdSet, input_id
from sodbatch.ledger import Ledger
from sodbatch.manifest import Manifest
from sodbatch.storage import identity_column
from sodbatch.tables import PENDING


class Pending:
    """Streams the rows still to do, once, and counts what it passes over.

    Args:
        manifest: The inputs.
        ledger: What earlier runs have committed.
        on_end: Called with the number of inputs to do when the manifest has been listed whole.

    Attributes:
        listed: Ids of all distinct inputs seen so far.
        inputs: Their number.
        whole: The manifest has been listed to its end.
        repeats: Rows that named an input seen before.
        already_done: Distinct inputs that the ledger has.
    """

    def __init__(self, manifest: Manifest, ledger: Ledger, on_end: Callable[[int], None] | None = None) -> None:
        self._on_end = on_end
        self._manifest = manifest
        self._ledger = ledger
        self.listed = IdSet()
        self.whole = False
        self.inputs = 0
        self.repeats = 0
        self.already_done = 0

    @property
    def to_do(self) -> int:
        """Distinct inputs seen so far that are not committed."""
        return self.inputs - self.already_done

    def forget(self) -> None:
        """Let go of the ids, 16 bytes each; the counts stay."""
        self.listed = IdSet()

    def tables(self) -> Iterator[pa.Table]:
        """Yield tables of :data:`sodbatch.tables.PENDING` and the passed-through columns, none of them empty."""
        schema = pa.schema([*PENDING, *self._manifest.passthrough])
        for rows in self._manifest.tables():
            identities = identity_column(rows["source"], rows["uri"]).to_pylist()
            etags = rows["etag"].to_pylist()
            ids = pa.array(map(input_id, identities, etags), pa.string())
            first = self.listed.add(ids)
            done = first & self._ledger.done.contains(ids)
            self.inputs += int(np.count_nonzero(first))
            self.repeats += int(np.count_nonzero(~first))
            self.already_done += int(np.count_nonzero(done))
            keep = pa.array(first & ~done)
            if todo := keep.true_count:
                yield self._with_pages(rows.filter(keep), ids.filter(keep), todo).select(schema.names).cast(schema)
        self.whole = True
        self._ledger = Ledger()  # as large as what is listed, and asked no more
        if self._on_end is not None:
            self._on_end(self.to_do)

    def _with_pages(self, rows: pa.Table, ids: pa.Array, count: int) -> pa.Table:
        counts: list[int | None] = [None] * count
        pages: list[list[int] | None] = [None] * count
        if self._ledger.partial:
            for i, key in enumerate(ids.to_pylist()):
                if document := self._ledger.partial.get(key):
                    counts[i], pages[i] = document.page_count, sorted(document.pages)
        rows = rows.append_column("input_id", ids)
        rows = rows.append_column("page_count", pa.array(counts, pa.int32()))
        return rows.append_column("skip_pages", pa.array(pages, pa.list_(pa.int32())))
