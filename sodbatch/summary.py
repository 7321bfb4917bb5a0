"""Summary: the tables counted from their files, for ``summary.json``, ``_SUCCESS`` and ``sodbatch show``."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sodbatch.ids import IdSet
from sodbatch.ledger import part_urls, read_parts
from sodbatch.storage import Storage, printable
from sodbatch.storage.retry import with_retries
from sodbatch.tables import FAILED, OK, TIMED_STAGES

WORST = 20
"""Examples of each error class that are kept."""


def count(output: str, storage: Storage) -> dict[str, Any]:
    """Count the tables of an output from their files alone.

    Returns:
        ``pictures`` (rows), ``ok``, ``failed``, ``doubles`` (rows whose id stands in another row too), ``inputs``
        (distinct), ``detections``, ``capped`` (pictures), ``errors`` (pictures by error class), ``classes`` (boxes by
        label), ``seconds`` (by stage, summed over workers), ``bytes`` (fetched), ``parts``.
    """
    images = part_urls(output, "images", storage)
    totals: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    seconds = dict.fromkeys(TIMED_STAGES, 0.0)
    ids, inputs = IdSet(), IdSet()
    columns = ["image_id", "input_id", "page_index", "status", "error_class", "num_detections", "capped", "file_bytes"]
    for rows in read_parts(images, [*columns, "detections.list.element.label"], storage):
        metadata = rows.schema.metadata or {}
        for stage in TIMED_STAGES:
            seconds[stage] += float(metadata.get(f"sodbatch.{stage}_seconds".encode(), 0.0))
        totals["pictures"] += len(rows)
        totals["doubles"] += len(rows) - int(ids.add(rows["image_id"]).sum())
        totals["inputs"] += int(inputs.add(rows["input_id"]).sum())
        for status in (OK, FAILED):
            totals[status] += pc.sum(pc.equal(rows["status"], status)).as_py() or 0
        totals["detections"] += pc.sum(rows["num_detections"]).as_py() or 0
        totals["capped"] += pc.sum(rows["capped"]).as_py() or 0
        first_page = pc.or_kleene(pc.is_null(rows["page_index"]), pc.equal(rows["page_index"], 0))
        totals["bytes"] += pc.sum(rows["file_bytes"].filter(first_page)).as_py() or 0
        errors.update(_histogram(rows["error_class"]))
        classes.update(_histogram(pc.struct_field(pc.list_flatten(rows["detections"]), "label")))
    names = ("inputs", "pictures", OK, FAILED, "doubles", "detections", "capped", "bytes")
    counted: dict[str, Any] = {name: totals[name] for name in names}
    return counted | {
        "errors": dict(errors.most_common()),
        "classes": dict(classes.most_common()),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "parts": len(images),
    }


def _histogram(column: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(column.drop_null())
    return {str(entry["values"]): entry["counts"].as_py() for entry in counts}


def worst_errors(output: str, storage: Storage, most: int = WORST) -> list[dict[str, Any]]:
    """Return failed pictures, the commonest error classes first, at most ``most`` of each class."""
    kept: dict[str, list[dict[str, Any]]] = {}
    totals: Counter[str] = Counter()
    columns = ["uri", "page_index", "status", "error_class", "error_message"]
    for rows in read_parts(part_urls(output, "images", storage), columns, storage):
        for row in rows.filter(pc.equal(rows["status"], FAILED)).drop_columns(["status"]).to_pylist():
            totals[row["error_class"]] += 1
            examples = kept.setdefault(row["error_class"], [])
            if len(examples) < most:
                examples.append(row)
    return [row for error_class, _ in totals.most_common() for row in kept[error_class]]


def show(output: str, storage: Storage) -> str:
    """Describe an output from its files alone, for a person."""
    counted = count(output, storage)
    finished = storage.exists(f"{output}/_SUCCESS")
    summary = _read_summary(output, storage) if finished else {}
    lines = [
        f"{output}: {'finished' if finished else 'not finished: run the same command again to go on'}",
        f"  inputs      {counted['inputs']:>12,}",
        f"  pictures    {counted['pictures']:>12,}   ok {counted[OK]:,}, failed {counted[FAILED]:,}",
        f"  detections  {counted['detections']:>12,}   {counted['capped']:,} pictures capped",
        f"  parts       {counted['parts']:>12,}",
    ]
    if counted["doubles"]:
        lines.append(f"  doubles     {counted['doubles']:>12,}   the same command takes them out")
    if summary:
        lines.append(f"  model       {summary['model_name']}, threshold {summary['threshold']}")
    lines += _block("classes", counted["classes"]) + _block("errors", counted["errors"])
    for row in worst_errors(output, storage, most=5):
        page = "" if row["page_index"] is None else f" page {row['page_index']}"
        lines.append(printable(f"    {row['error_class']}: {row['uri']}{page}: {row['error_message']}"))
    return "\n".join(lines)


def _read_summary(output: str, storage: Storage) -> dict[str, Any]:
    try:
        data = with_retries(lambda: storage.read_bytes(f"{output}/summary.json"), storage.fetch_section)
    except FileNotFoundError:
        return {}
    return dict(json.loads(data))


def _block(title: str, counts: dict[str, int]) -> list[str]:
    width = max(map(len, counts), default=0)
    return [f"  {title}"] + [f"    {name:<{width}} {number:>10,}" for name, number in counts.items()] if counts else []
