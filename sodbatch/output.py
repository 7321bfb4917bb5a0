"""The output folder: whose it is, which run this is on it, and how a run is declared finished."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from sodbatch.errors import UsageError
from sodbatch.ids import PART_NAME, digest
from sodbatch.ledger import part_urls
from sodbatch.storage import Storage, display_uri

OURS = {
    "images": PART_NAME,
    "detections": PART_NAME,
    "pictures": re.compile(r".*_[0-9a-f]{12}\.jpg"),
    "json": re.compile(r".*_[0-9a-f]{12}_res\.json"),
}
"""Folders that a run writes to, and the names of its files there: nothing else is ever deleted."""

FILES = ("coco.json", "summary.json", "_SUCCESS")
RECORD = "run.json"


def fingerprint_id(fields: dict[str, Any]) -> str:
    """Hash what decides what a row says: model, threshold, preprocessing, columns, schema."""
    return digest(json.dumps(fields, sort_keys=True))


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
        if on_mismatch != "overwrite" and part_urls(output, "images", storage):
            raise UsageError(
                f"{display_uri(output)}/images holds parts but {RECORD} is not beside it, so what made them is not "
                "known; use another Global.output, or --overwrite to delete those tables"
            )
        return output
    if record["fingerprint"] == fields or on_mismatch == "overwrite":
        return output
    if on_mismatch == "beside":
        return f"{output}-{fingerprint_id(fields)[:8]}"
    raise UsageError(
        f"{display_uri(output)} holds the tables of another run; what differs: "
        + "; ".join(differences(record["fingerprint"], fields))
        + ". Use another Global.output, --beside to write next to it, or --overwrite to delete those tables"
    )


def read_record(output: str, storage: Storage) -> dict[str, Any] | None:
    """Read ``run.json``; None where there is none."""
    url = f"{output}/{RECORD}"
    if not storage.exists(url):
        return None
    try:
        record = json.loads(storage.read_bytes(url))
        if isinstance(record["fingerprint"], dict) and isinstance(record["attempt"], int):
            return dict(record)
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(
        f"{display_uri(url)} is not the record of a run; delete it with its folder, or use another Global.output"
    )


def next_attempt(output: str, fields: dict[str, Any], storage: Storage) -> int:
    """Return which run on a folder the next one is: 1 where the folder holds no tables of this fingerprint."""
    record = read_record(output, storage)
    if record is None or record["fingerprint"] != fields or record.get("deleting"):
        return 1
    return int(record["attempt"]) + 1


def begin(output: str, fields: dict[str, Any], storage: Storage) -> int:
    """Make the folder this run's and return its attempt; tables of another fingerprint are deleted.

    The record is written before the tables of another run go, so that a kill in between leaves nothing that the
    next run could take for its own.
    """
    attempt = next_attempt(output, fields, storage)
    if attempt == 1:
        _write_record(output, {"fingerprint": fields, "attempt": 1, "deleting": True}, storage)
        _delete_tables(output, storage)
    storage.delete(f"{output}/_SUCCESS")
    _write_record(output, {"fingerprint": fields, "attempt": attempt}, storage)
    return attempt


def finish(output: str, summary: dict[str, Any], storage: Storage) -> None:
    """Write ``summary.json``, then ``_SUCCESS``: the last thing a run does."""
    storage.write_atomic(f"{output}/summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode() + b"\n")
    storage.write_atomic(f"{output}/_SUCCESS", b"")


def _write_record(output: str, record: dict[str, Any], storage: Storage) -> None:
    storage.write_atomic(f"{output}/{RECORD}", json.dumps(record, indent=2).encode() + b"\n")


def _delete_tables(output: str, storage: Storage) -> None:
    for folder, name in OURS.items():
        for info in list(storage.list_files(f"{output}/{folder}")):
            if name.fullmatch(info.url.rsplit("/", 1)[-1]):
                storage.delete(info.url)
    for file in FILES:
        storage.delete(f"{output}/{file}")
