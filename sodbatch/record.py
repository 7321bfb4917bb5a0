"""The record of an output, ``run.json``: which run it belongs to. It decides who may write there."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sodbatch.errors import RunEndedError, UsageError
from sodbatch.ids import digest
from sodbatch.storage import Storage, display_uri
from sodbatch.storage.retry import with_retries

RECORD = "run.json"


class Rank(NamedTuple):
    """What tells two runs on one output apart: the greater one may write.

    Attributes:
        attempt: Which run on the output, from 1.
        run_id: Its id; decides where two have begun at once.
    """

    attempt: int
    run_id: str


def fingerprint_id(fields: dict[str, Any]) -> str:
    """Hash what decides what a row says: model, threshold, preprocessing, columns, schema."""
    return digest(json.dumps(fields, sort_keys=True))


def read_record(output: str, storage: Storage) -> dict[str, Any] | None:
    """Read ``run.json``; None where there is none.

    Raises:
        UsageError: The file is something else.
    """
    url = f"{output}/{RECORD}"
    try:
        data = with_retries(lambda: storage.read_bytes(url), storage.fetch_section)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record = json.loads(data)
        run_id = record.setdefault("run_id", "")
        if isinstance(record["fingerprint"], dict) and type(record["attempt"]) is int and isinstance(run_id, str):
            return dict(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UsageError(
        f"{display_uri(url)} is not the record of a run; delete it with its folder, or use another Global.output"
    )


def write_record(output: str, fields: dict[str, Any], rank: Rank, storage: Storage, *, deleting: bool = False) -> None:
    """Write ``run.json``.

    Args:
        output: The folder.
        fields: The run's fingerprint.
        rank: The run.
        storage: Where the folder lies.
        deleting: The tables there are another fingerprint's, and are being deleted.
    """
    record = {"fingerprint": fields, **rank._asdict()} | ({"deleting": True} if deleting else {})
    storage.write_atomic(f"{output}/{RECORD}", json.dumps(record, indent=2).encode() + b"\n")


def check_ours(output: str, rank: Rank, fingerprint: str, storage: Storage) -> None:
    """Make sure that an output still belongs to a run: asked before whatever that publishes or deletes.

    Args:
        output: The folder.
        rank: The run.
        fingerprint: The id of its fingerprint.
        storage: Where the folder lies.

    Raises:
        RunEndedError: A run of a higher rank has begun there, or the record has gone.
    """
    record = read_record(output, storage)
    if (
        record is None
        or Rank(record["attempt"], record["run_id"]) > rank
        or fingerprint_id(record["fingerprint"]) != fingerprint
    ):
        raise RunEndedError(
            f"{display_uri(output)} is no longer this run's: "
            f"{f'{RECORD} has gone' if record is None else 'another run has taken it over'}; "
            "run the same command again when no other is at work there"
        )
