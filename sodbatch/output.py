"""The output folder: whose it is, which run this is on it, and how a run is declared finished."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from sodbatch.errors import UsageError
from sodbatch.ledger import part_urls, read_parts
from sodbatch.record import RECORD, Rank, fingerprint_id, read_record, write_record
from sodbatch.storage import Storage, display_uri, is_s3, local_path

COMPANIONS = {
    "pictures": re.compile(r".*_(?P<id>[0-9a-f]{12})\.jpg"),
    "json": re.compile(r".*_(?P<id>[0-9a-f]{12})_res\.json"),
}
"""Folders beside the tables, and how a run names its files there after the ids of its pictures."""

TABLES = ("images", "detections")
FILES = ("coco.json", "summary.json", "_SUCCESS")
LEFTOVER = re.compile(r"\.sodbatch-[0-9a-z_]+(\.tmp)?")
"""Files that a killed run leaves: a half-written local file, or the probe whether a folder can be written."""

log = logging.getLogger(__name__)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say in which fields two fingerprints differ, one line each."""
    keys = sorted(found.keys() | wanted.keys())
    return [
        f"{key}: {json.dumps(found.get(key))} there, {json.dumps(wanted.get(key))} now"
        for key in keys
        if found.get(key) != wanted.get(key)
    ]


def choose_output(
    output: str, fields: dict[str, Any], on_mismatch: Literal["refuse", "overwrite", "beside"], storage: Storage
) -> str:
    """Decide which folder a run with this fingerprint writes to; nothing is changed.

    Args:
        output: The folder asked for.
        fields: The run's fingerprint.
        on_mismatch: What to do when the folder holds another fingerprint's tables: refuse, overwrite them, or write
            beside them, to ``<output>-<start of the fingerprint>``.
        storage: Where the folder lies.

    Raises:
        UsageError: The folder holds tables of another fingerprint, or tables without a record, and is to be kept.
    """
    record = read_record(output, storage)
    if record is None:
        _check_unclaimed(output, storage)
        return output
    if record["fingerprint"] == fields or on_mismatch == "overwrite":
        return output
    what = "; ".join(differences(record["fingerprint"], fields))
    if on_mismatch == "beside":
        log.warning("%s holds the tables of another run (%s); writing beside it", display_uri(output), what)
        return choose_output(f"{output}-{fingerprint_id(fields)[:8]}", fields, "refuse", storage)
    raise UsageError(
        f"{display_uri(output)} holds the tables of another run; what differs: {what}. Use another Global.output, or "
        "Output.on_mismatch: beside (--beside) to write next to it, overwrite (--overwrite) to delete those tables"
    )


def _check_unclaimed(output: str, storage: Storage) -> None:
    """Refuse a folder without a record that holds what a run would write: it is somebody else's."""
    taken = [name for name in FILES if storage.exists(f"{output}/{name}")]
    taken += [f"{table}/" for table in TABLES if part_urls(output, table, storage)]
    if taken:
        raise UsageError(
            f"{display_uri(output)} holds {', '.join(taken)} but no {RECORD}, so what made them is not known; use "
            "another Global.output, or delete them yourself"
        )


class Standing(NamedTuple):
    """How a folder stands to a run.

    Attributes:
        attempt: Which run on the folder this is, from 1.
        goes_on: The tables there are this run's to go on with; otherwise it starts with none.
    """

    attempt: int
    goes_on: bool


def standing(output: str, fields: dict[str, Any], storage: Storage) -> Standing:
    """Tell how a folder stands to a run of this fingerprint; nothing is changed."""
    record = read_record(output, storage)
    if record is None:
        return Standing(1, False)
    return Standing(record["attempt"] + 1, record["fingerprint"] == fields and not record.get("deleting"))


def begin(output: str, fields: dict[str, Any], known: Standing, rank: Rank, storage: Storage) -> None:
    """Make the folder a run's; tables of another fingerprint are deleted.

    The record is written before the tables of another run go, so that a kill in between leaves nothing that the
    next run could take for its own.

    Args:
        output: The folder, whose lease the run holds.
        fields: The run's fingerprint.
        known: How the folder stood to the run when its work was planned.
        rank: The run.
        storage: Where the folder lies.

    Raises:
        UsageError: Another run has begun, and perhaps ended, since then.
    """
    if standing(output, fields, storage) != known:
        raise UsageError(f"another run has just been at work on {display_uri(output)}; run the same command again")
    if known.attempt > 1 and not known.goes_on:
        write_record(output, fields, rank, storage, deleting=True)
        _delete_tables(output, storage)
    storage.delete(f"{output}/_SUCCESS")
    write_record(output, fields, rank, storage)


def sweep(output: str, storage: Storage) -> None:
    """Delete what killed runs have left half written; stores without renaming have but the probes."""
    if local_path(output) is not None:
        found = storage.list_files(output)
    elif is_s3(output):
        found = storage.list_prefix(f"{output}/.sodbatch-")
    else:
        return
    for info in list(found):
        if LEFTOVER.fullmatch(info.url.rpartition("/")[2]):
            storage.delete(info.url)


def finish(output: str, summary: dict[str, Any], check_ours: Callable[[], None], storage: Storage) -> None:
    """Write ``summary.json``, then ``_SUCCESS``: the last thing a run does.

    Args:
        output: The folder.
        summary: What ``summary.json`` says.
        check_ours: Called before each; raises where the output is another run's by now.
        storage: Where the folder lies.
    """
    check_ours()
    storage.write_atomic(f"{output}/summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode() + b"\n")
    check_ours()
    storage.write_atomic(f"{output}/_SUCCESS", b"")


def _delete_tables(output: str, storage: Storage) -> None:
    """Delete what runs have written: companions by the ids in the tables, then the tables; nothing else."""
    images = part_urls(output, "images", storage)
    ids = {x[:12] for rows in read_parts(images, ["image_id"], storage) for x in rows["image_id"].to_pylist()}
    for folder, pattern in COMPANIONS.items():
        for info in list(storage.list_files(f"{output}/{folder}")):
            match = pattern.fullmatch(info.url.rpartition("/")[2])
            if match and match["id"] in ids:
                storage.delete(info.url)
    for url in (*part_urls(output, "detections", storage), *images):
        storage.delete(url)
    for file in FILES:
        storage.delete(f"{output}/{file}")
