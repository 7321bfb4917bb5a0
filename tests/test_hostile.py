"""One run over everything hostile at once: a row each, with its reason; nothing outside the output; bounded memory."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import pytest

from sodbatch.fetch import AHEAD_BYTES

MAX_PIXELS = 25_000_000

BYTES_A_PIXEL = 20
"""Most of the memory that a pixel costs: under 10 where it is decoded (TIFF: 4 + 3; OpenCV: 3 + 3, and 3 when turned),
some 15 where it is drawn. The predictor and all else are in the base."""


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all that lies under a folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@dataclass(frozen=True)
class Done:
    root: Path
    cases: dict[str, hostile.Case]
    code: int
    peak: int
    printed: str
    rows: dict[str, list[dict[str, Any]]]
    changed: set[str]


@pytest.fixture(scope="module")
def done(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    root = tmp_path_factory.mktemp("hostile")
    cases = hostile.make(root, MAX_PIXELS)
    (root / "tmp").mkdir()
    pictures = root / "in" / "pictures"
    before = snapshot(root)
    code, peak, printed = hostile.run(
        root, root / "out", tiny_model_dir, MAX_PIXELS, pictures, pictures / "names.jsonl"
    )
    after = snapshot(root)
    rows = defaultdict(list)
    for row in hostile.read_rows(root / "out"):
        rows[hostile.key(row, root)].append(row)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return Done(root, cases, code, peak, printed, dict(rows), changed)


def test_every_input_has_its_rows_and_each_its_reason(done: Done) -> None:
    assert done.code == 3, done.printed
    assert done.rows.keys() == done.cases.keys()
    wrong = []
    for name, case in done.cases.items():
        found = sorted(done.rows[name], key=lambda row: row["page_index"] or 0)
        classes = tuple(row["error_class"] or hostile.OK for row in found)
        messages = [row["error_message"] for row in found if row["status"] == "failed"]
        if classes != case.rows or not all(message and case.says in message for message in messages):
            wrong.append((name, case.rows, classes, messages))
        assert all("\n" not in message and len(message) < 600 for message in messages)
        assert all((row["status"] == "ok") == (row["error_class"] is None) for row in found)
        assert {row["page_count"] for row in found} == {len(found)}
    assert not wrong


def test_nothing_is_written_outside_the_output(done: Done) -> None:
    outside = {path for path in done.changed if not path.startswith(f"{done.root}/out")}
    assert outside <= {str(done.root), str(done.root / "tmp")}
    assert not list((done.root / "tmp").iterdir())


def test_memory_is_bounded_by_the_limits(done: Done, tiny_model_dir: Path) -> None:
    ordinary = done.root / "in" / "outside.jpg"
    hostile_list = done.root / "in" / "pictures" / "names.jsonl"
    code, base, printed = hostile.run(done.root, done.root / "base", tiny_model_dir, MAX_PIXELS, ordinary, hostile_list)
    assert code == 3, printed
    assert done.peak < base + BYTES_A_PIXEL * MAX_PIXELS + AHEAD_BYTES, (done.peak >> 20, base >> 20)


def test_the_companions_of_every_picture_lie_in_their_folders(done: Done) -> None:
    fine = [row for rows in done.rows.values() for row in rows if row["status"] == "ok"]
    for folder, ending in (("json", "_res.json"), ("pictures", ".jpg")):
        names = {path.name for path in (done.root / "out" / folder).iterdir()}
        assert len(names) == len(fine)
        assert all(any(row["image_id"][:12] + ending in name for name in names) for row in fine[:50])
    boxes = json.loads((done.root / "out" / "coco.json").read_text())
    assert len(boxes) == sum(row["num_detections"] for row in fine)


def test_values_that_partition_the_tables_stay_folders_of_one_level(done: Done) -> None:
    for table in ("images", "detections"):
        folders = [path for path in (done.root / "out" / table).iterdir() if path.is_dir()]
        values = {value or "__HIVE_DEFAULT_PARTITION__" for value in hostile.GROUPS}
        assert len(folders) == len(values)
        assert all(path.name.startswith("group=") and not [p for p in path.iterdir() if p.is_dir()] for path in folders)
