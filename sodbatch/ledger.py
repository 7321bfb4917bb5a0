"""The ledger: ``OUT/images`` read back as what is committed, settled and counted.

A row counts as committed from the moment its part is visible in ``OUT/images``; nothing else is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sodbatch.errors import JobError
from sodbatch.ids import PART_NAME, IdSet
from sodbatch.storage import Storage, display_uri
from sodbatch.storage.retry import with_retries
from sodbatch.tables import FAILED, OK, explode_detections, to_parquet

READERS = 16
"""Threads that read parts at the same time: enough to hide an object store's latency."""

PART_TIMEOUT_S = 300.0
"""The longest that reading one part may take; ``Fetch.timeout_s`` is meant for a picture."""

FINGERPRINT_KEY = "sodbatch.run_fingerprint"
"""Where the metadata of a part of ``images`` says the fingerprint of the run that wrote it."""


@dataclass
class Document:
    """The committed pages of one input with pages."""

    page_count: int
    pages: set[int] = field(default_factory=set)


@dataclass
class Ledger:
    """What is committed.

    Attributes:
        done: Ids of the inputs that have nothing left to do.
        partial: Inputs of which some pages are missing, by input id.
    """

    done: IdSet = field(default_factory=IdSet)
    partial: dict[str, Document] = field(default_factory=dict)


def part_urls(output: str, table: str, storage: Storage) -> list[str]:
    """List the parts of one table, sorted; an output that does not exist has none."""
    files = storage.list_files(f"{output}/{table}")
    return sorted(info.url for info in files if PART_NAME.fullmatch(info.url.rpartition("/")[2]))


def read_parts(urls: Iterable[str], columns: list[str], storage: Storage) -> Iterator[pa.Table]:
    """Read columns of many parts, a few at a time, in the order given.

    A part is fetched whole, in one request: opened as a file it costs three, one after another, and as many bytes.
    """

    def read(url: str) -> pa.Table:
        data = with_retries(lambda: storage.read_bytes(url, timeout_s=PART_TIMEOUT_S), storage.fetch_section)
        try:
            return pq.ParquetFile(pa.BufferReader(data)).read(columns)
        except (pa.ArrowException, OSError) as error:
            raise JobError(
                f"{display_uri(url)} is damaged ({len(data):,} bytes, {str(error).partition('.')[0]}): delete it and "
                "the file of that name in the other table, and the same command makes its pictures again"
            ) from error

    urls = list(urls)
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(urls), 4 * READERS):
            yield from pool.map(read, urls[start : start + 4 * READERS])


def read_ledger(output: str, fingerprint: str, storage: Storage, *, redo_failed_before: int = 0) -> Ledger:
    """Read what is committed on an output.

    Args:
        output: Folder of the tables.
        fingerprint: Of the run; what a late writer of another has left does not count.
        storage: Where it lies.
        redo_failed_before: Failed pictures of an attempt under this one count as not done.
    """
    ledger = Ledger()
    columns = ["input_id", "page_index", "page_count", "status", "attempt"]
    for rows in read_parts(part_urls(output, "images", storage), columns, storage):
        if is_stray(rows, fingerprint):
            continue
        rows = rows.filter(pc.or_(pc.equal(rows["status"], OK), pc.greater_equal(rows["attempt"], redo_failed_before)))
        single = pc.is_null(rows["page_index"])
        ledger.done.add(rows["input_id"].filter(single))
        _add_pages(ledger, rows.filter(pc.invert(single)))
    complete = [key for key, document in ledger.partial.items() if len(document.pages) >= document.page_count]
    for key in complete:
        del ledger.partial[key]
    ledger.done.add(pa.array(complete, pa.string()))
    return ledger


def _add_pages(ledger: Ledger, pages: pa.Table) -> None:
    """Add rows of pages; documents that lie whole in one part, nearly all, never become Python objects."""
    documents = pages.group_by("input_id").aggregate([("page_index", "count_distinct"), ("page_count", "max")])
    whole = pc.greater_equal(documents["page_index_count_distinct"], documents["page_count_max"])
    ledger.done.add(documents["input_id"].filter(whole))
    split = documents["input_id"].filter(pc.invert(whole))
    for row in pages.filter(pc.is_in(pages["input_id"], split.combine_chunks())).to_pylist():
        document = ledger.partial.setdefault(row["input_id"], Document(row["page_count"]))
        document.pages.add(row["page_index"])


def is_stray(rows: pa.Table, fingerprint: str) -> bool:
    """Tell whether a part of ``images`` is that of a run of another fingerprint, and so no part of the tables."""
    return (rows.schema.metadata or {}).get(FINGERPRINT_KEY.encode()) != fingerprint.encode()


def settle(output: str, fingerprint: str, check_ours: Callable[[], None], storage: Storage) -> int:
    """Make the tables say each picture once, and return how many rows that took out.

    Parts of another fingerprint, which a late writer has left, go. Of several rows with one id the latest attempt
    stays, then an ok row, then the first part by name. The failure of a whole document goes when its pages are there.
    ``detections`` is then made to follow ``images``: a part whose writer was killed between the two is deleted or
    written again. Every step can be repeated after a kill.

    Args:
        output: Folder of the tables.
        fingerprint: Of the run.
        check_ours: Called before each change; raises where the output is another run's by now.
        storage: Where it lies.
    """
    check_ours()
    listed = part_urls(output, "images", storage)
    suspects = _suspects(listed, fingerprint, storage)
    for url in suspects.strays:
        check_ours()
        storage.delete(url)
    images = [url for url in listed if url not in suspects.strays]
    superseded = _superseded(images, suspects, storage)
    for url, ids in superseded.items():
        kept = _without(_read_part(url, storage), ids)
        suspects.boxes[url] = pc.sum(kept["num_detections"]).as_py() or 0
        check_ours()
        storage.write_atomic(url, to_parquet(kept))
    detections = set(part_urls(output, "detections", storage))
    for url in detections - {_detections_part(url) for url in images}:
        check_ours()
        storage.delete(url)
    with ThreadPoolExecutor(READERS) as pool:
        followers = [_detections_part(url) for url in images]
        rows = pool.map(lambda url: _num_rows(url, storage) if url in detections else None, followers)
        late = [url for url, found in zip(images, rows, strict=True) if found != suspects.boxes[url]]
    for url in late:
        boxes = to_parquet(explode_detections(_read_part(url, storage)))
        check_ours()
        storage.write_atomic(_detections_part(url), boxes)
    return sum(len(ids) for ids in superseded.values())


def _read_part(url: str, storage: Storage) -> pa.Table:
    with storage.open(url) as file:
        return pq.ParquetFile(file).read()


def _num_rows(url: str, storage: Storage) -> int:
    with storage.open(url) as file:
        return pq.ParquetFile(file).metadata.num_rows


def _without(rows: pa.Table, ids: set[str]) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(sorted(ids), pa.string()))))


def _detections_part(url: str) -> str:
    """Return the part of ``detections`` that belongs to a part of ``images``."""
    root, _, name = url.rpartition("/images/")
    return f"{root}/detections/{name}"


class _Suspects(NamedTuple):
    """What may have to be taken out.

    Attributes:
        doubled: Ids that stand in more than one row.
        unopened: Ids of documents that failed whole while others have pages.
        strays: Parts of another fingerprint.
        boxes: How many boxes each other part has.
    """

    doubled: pa.Array
    unopened: pa.Array
    strays: set[str]
    boxes: dict[str, int]


def _superseded(images: list[str], found: _Suspects, storage: Storage) -> dict[str, set[str]]:
    """Find the rows that another row supersedes, as ids by part; memory grows with them, not with the tables."""
    if len(found.doubled) == len(found.unopened) == 0:
        return {}
    suspects = pa.concat_arrays([found.doubled, found.unopened])
    columns = ["image_id", "input_id", "page_index", "status", "attempt"]
    opened: set[str] = set()
    candidates: list[tuple[str, tuple[int, bool, int]]] = []
    for position, rows in enumerate(read_parts(images, columns, storage)):
        with_pages = rows.filter(pc.and_(pc.is_valid(rows["page_index"]), pc.is_in(rows["input_id"], found.unopened)))
        opened.update(with_pages["input_id"].to_pylist())
        for row in rows.filter(pc.is_in(rows["image_id"], suspects)).to_pylist():
            candidates.append((row["image_id"], (row["attempt"], row["status"] == OK, -position)))
    winners: dict[str, tuple[int, bool, int]] = {}
    for image_id, rank in candidates:
        if image_id not in opened:
            winners[image_id] = max(rank, winners.get(image_id, rank))
    losers: dict[str, set[str]] = {}
    for image_id, rank in candidates:
        if winners.get(image_id) != rank:
            losers.setdefault(images[-rank[2]], set()).add(image_id)
    return losers


def _suspects(images: list[str], fingerprint: str, storage: Storage) -> _Suspects:
    """Find what may have to be taken out, in one pass."""
    seen, any_pages = IdSet(), False
    doubled: set[str] = set()
    unopened: set[str] = set()
    strays: set[str] = set()
    boxes: dict[str, int] = {}
    columns = ["image_id", "page_index", "status", "num_detections"]
    for url, rows in zip(images, read_parts(images, columns, storage), strict=True):
        if is_stray(rows, fingerprint):
            strays.add(url)
            continue
        boxes[url] = pc.sum(rows["num_detections"]).as_py() or 0
        doubled.update(rows["image_id"].filter(pa.array(~seen.add(rows["image_id"]))).to_pylist())
        single = pc.is_null(rows["page_index"])
        any_pages = any_pages or not pc.all(single).as_py()
        unopened.update(rows["image_id"].filter(pc.and_(single, pc.equal(rows["status"], FAILED))).to_pylist())
    opened = pa.array(sorted(unopened) if any_pages else [], pa.string())
    return _Suspects(pa.array(sorted(doubled), pa.string()), opened, strays, boxes)
