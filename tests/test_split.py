"""Split: reproducible, nothing lost at any moment, classes balanced and groups kept where asked for."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dying import dying_before_rename
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.dataset.split import Division, assign, split
from sodbatch.dataset.swap import finish_swap
from sodbatch.errors import UsageError

PLAIN = Division(90, seed=3, balance=False, group_pattern=None)


def make(folder: Path, train: int = 30, val: int = 10) -> Path:
    """Write a data set of two parts whose images have the same ids, each image with boxes of its own."""
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    for part, count, first in (("train", train, 0), ("val", val, 1000)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(1, count + 1):
            images.append({"id": i, "file_name": f"{part}_{i}.jpg", "width": 9, "height": 9, "own": i})
            for j in range(2):
                box = {"id": 10 * i + j, "image_id": i, "category_id": 1 + j, "bbox": [first + i, j, 1, 1]}
                annotations.append(box | {"area": 1, "iscrowd": 0})
        content = {"info": {"year": 2026}, "images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instance_{part}.json").write_text(json.dumps(content))
    return folder


def read(folder: Path, part: str, suffix: str = "") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "annotations" / f"instance_{part}.json{suffix}").read_text())
    return content


def boxes_by_name(*contents: dict[str, Any]) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    for content in contents:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for name in names.values():
            assert name not in found
            found[name] = []
        for annotation in content["annotations"]:
            found[names[annotation["image_id"]]].append(annotation["bbox"])
    return found


def test_every_picture_keeps_its_boxes_and_the_originals_are_kept(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    before = [read(folder, part) for part in ("train", "val")]
    assert split(str(folder), PLAIN) == (36, 4)
    train, val = read(folder, "train"), read(folder, "val")
    assert (len(train["images"]), len(val["images"])) == (36, 4)
    assert boxes_by_name(train, val) == boxes_by_name(*before)
    assert [annotation["id"] for annotation in train["annotations"]] == list(range(1, 73))
    assert (train["info"], train["categories"]) == (before[0]["info"], before[0]["categories"])
    assert [read(folder, part, ".bak") for part in ("train", "val")] == before
    assert sorted(os.listdir(folder / "annotations")) == [
        f"instance_{part}.json{suffix}" for part in ("train", "val") for suffix in ("", ".bak")
    ]


def test_ids_that_count_from_0_and_numbers_that_are_none_are_kept_apart_and_as_they_are(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    for part in ("train", "val"):
        content = read(folder, part)
        for image in content["images"]:
            image["id"] -= 1
        for annotation in content["annotations"]:
            annotation["image_id"] -= 1
        content["annotations"][0]["bbox"][2] = math.inf
        (folder / "annotations" / f"instance_{part}.json").write_text(json.dumps(content))
    before = boxes_by_name(*(read(folder, part) for part in ("train", "val")))
    split(str(folder), PLAIN)
    train, val = read(folder, "train"), read(folder, "val")
    assert boxes_by_name(train, val) == before
    ids = [image["id"] for content in (train, val) for image in content["images"]]
    assert len(set(ids)) == len(ids) == 40


def test_the_same_seed_gives_the_same_files_and_another_gives_others(tmp_path: Path) -> None:
    texts = []
    for number, seed in enumerate((3, 3, 4)):
        folder = make(tmp_path / str(number))
        split(str(folder), Division(90, seed, balance=False, group_pattern=None))
        texts.append([(folder / "annotations" / f"instance_{part}.json").read_bytes() for part in ("train", "val")])
    assert texts[0] == texts[1] != texts[2]


def test_a_second_split_keeps_the_first_originals(tmp_path: Path) -> None:
    folder = make(tmp_path / "data")
    before = read(folder, "val")
    split(str(folder), PLAIN)
    between = read(folder, "val")
    split(str(folder), Division(50, 1, balance=False, group_pattern=None))
    assert read(folder, "val", ".bak") == before
    assert read(folder, "val", ".bak2") == between


@pytest.mark.parametrize("calls", range(8))
def test_killed_before_any_of_its_renames_nothing_is_lost(tmp_path: Path, calls: int) -> None:
    folder, whole = make(tmp_path / "data"), make(tmp_path / "whole")
    split(str(whole), PLAIN)
    before = [read(folder, part) for part in ("train", "val")]
    with dying_before_rename(calls):
        split(str(folder), PLAIN)
    if finish_swap(str(folder)):
        assert [read(folder, part) for part in ("train", "val")] == [read(whole, part) for part in ("train", "val")]
        assert [read(folder, part, ".bak") for part in ("train", "val")] == before
    else:
        now = [read(folder, part) for part in ("train", "val")]
        assert now in (before, [read(whole, part) for part in ("train", "val")])
    assert not finish_swap(str(folder))


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    names = [f"flight{i % 7}_{i}.jpg" for i in range(70)]
    chosen = assign(names, [[1]] * 70, Division(70, 1, balance=False, group_pattern=r"^(flight\d+)_"))
    sides = {(name.split("_")[0], bool(side)) for name, side in zip(names, chosen)}
    assert len(sides) == 7
    assert 40 <= chosen.sum() <= 60


@given(st.integers(0, 1000), st.sampled_from([50, 80, 90]))
def test_balanced_parts_have_their_share_of_every_class(seed: int, percent: int) -> None:
    labels = [[0] * 5 + ([1] if i % 10 == 0 else []) + ([2] * 3 if i % 20 == 5 else []) for i in range(200)]
    chosen = assign([str(i) for i in range(200)], labels, Division(percent, seed, balance=True, group_pattern=None))
    everything = Counter(label for of in labels for label in of)
    train = Counter(label for of, side in zip(labels, chosen) if side for label in of)
    for label, count in everything.items():
        assert abs(train[label] / count - percent / 100) <= 0.1


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("val", lambda c: c["annotations"][0].update(image_id=99), "no such image"),
        ("val", lambda c: c["categories"][0].update(name="other"), "is 'a' and 'other'"),
        ("train", lambda c: c["images"][1].update(id=1), "two images have one id"),
        ("train", lambda c: c["images"][1].pop("file_name"), "no key 'file_name'"),
        ("train", lambda c: c.update(images=3), "passes the check"),
    ],
)
def test_what_cannot_be_divided_stays_as_it_is(tmp_path: Path, part: str, change: Any, message: str) -> None:
    folder = make(tmp_path / "data")
    content = read(folder, part)
    change(content)
    path = folder / "annotations" / f"instance_{part}.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        split(str(folder), PLAIN)
    assert read(folder, part) == content
    assert not list((folder / "annotations").glob("*.bak"))


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "data", train=2, val=1)
    with pytest.raises(UsageError, match="a part would be empty"):
        split(str(folder), Division(99, 1, balance=False, group_pattern=None))
