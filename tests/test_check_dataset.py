"""The data set job: every rule is found with file and record, and PaddleX's result is written as PaddleX writes it."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures_s3 import S3Bucket
from rich.console import Console

from sodbatch.check_job import NOT_PASSED, PASSED, run
from sodbatch.cli import main
from sodbatch.config import Config
from sodbatch.config.file import load_config
from sodbatch.dataset import charts, demo
from sodbatch.dataset.coco import read_part
from sodbatch.dataset.faults import Faults
from sodbatch.dataset.rules import RULES
from sodbatch.dataset.swap import new_name
from sodbatch.errors import UsageError
from sodbatch.storage import Storage

Dataset = dict[str, dict[str, Any]]
Change = Callable[[Dataset, Path], None]

CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]


def picture(seed: int, width: int = 64, height: int = 48) -> bytes:
    """A picture of noise: no two of other seeds are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def annotation(identity: int, image: int, box: list[Any], category: int = 1) -> dict[str, Any]:
    return {
        "id": identity,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def sound(folder: Path) -> Dataset:
    """Write the pictures of a sound data set; return its annotations."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    parts: Dataset = {}
    number = 0
    for part in ("train", "val"):
        images, annotations = [], []
        for _ in range(3):
            number += 1
            name = f"p{number}.jpg"
            (folder / "images" / name).write_bytes(picture(number))
            images.append({"id": number, "file_name": name, "width": 64, "height": 48})
            annotations += [
                annotation(10 * number, number, [1, 2, 10, 12]),
                annotation(10 * number + 1, number, [20, 20, 8, 6], 2),
            ]
        parts[part] = {"images": images, "annotations": annotations, "categories": copy.deepcopy(CATEGORIES)}
    return parts


def written(folder: Path, parts: Dataset) -> None:
    for part, content in parts.items():
        (folder / "annotations" / f"instance_{part}.json").write_text(json.dumps(content))


def check(folder: Path | str, output: Path, **keys: Any) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Run the job; return its exit code, result and faults."""
    settings = {"Global.dataset_dir": str(folder), "Global.output": str(output), "Predict.engine": "inline"}
    settings |= {name.replace("__", "."): value for name, value in keys.items()}
    code = run(load_config(None, (), settings), console=Console(file=io.StringIO()))
    result = json.loads((output / "check_dataset_result.json").read_text())
    return code, result, pq.read_table(output / "check_dataset" / "report.parquet").to_pylist()


@pytest.fixture(autouse=True)
def _stages(stages_here: None) -> None:
    """Decode in this process."""


def test_a_sound_data_set_passes_with_the_keys_of_paddlex(tmp_path: Path) -> None:
    written(tmp_path / "data", sound(tmp_path / "data"))
    code, result, faults = check(tmp_path / "data", tmp_path / "out")
    assert (code, faults) == (PASSED, [])
    summary = result.pop("summary")
    assert result == {
        "done_flag": True,
        "check_pass": True,
        "attributes": {
            "num_classes": 2,
            "train_samples": 3,
            "train_sample_paths": [f"check_dataset/demo_img/p{i}.jpg" for i in (1, 2, 3)],
            "val_samples": 3,
            "val_sample_paths": [f"check_dataset/demo_img/p{i}.jpg" for i in (4, 5, 6)],
        },
        "analysis": {"histogram": "check_dataset/histogram.png"},
        "dataset_path": "data",
        "show_type": "image",
        "dataset_type": "COCODetDataset",
    }
    assert summary["parts"]["train"]["classes"] == {"car": 3, "bus": 3}
    paths = [*result["attributes"]["train_sample_paths"], *result["attributes"]["val_sample_paths"]]
    for path in [*paths, "check_dataset/histogram.png", "check_dataset/overview.png"]:
        assert cv2.imread(str(tmp_path / "out" / path)) is not None


def test_as_in_paddlex_val_has_no_more_demo_pictures_than_train(tmp_path: Path) -> None:
    parts = sound(tmp_path / "data")
    parts["train"]["images"] = parts["train"]["images"][:2]
    parts["train"]["annotations"] = parts["train"]["annotations"][:4]
    written(tmp_path / "data", parts)
    _, result, _ = check(tmp_path / "data", tmp_path / "out")
    assert [len(result["attributes"][f"{part}_sample_paths"]) for part in ("train", "val")] == [2, 2]


def _set(part: str, kind: str, index: int, **values: Any) -> Change:
    def change(parts: Dataset, folder: Path) -> None:
        parts[part][kind][index].update(values)

    return change


def _drop(part: str, kind: str, index: int, key: str) -> Change:
    def change(parts: Dataset, folder: Path) -> None:
        del parts[part][kind][index][key]

    return change


def _add(part: str, kind: str, record: Any) -> Change:
    def change(parts: Dataset, folder: Path) -> None:
        parts[part][kind] = [*parts[part][kind], record]

    return change


def _file(name: str, make: Callable[[Path], bytes | None]) -> Change:
    def change(parts: Dataset, folder: Path) -> None:
        path = folder / "images" / name
        data = make(path)
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)

    return change


def _name_in_both(parts: Dataset, folder: Path) -> None:
    parts["val"]["images"][0]["file_name"] = "p1.jpg"
    (folder / "images" / "p4.jpg").unlink()


def _empty(parts: Dataset, folder: Path) -> None:
    parts["val"] |= {"images": [], "annotations": []}
    for number in (4, 5, 6):
        (folder / "images" / f"p{number}.jpg").unlink()


def _other_categories(parts: Dataset, folder: Path) -> None:
    parts["val"]["categories"] = [{"id": 1, "name": "car"}, {"id": 2, "name": "truck"}]


CASES: list[tuple[str, Change, str, str | None]] = [
    ("key_missing", _drop("train", "annotations", 1, "iscrowd"), "train", "annotation 11"),
    ("key_missing", _drop("val", "images", 0, "id"), "val", "image at index 0"),
    ("type_wrong", _set("train", "annotations", 0, bbox=[1, 2, "10", 12]), "train", "annotation 10"),
    ("type_wrong", _set("train", "annotations", 0, bbox=[1, 2, 10]), "train", "annotation 10"),
    ("type_wrong", _add("val", "annotations", "box"), "val", "annotation at index 6"),
    ("type_wrong", _set("train", "annotations", 0, iscrowd=True), "train", "annotation 10"),
    ("type_wrong", _set("train", "images", 0, file_name="\ud800.jpg"), "train", "image 1"),
    ("type_wrong", _set("train", "images", 0, width=1e300), "train", "image 1"),
    ("type_wrong", _set("train", "annotations", 0, id=1e300), "train", "annotation at index 0"),
    ("type_wrong", _set("train", "annotations", 0, bbox=[True, 0, 5, 5]), "train", "annotation 10"),
    ("type_wrong", _set("val", "categories", 1, id=10**25), "val", "category at index 1"),
    ("image_size", _set("train", "images", 0, width=-64), "train", "image 1"),
    ("category_name", _set("train", "categories", 0, name="bus"), "train", "category 2"),
    ("category_name", _set("train", "categories", 0, name=" "), "train", "category 1"),
    ("image_id_duplicate", _set("train", "images", 1, id=1), "train", "image 1"),
    ("file_name_duplicate", _set("train", "images", 1, file_name="p1.jpg"), "train", "image 2"),
    ("file_name_duplicate", _set("train", "images", 1, file_name="./p1.jpg"), "train", "image 2"),
    ("annotation_id_duplicate", _set("train", "annotations", 1, id=10), "train", "annotation 10"),
    ("category_id_duplicate", _add("train", "categories", {"id": 2, "name": "bus"}), "train", "category 2"),
    ("image_unknown", _add("train", "annotations", annotation(99, 4, [1, 1, 5, 5])), "train", "annotation 99"),
    ("category_unknown", _set("val", "annotations", 0, category_id=7), "val", "annotation 40"),
    ("categories_differ", _other_categories, "both", None),
    ("name_in_both_parts", _name_in_both, "both", "image 1"),
    ("content_in_both_parts", _file("p5.jpg", lambda p: (p.parent / "p2.jpg").read_bytes()), "both", "image 5"),
    ("part_empty", _empty, "val", None),
    ("path_unsafe", _set("train", "images", 0, file_name="../images/p1.jpg"), "train", "image 1"),
    ("path_unsafe", _set("train", "images", 0, file_name="/etc/passwd"), "train", "image 1"),
    ("path_unsafe", _set("train", "images", 0, file_name="x::http://host/p1.jpg"), "train", "image 1"),
    ("path_unsafe", _set("train", "images", 0, file_name="C:\\p1.jpg"), "train", "image 1"),
    ("picture_missing", _file("p2.jpg", lambda p: None), "train", "image 2"),
    ("picture_unreadable", _file("p2.jpg", lambda p: p.read_bytes()[:900]), "train", "image 2"),
    ("picture_unreadable", _file("p2.jpg", lambda p: b"<html>"), "train", "image 2"),
    ("size_mismatch", _file("p3.jpg", lambda p: picture(3, 48, 64)), "train", "image 3"),
    ("box_side", _set("train", "annotations", 0, bbox=[1, 2, 0, 12]), "train", "annotation 10"),
    ("box_side", _set("train", "annotations", 0, bbox=[1, 2, -4, 12]), "train", "annotation 10"),
    ("box_side", _set("train", "annotations", 0, bbox=[1, 2, float("nan"), 12]), "train", "annotation 10"),
    ("box_side", _set("train", "annotations", 0, bbox=[1, 2, float("inf"), 12]), "train", "annotation 10"),
    ("box_outside", _set("train", "annotations", 0, bbox=[70, 2, 10, 12]), "train", "annotation 10"),
    ("box_over_edge", _set("train", "annotations", 0, bbox=[60, 2, 10, 12]), "train", "annotation 10"),
    ("box_tiny", _set("train", "annotations", 0, bbox=[1, 2, 0.5, 12], area=6), "train", "annotation 10"),
    ("box_duplicate", _add("train", "annotations", annotation(99, 1, [1, 2, 10, 12])), "train", "annotation 99"),
    ("area_mismatch", _set("train", "annotations", 0, area=500), "train", "annotation 10"),
    ("image_without_boxes", lambda parts, _: parts["train"]["annotations"].__delitem__(slice(2)), "train", "image 1"),
    ("picture_unlisted", _file("more.PNG", lambda p: picture(9)), "both", None),
]


@pytest.fixture
def _without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("histogram", "overview"):
        monkeypatch.setattr(charts, name, lambda parts: b"")


@pytest.mark.usefixtures("_without_charts")
@pytest.mark.parametrize(("rule", "change", "part", "record"), CASES, ids=[case[0] for case in CASES])
def test_a_broken_rule_is_named_with_its_record_and_no_other_is(
    tmp_path: Path, rule: str, change: Change, part: str, record: str | None
) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    change(parts, folder)
    written(folder, parts)
    code, result, faults = check(folder, tmp_path / "out")
    own = [fault for fault in faults if fault["rule"] == rule]
    assert [(fault["part"], fault["record"]) for fault in own][:1] == [(part, record)]
    follow = {  # what cannot but be broken as well
        "key_missing": {"image_unknown", "picture_unlisted", "image_without_boxes"},
        "type_wrong": {"image_unknown", "picture_unlisted", "category_unknown", "categories_differ"},
        "image_size": {"size_mismatch"},
        "category_name": {"categories_differ"},
        "image_id_duplicate": {"image_unknown", "image_without_boxes"},
        "file_name_duplicate": {"picture_unlisted"},
        "path_unsafe": {"picture_unlisted"},
        "name_in_both_parts": {"content_in_both_parts"},
        "box_side": {"area_mismatch"},
        "box_outside": {"box_over_edge"},
        "part_empty": {"part_empty"},
    }
    assert {fault["rule"] for fault in faults} - {rule} <= follow.get(rule, set())
    assert code == (NOT_PASSED if RULES[rule].severity == "error" else PASSED)
    assert result["check_pass"] is (code == PASSED)
    assert result["summary"]["faults"][rule] == len(own)


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "annotations": [], "categories": []} more',
        '{"images": [{},], "annotations": [], "categories": []}',
        '{"images": [] "annotations": [], "categories": []}',
        '{"images":: [], "annotations": [], "categories": []}',
        '{"images": [], "images": [], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [], "categories": [],}',
        "",
        "[1, 2]",
        '{"images": [',
        '{"images": 3, "annotations": [], "categories": []}',
        '{"a": \xff}',
    ],
)
def test_a_file_that_is_not_coco_is_a_fault(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "data"
    written(folder, sound(folder))
    (folder / "annotations" / "instance_val.json").write_bytes(text.encode("latin-1"))
    code, _, faults = check(folder, tmp_path / "out")
    assert code == NOT_PASSED
    assert any(fault["rule"] in ("json_invalid", "type_wrong") and fault["part"] == "val" for fault in faults)


def test_a_part_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    written(folder, sound(folder))
    (folder / "annotations" / "instance_train.json").unlink()
    code, _, faults = check(folder, tmp_path / "out")
    assert code == NOT_PASSED
    assert ("train", "json_invalid", "there is no such file") in {(f["part"], f["rule"], f["detail"]) for f in faults}


def test_a_picture_that_could_not_be_read_is_not_decoded_in_the_driver_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have killed the process that tried, and where it is drawn there is no such process."""
    folder = tmp_path / "data"
    written(folder, sound(folder))
    (folder / "images" / "p2.jpg").write_bytes(b"nonsense")
    decode, seen = demo.decode_pages, []

    def watched(data: bytes, limits: Any) -> Any:
        seen.append(data)
        return decode(data, limits)

    monkeypatch.setattr(demo, "decode_pages", watched)
    for rules in ({}, {"picture_unreadable": "off"}):
        check(folder, tmp_path / "out", CheckDataset__rules=rules)
    assert len(seen) >= 10 and b"nonsense" not in seen


def test_severities_can_be_changed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    _set("train", "annotations", 0, area=500)(parts, folder)
    _set("train", "annotations", 1, bbox=[70, 2, 10, 12], area=120)(parts, folder)
    written(folder, parts)
    rules = {"area_mismatch": "error", "box_outside": "off"}
    code, _, faults = check(folder, tmp_path / "out", CheckDataset__rules=rules)
    assert code == NOT_PASSED
    assert [(fault["rule"], fault["severity"]) for fault in faults] == [("area_mismatch", "error")]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="no such rule"):
        load_config(None, (), {"CheckDataset.rules": {"boxtiny": "off"}})


def test_without_decoding_missing_pictures_are_found_in_the_listing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    (folder / "images" / "p2.jpg").unlink()
    (folder / "images" / "p3.jpg").write_bytes(b"nonsense")
    written(folder, parts)
    _, _, faults = check(folder, tmp_path / "out", CheckDataset__decode=False)
    assert [(fault["rule"], fault["record"], fault["file"]) for fault in faults] == [
        ("picture_missing", "image 2", "images/p2.jpg")
    ]


def test_all_faults_are_in_the_table_and_few_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    parts["train"]["annotations"] += [annotation(1000 + i, 1, [500, 2, 10, 12 + i]) for i in range(300)]
    written(folder, parts)
    options = ["-o", f"Global.dataset_dir={folder}", "-o", f"Global.output={tmp_path / 'out'}"]
    assert main(["check_dataset", *options, "--engine", "inline"]) == NOT_PASSED
    printed = capsys.readouterr().err
    assert printed.count("error: box_outside") < 50
    assert "300  box_outside" in printed
    assert "NOT passed" in printed
    assert len(pq.read_table(tmp_path / "out" / "check_dataset" / "report.parquet")) == 300
    assert cv2.imread(str(tmp_path / "out" / "check_dataset" / "faults.jpg")) is not None


def test_a_data_set_on_s3_is_checked_in_place(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    (folder / "images" / "p2.jpg").write_bytes(b"nonsense")
    written(folder, parts)
    for file in folder.rglob("*.*"):
        s3_bucket.put(f"sets/data/{file.relative_to(folder)}", file.read_bytes())
    keys = {"S3__endpoint_url": s3_bucket.endpoint, "S3__region": "us-east-1"}
    code, result, faults = check(f"{s3_bucket.url}/sets/data", tmp_path / "out", **keys)
    assert code == NOT_PASSED
    assert [(fault["rule"], fault["record"]) for fault in faults] == [("picture_unreadable", "image 2")]
    assert result["dataset_path"] == "data"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"Global__dataset_dir": None}, "dataset_dir is not set"),
        ({"Global__dataset_dir": "/nowhere"}, "no such folder"),
        ({"CheckDataset__convert": {"enable": True}}, "expected src_dataset_type"),
        ({"CheckDataset__convert": {"enable": True, "src_dataset_type": "VOC"}}, "train_anno_list.txt"),
        (
            {"CheckDataset__split": {"enable": True, "train_percent": 90, "val_percent": 5}},
            "expected two that make 100",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    written(tmp_path / "data", sound(tmp_path / "data"))
    with pytest.raises(UsageError, match=message):
        check(tmp_path / "data", tmp_path / "out", **keys)


def test_the_data_set_may_lie_one_folder_deeper(tmp_path: Path) -> None:
    written(tmp_path / "outer" / "data", sound(tmp_path / "outer" / "data"))
    code, result, _ = check(tmp_path / "outer", tmp_path / "out")
    assert (code, result["dataset_path"]) == (PASSED, "data")


def test_a_split_comes_before_the_check(tmp_path: Path) -> None:
    written(tmp_path / "data", sound(tmp_path / "data"))
    keys = {"enable": True, "train_percent": 67, "val_percent": 33, "seed": 1}
    code, result, faults = check(tmp_path / "data", tmp_path / "out", CheckDataset__split=keys)
    assert (code, faults) == (PASSED, [])
    assert [result["attributes"][f"{part}_samples"] for part in ("train", "val")] == [4, 2]


def test_what_has_passed_is_written_in_another_format_too(tmp_path: Path) -> None:
    written(tmp_path / "data", sound(tmp_path / "data"))
    keys = {"enable": True, "dst_dataset_type": "YOLO"}
    assert check(tmp_path / "data", tmp_path / "out", CheckDataset__convert=keys)[0] == PASSED
    assert (tmp_path / "out" / "YOLO" / "labels" / "p1.txt").read_text().splitlines()[0].startswith("0 0.09375 ")
    assert (tmp_path / "out" / "YOLO" / "val_anno_list.txt").read_text().count("labels/") == 3


def test_a_split_follows_a_conversion_that_was_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    written(folder, parts)
    for part in ("train", "val"):  # as a conversion leaves it that dies before its first renaming
        file = folder / "annotations" / f"instance_{part}.json"
        file.rename(folder / new_name(f"annotations/{file.name}"))
    steps = [{"target": f"annotations/instance_{part}.json", "backup": None} for part in ("train", "val")]
    (folder / ".sodbatch-swap.json").write_text(json.dumps({"change": "convert", "steps": steps}))
    keys = {
        "CheckDataset__convert": {"enable": True, "src_dataset_type": "VOC"},
        "CheckDataset__split": {"enable": True, "train_percent": 67, "val_percent": 33},
    }
    code, result, _ = check(folder, tmp_path / "out", **keys)
    assert (code, result["attributes"]["train_samples"], result["attributes"]["val_samples"]) == (PASSED, 4, 2)


def test_a_note_of_a_swap_that_this_project_would_not_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    written(folder, sound(folder))
    outside = tmp_path / "victim"
    outside.mkdir()
    (outside / ".z.new").write_text("new")
    (folder / "annotations" / ".a.new").write_text("new")
    for steps in (
        [{"target": "../victim/z", "backup": None}],
        [{"target": "annotations/a", "backup": None}],
        [{"target": "annotations/instance_train.json", "backup": str(outside / "keys")}],
    ):
        (folder / ".sodbatch-swap.json").write_text(json.dumps({"change": "split", "steps": steps}))
        with pytest.raises(UsageError, match=r"\.sodbatch-swap\.json should note"):
            check(folder, tmp_path / "out")
    (folder / ".sodbatch-swap.json").write_text("{}")
    with pytest.raises(UsageError, match="holds something else"):
        check(folder, tmp_path / "out")
    assert sorted(path.name for path in outside.iterdir()) == [".z.new"]


def test_without_decoding_any_name_of_a_file_that_is_there_will_do(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    names = ["./p1.jpg", "noend", "tok?X-Amz-Signature=abc&token=ghi.jpg"]
    for image, name in zip(parts["train"]["images"], names, strict=True):
        (folder / "images" / image["file_name"]).rename(folder / "images" / name)
        image["file_name"] = name
    written(folder, parts)
    code, _, faults = check(folder, tmp_path / "out", CheckDataset__decode=False)
    assert (code, faults) == (PASSED, [])


def test_pictures_of_an_earlier_check_go(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"data{number}"
        parts = sound(folder)
        if number == 2:
            parts["val"]["images"][0]["file_name"] = "other.jpg"
            (folder / "images" / "p4.jpg").rename(folder / "images" / "other.jpg")
        written(folder, parts)
        _, result, _ = check(folder, tmp_path / "out")
        paths = [*result["attributes"]["train_sample_paths"], *result["attributes"]["val_sample_paths"]]
        assert sorted(path.name for path in (tmp_path / "out/check_dataset/demo_img").iterdir()) == sorted(
            path.rpartition("/")[2] for path in paths
        )


def test_the_sheet_shows_the_picture_that_a_fault_of_both_parts_is_about(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parts = sound(folder)
    for image, number in zip(parts["val"]["images"], (1, 2, 3), strict=True):  # the ids of train's
        for each in parts["val"]["annotations"]:
            each["image_id"] = number if each["image_id"] == image["id"] else each["image_id"]
        image["id"] = number
    parts["val"]["annotations"][0]["bbox"] = [70, 2, 10, 12]
    parts["val"]["annotations"][0]["area"] = 1.0
    (folder / "images" / "p5.jpg").write_bytes((folder / "images" / "p2.jpg").read_bytes())
    written(folder, parts)
    faults = Faults({})
    read = [
        read_part(part, f"{folder}/annotations/instance_{part}.json", Storage(), faults) for part in ("train", "val")
    ]
    _, _, rows = check(folder, tmp_path / "out")
    found = demo._faults_by_picture(read, pa.Table.from_pylist(rows))
    assert found == {(1, 1): {None: ["content_in_both_parts"]}, (1, 0): {0: ["box_outside", "area_mismatch"]}}


def test_run_takes_the_mode(tmp_path: Path) -> None:
    written(tmp_path / "data", sound(tmp_path / "data"))
    keys = {"Global.mode": "check_dataset", "Global.dataset_dir": tmp_path / "data", "Global.output": tmp_path / "out"}
    options = [word for key, value in keys.items() for word in ("-o", f"{key}={value}")]
    assert main(["run", *options, "-o", "Predict.engine=inline", "-o", "Global.device=gpu:0,1"]) == PASSED


def test_defaults_of_the_section() -> None:
    assert Config().CheckDataset.decode is True
    assert Config().CheckDataset.rules == {}


def test_the_documentation_lists_the_rules_as_they_are() -> None:
    text = (Path(__file__).parents[1] / "docs" / "dataset_rules.md").read_text()
    for name, rule in RULES.items():
        assert f"| `{name}` | {rule.severity} | {rule.meaning} |" in text
    assert text.count("\n| `") == len(RULES)
