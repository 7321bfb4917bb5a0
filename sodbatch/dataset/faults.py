"""Faults: the table of where a data set breaks its rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.dataset.rules import RULES, Severity
from sodbatch.storage import redact

SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), metadata={"doc": "train, val, or both"}),
        pa.field("file", pa.string(), metadata={"doc": "the annotation file or picture, without secrets"}),
        pa.field("record", pa.string(), metadata={"doc": "kind and id of the record; its place where it has no id"}),
        pa.field("rule", pa.string(), nullable=False, metadata={"doc": "the rule that is broken"}),
        pa.field("severity", pa.string(), nullable=False, metadata={"doc": "error or warning"}),
        pa.field("detail", pa.string(), nullable=False, metadata={"doc": "what was found, and what was expected"}),
    ]
)
"""Of ``report.parquet``: one row a fault."""

ROWS = 4096
"""Faults that are kept one by one before they become a table."""


class Faults:
    """Collects faults.

    Args:
        severities: Of rules that differ from their own.

    Attributes:
        counts: Faults by rule.
    """

    def __init__(self, severities: Mapping[str, Severity]) -> None:
        self._severity = {name: severities.get(name, rule.severity) for name, rule in RULES.items()}
        self._tables: list[pa.Table] = []
        self._rows: list[tuple[str, str, str | None, str, str, str]] = []
        self.counts: Counter[str] = Counter()

    def wants(self, rule: str) -> bool:
        """Tell whether a rule is not switched off."""
        return self._severity[rule] != "off"

    def add(self, rule: str, part: str, file: str, record: str | None, detail: str) -> None:
        """Add one fault."""
        if not self.wants(rule):
            return
        self._rows.append((part, file, record, rule, self._severity[rule], redact(detail)))
        self.counts[rule] += 1
        if len(self._rows) == ROWS:
            self._pack()

    def _pack(self) -> None:
        """Make a table of single faults: as one each they would take several kilobytes."""
        if self._rows:
            self._tables.append(pa.table(list(map(list, zip(*self._rows, strict=True))), schema=SCHEMA))
            self._rows = []

    def add_all(
        self, rule: str, part: str, files: Sequence[str], records: Iterable[str | None], details: Iterable[str]
    ) -> None:
        """Add faults of one rule, of aligned files, records and details."""
        if not files or not self.wants(rule):
            return
        count = len(files)
        said = [redact(detail) for detail in details]
        columns = [[part] * count, files, list(records), [rule] * count, [self._severity[rule]] * count, said]
        self._tables.append(pa.table(columns, schema=SCHEMA))
        self.counts[rule] += count

    @property
    def errors(self) -> int:
        """Faults of severity ``error``."""
        return sum(count for rule, count in self.counts.items() if self._severity[rule] == "error")

    @property
    def warnings(self) -> int:
        """Faults of severity ``warning``."""
        return self.counts.total() - self.errors

    def table(self) -> pa.Table:
        """Return all faults, errors first, in the order of the rules."""
        self._pack()
        rows = pa.concat_tables([SCHEMA.empty_table(), *self._tables])
        keys = pc.index_in(rows["rule"], pa.array(list(RULES)))
        ordered = rows.append_column("order", keys).sort_by([("severity", "ascending"), ("order", "ascending")])
        return ordered.drop_columns("order")
