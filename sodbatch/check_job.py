"""The data set job: from a configuration to ``check_dataset_result.json`` and the report."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from sodbatch.config import Config
from sodbatch.dataset import charts
from sodbatch.dataset.coco import Part, read_part
from sodbatch.dataset.convert import convert, texts
from sodbatch.dataset.demo import Pictures, draw_faults, draw_first
from sodbatch.dataset.faults import Faults
from sodbatch.dataset.pictures import (
    INSPECTED,
    Inspect,
    check_names,
    check_pictures,
    list_names,
    pending_pictures,
    unreadable,
)
from sodbatch.dataset.records import check_records, unsafe
from sodbatch.dataset.rules import RULES
from sodbatch.dataset.split import Division, split
from sodbatch.dataset.swap import finish_swap
from sodbatch.engine import make_engine
from sodbatch.errors import JobError, UsageError
from sodbatch.fetch import Fetcher
from sodbatch.progress import ProgressBar
from sodbatch.storage import Storage, display_uri, local_path, printable
from sodbatch.storage.retry import longest_s
from sodbatch.tables import to_parquet

PASSED, NOT_PASSED = 0, 4
"""Exit codes."""

DEMO_PICTURES = 10
"""Of each part, as PaddleX draws them."""

PRINTED = 20
"""Faults that are printed; all are in the report."""

PARTS = ("train", "val")


def run(config: Config, *, console: Console | None = None) -> int:
    """Check a data set.

    Args:
        config: ``Global.dataset_dir`` names it, ``CheckDataset`` says how.
        console: Where to print; standard error by default.

    Returns:
        0 when no rule of severity error is broken, else 4.

    Raises:
        UsageError: There is no such data set.
        JobError: The job could not finish.
    """
    console = console or Console(stderr=True)
    started = time.monotonic()
    storage = Storage(config.S3, config.Fetch)
    _refuse_changes_on_a_store(config)
    folder = dataset_root(config.Global.dataset_dir, storage)
    output = config.Global.output
    storage.check_writable(output)
    faults = Faults(config.CheckDataset.rules)
    with ProgressBar(console) as bar:
        bar.say(f"data set {display_uri(folder)}, output {display_uri(output)}")
        _change(config, folder, bar)
        parts, inspected = examine(config, folder, storage, faults, bar)
        bar.say("drawing and writing")
        table = faults.table()
        fetcher = Fetcher(storage, config.Fetch, config.Limits)
        pictures = Pictures(folder, fetcher, config.Limits, unreadable(parts, inspected))
        result = _write(config, parts, pictures, faults, table, storage, time.monotonic() - started)
        _write_converted(config, parts, faults, storage, bar)
    _print(result, faults, table, output, console)
    return PASSED if result["check_pass"] else NOT_PASSED


def examine(
    config: Config, folder: str, storage: Storage, faults: Faults, bar: ProgressBar
) -> tuple[list[Part], pa.Table]:
    """Read a data set, and hold its records and pictures to all rules.

    Args:
        config: Its section CheckDataset says whether pictures are decoded.
        folder: The data set.
        storage: Reads it.
        faults: Takes what is wrong.
        bar: Shows progress.

    Returns:
        The parts, and what is known of their pictures: a table of ``INSPECTED``, empty if none were decoded.
    """
    parts = [read_part(name, f"{folder}/annotations/instance_{name}.json", storage, faults) for name in PARTS]
    check_records(parts, faults)
    inspected = INSPECTED.empty_table()
    if config.CheckDataset.decode:
        inspected = _inspected(config, parts, folder, storage, bar)
        check_pictures(parts, inspected, faults)
    if not config.CheckDataset.decode or faults.wants("picture_unlisted"):
        check_names(parts, list_names(folder, storage), faults, decoded=config.CheckDataset.decode)
    return parts, inspected


def _refuse_changes_on_a_store(config: Config) -> None:
    for name in ("convert", "split"):
        section = getattr(config.CheckDataset, name)
        changes = section.enable and (name == "split" or section.src_dataset_type is not None)
        if changes and local_path(config.Global.dataset_dir or "") is None:
            raise UsageError(f"CheckDataset.{name}.enable = true: expected Global.dataset_dir to be a local folder")


def _change(config: Config, folder: str, bar: ProgressBar) -> None:
    """Convert and divide the data set where that is asked for; a swap that was interrupted is finished in any case."""
    asked = config.CheckDataset
    if not asked.convert.enable and (asked.convert.src_dataset_type or asked.convert.dst_dataset_type):
        bar.say("CheckDataset.convert.enable is false: nothing is converted")
    if not asked.split.enable and asked.split.train_percent:
        bar.say("CheckDataset.split.enable is false: nothing is divided")
    finished = finish_swap(folder) if local_path(folder) is not None else None
    if finished is not None:
        bar.say(
            f"the {finished} of the data set that was interrupted has been finished as it was asked for then; "
            "it is not made again"
        )
    kind = config.CheckDataset.convert.src_dataset_type
    if config.CheckDataset.convert.enable and kind is not None and finished is None:
        converted = convert(folder, kind, config.CheckDataset.split.seed, config.Limits)
        train, val = (converted.pictures[part] for part in PARTS)
        bar.say(f"converted from {kind}: {train:,} pictures in train, {val:,} in val")
        for note, number in converted.notes.items():
            bar.say(f"{number:,} {note}")
    section = config.CheckDataset.split
    if not section.enable or section.train_percent is None or finished == "split":
        return
    division = Division(section.train_percent, section.seed, section.balance, section.group_pattern)
    train, val = split(folder, division)
    bar.say(f"divided anew: {train:,} pictures in train, {val:,} in val; the originals are beside them as .bak")


def dataset_root(dataset_dir: str | None, storage: Storage) -> str:
    """Return the folder that holds ``images/``: the one named, or as in PaddleX the only one below it.

    Raises:
        UsageError: None is named, there is none, or there are several.
    """
    if dataset_dir is None:
        raise UsageError("Global.dataset_dir is not set: expected the folder of a data set, local or s3://")
    folder = dataset_dir.rstrip("/") or "/"
    path = local_path(folder)
    if path is None:
        if not storage.isdir(f"{folder}/annotations"):
            raise UsageError(f"{display_uri(folder)}: there is no folder annotations/ with instance_train.json in it")
        return folder
    if not os.path.isdir(path):
        raise UsageError(f"Global.dataset_dir = {path}: there is no such folder")
    if os.path.isdir(os.path.join(path, "images")) or os.path.isdir(os.path.join(path, "annotations")):
        return path
    found = sorted(Path(path).glob("**/images"))
    if len(found) == 1:
        return str(found[0].parent)
    raise UsageError(
        f"Global.dataset_dir = {path}: expected the folders images/ and annotations/ in it, "
        f"or one folder below it that has them; found {len(found)} such folders"
    )


def _inspected(config: Config, parts: list[Part], folder: str, storage: Storage, bar: ProgressBar) -> pa.Table:
    """Decode all pictures on the engine."""
    inspect = Inspect(Fetcher(storage, config.Fetch, config.Limits), config.Limits)
    stall_s = longest_s(config.Fetch) + config.Limits.max_seconds
    expected = sum(not unsafe(name) for part in parts for name in part.images.names)
    bar.expect(expected)
    tables: list[pa.Table] = [INSPECTED.empty_table()]
    on_cpus = config.model_copy(update={"Global": config.Global.model_copy(update={"device": "cpu"})})
    with make_engine(on_cpus) as engine:
        bar.say(engine.description)
        for table in engine.read(inspect, stall_s, pending_pictures(parts, folder)):
            tables.append(table)
            bar.advance(len(table))
    inspected = pa.concat_tables(tables)
    if not len(inspected) == len(inspected["number"].unique()) == expected:
        raise JobError(
            f"{expected:,} pictures were to be read, {len(inspected):,} rows came back; run the same command again"
        )
    return inspected


def _write(
    config: Config,
    parts: list[Part],
    pictures: Pictures,
    faults: Faults,
    table: pa.Table,
    storage: Storage,
    seconds: float,
) -> dict[str, Any]:
    """Write pictures, charts and the report, and last the result."""
    output, check = config.Global.output, f"{config.Global.output}/check_dataset"
    samples: list[list[str]] = []
    count = DEMO_PICTURES
    for part in parts:
        count = min(count, len(part.images.ids))
        drawn = draw_first(part, count, pictures)
        for name, data in drawn:
            storage.write_atomic(f"{check}/demo_img/{name}", data)
        samples.append([f"check_dataset/demo_img/{name}" for name, _ in drawn])
    _delete_others(f"{check}/demo_img", {path for paths in samples for path in paths}, storage)
    storage.write_atomic(f"{check}/histogram.png", charts.histogram(parts))
    storage.write_atomic(f"{check}/overview.png", charts.overview(parts))
    sheet = draw_faults(parts, table, pictures)
    if sheet is not None:
        storage.write_atomic(f"{check}/faults.jpg", sheet)
    else:
        storage.delete(f"{check}/faults.jpg")
    storage.write_atomic(f"{check}/report.parquet", to_parquet(table))
    result = {
        "done_flag": True,
        "check_pass": faults.errors == 0,
        "attributes": {
            "num_classes": len(dict(parts[-1].categories or parts[0].categories)),
            "train_samples": len(parts[0].images.ids),
            "train_sample_paths": samples[0],
            "val_samples": len(parts[1].images.ids),
            "val_sample_paths": samples[1],
        },
        "analysis": {"histogram": "check_dataset/histogram.png"},
        "dataset_path": _last_name(pictures.folder),
        "show_type": "image",
        "dataset_type": "COCODetDataset",
        "summary": _summary(config, parts, faults, seconds),
    }
    storage.write_atomic(
        f"{output}/check_dataset_result.json", json.dumps(result, indent=4, ensure_ascii=False).encode()
    )
    return result


def _write_converted(config: Config, parts: list[Part], faults: Faults, storage: Storage, bar: ProgressBar) -> None:
    """Write a data set that has passed in another format too, where that is asked for."""
    kind = config.CheckDataset.convert.dst_dataset_type
    if kind is None or not config.CheckDataset.convert.enable:
        return
    target = f"{config.Global.output}/{kind}"
    if faults.errors:
        bar.say(f"not converted to {kind}, since the data set has errors")
        return
    for path, text in texts(parts, kind):
        storage.write_atomic(f"{target}/{path}", text.encode())
    bar.say(f"converted to {kind}: {display_uri(target)}; it belongs beside the folder images/")


def _delete_others(folder: str, kept: set[str], storage: Storage) -> None:
    """Delete the pictures that an earlier check of another data set has drawn."""
    if storage.isdir(folder):
        for info in list(storage.list_files(folder)):
            if not any(info.url.endswith(f"/{path}") for path in kept):
                storage.delete(info.url)


def _last_name(folder: str) -> str:
    path = local_path(folder)
    return (os.path.abspath(path) if path is not None else folder).rstrip("/").rpartition("/")[2]


def _summary(config: Config, parts: list[Part], faults: Faults, seconds: float) -> dict[str, Any]:
    return {
        "errors": faults.errors,
        "warnings": faults.warnings,
        "faults": dict(faults.counts.most_common()),
        "decoded": config.CheckDataset.decode,
        "seconds": round(seconds, 1),
        "parts": {
            part.name: {
                "images": len(part.images.ids),
                "annotations": len(part.boxes.ids),
                "classes": _counts_by_name(part),
            }
            for part in parts
        },
    }


def _counts_by_name(part: Part) -> dict[str, int]:
    counts, named = charts.class_counts(part), Counter[str]()
    for identity, name in dict(part.categories).items():
        named[name] += counts[identity]
    return dict(named)


def first_faults(table: pa.Table, count: int) -> list[str]:
    """Return a line for each of the first faults of a table."""
    lines = []
    for fault in table.slice(0, count).to_pylist():
        where = ", ".join(filter(None, (fault["part"], fault["file"], fault["record"])))
        lines.append(printable(f"{fault['severity']}: {fault['rule']}: {where}: {fault['detail']}"))
    return lines


def _print(result: dict[str, Any], faults: Faults, table: pa.Table, output: str, console: Console) -> None:
    lines = first_faults(table, PRINTED)
    total = faults.counts.total()
    if total > PRINTED:
        lines.append(f"... and {total - PRINTED:,} more")
    for rule, number in faults.counts.most_common():
        lines.append(f"{number:>9,}  {rule}: {RULES[rule].meaning}")
    attributes = result["attributes"]
    lines += [
        f"{attributes['train_samples']:,} pictures in train, {attributes['val_samples']:,} in val, "
        f"{attributes['num_classes']} classes; {faults.errors:,} errors, {faults.warnings:,} warnings",
        f"all faults: {display_uri(output)}/check_dataset/report.parquet",
        "Check dataset passed !" if result["check_pass"] else "Check dataset NOT passed",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
