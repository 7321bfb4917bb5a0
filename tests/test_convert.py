"""Conversion to COCO: what the tests' own writers have written comes back, and what cannot be read changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
import pytest
from dying import dying_before_rename

from sodbatch.dataset.coco import read_part
from sodbatch.dataset.convert import convert, texts
from sodbatch.dataset.faults import Faults
from sodbatch.dataset.swap import finish_swap
from sodbatch.errors import JobError, UsageError
from sodbatch.storage import Storage

Picture = dict[str, Any]


def pictures_of(count: int) -> list[Picture]:
    """Pictures with boxes in fractions of a pixel; every fourth has none."""
    pictures = []
    for i in range(count):
        boxes = [(f"class {j % 3} <&>", (3.125 * j, 1.5, 3.125 * j + 7.25, 9.75 + j)) for j in range(i % 4)]
        pictures.append({"name": f"ü {i}.jpg", "width": 64 + i, "height": 48, "boxes": boxes})
    return pictures


def voc(picture: Picture) -> str:
    objects = "".join(
        f"<object>\n<name>{escape(label)}</name><difficult>1</difficult><truncated>0</truncated>"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y0}</ymin><xmax>{x0}</xmax><ymax>{y1}</ymax></bndbox></object>\n"
        for label, (x0, y0, x1, y1) in picture["boxes"]
    )
    size = f"<size><width>{picture['width']}</width><height>{picture['height']}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{picture['name']}</filename>{size}\n{objects}</annotation>"


def labelme(picture: Picture) -> str:
    shapes = [
        {"label": label, "points": [[x1, y0], [x0, y1]], "shape_type": "rectangle"}
        for label, (x0, y0, x1, y1) in picture["boxes"]
    ]
    content = {"imagePath": "..\\images\\" + picture["name"], "shapes": shapes}
    return json.dumps(content | {"imageWidth": picture["width"], "imageHeight": picture["height"]}, indent=1)


WRITERS: dict[str, tuple[str, Callable[[Picture], str]]] = {"VOC": (".xml", voc), "LabelMe": (".json", labelme)}


def make(folder: Path, kind: str, train: list[Picture], val: list[Picture] | None) -> None:
    """Write a data set; of VOC, a line of a list names the picture too, with a blank between."""
    suffix, write = WRITERS[kind]
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for part, pictures in (("train", train), ("val", val)):
        if pictures is None:
            continue
        lines = []
        for picture in pictures:
            (folder / "images" / picture["name"]).write_bytes(b"")
            name = "annotations/" + picture["name"].replace(" ", "_").replace(".jpg", suffix)
            (folder / name).write_text(write(picture), encoding="utf-8")
            lines.append(f"images\\{picture['name']} {name}" if kind == "VOC" else name.replace("/", "\\"))
        (folder / f"{part}_anno_list.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def found(folder: Path, part: str) -> list[Picture]:
    content = json.loads((folder / "annotations" / f"instance_{part}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    pictures = []
    for image in content["images"]:
        boxes = [
            (names[a["category_id"]], (x, y, x + w, y + h))
            for a in content["annotations"]
            if a["image_id"] == image["id"]
            for x, y, w, h in [a["bbox"]]
        ]
        pictures.append(
            {"name": image["file_name"], "width": image["width"], "height": image["height"], "boxes": boxes}
        )
    return pictures


@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_written_comes_back(tmp_path: Path, kind: str) -> None:
    pictures = pictures_of(12)
    make(tmp_path, kind, pictures[:8], pictures[8:])
    converted = convert(str(tmp_path), kind, seed=0)
    assert converted.pictures == {"train": 8, "val": 4}
    for part, expected in (("train", pictures[:8]), ("val", pictures[8:])):
        assert found(tmp_path, part) == expected  # boxes in eighths of a pixel are exact


def jpeg(width: int, height: int) -> bytes:
    return cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()


def make_txt(folder: Path, texts: list[str], width: int = 640, height: int = 480) -> None:
    """Write a data set of one text file a picture; the last picture is val."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i, text in enumerate(texts):
        (folder / "images" / f"p{i}.jpg").write_bytes(jpeg(width, height))
        (folder / "labels" / f"p{i}.txt").write_text(text)
    lines = [f"labels/p{i}.txt\n" for i in range(len(texts))]
    (folder / "train_anno_list.txt").write_text("".join(lines[:-1]))
    (folder / "val_anno_list.txt").write_text(lines[-1])


def test_yolo_comes_back_in_pixels(tmp_path: Path) -> None:
    make_txt(tmp_path, ["1 0.5 0.25 0.1 0.05\n0 0.1 0.1 0.0125 0.0625\n", "", "1 0.5 0.5 1 1"])
    (tmp_path / "classes.txt").write_text("car\nbus\ntram\n")
    assert convert(str(tmp_path), "YOLO", seed=0).pictures == {"train": 2, "val": 1}
    first, second = found(tmp_path, "train")
    assert [label for label, _ in first["boxes"]] == ["bus", "car"]
    expected = [(288, 108, 352, 132), (60, 33, 68, 63)]
    np.testing.assert_allclose([box for _, box in first["boxes"]], expected, atol=1e-3)
    assert (second["boxes"], second["width"], second["height"]) == ([], 640, 480)
    assert found(tmp_path, "val")[0]["boxes"] == [("bus", (0, 0, 640, 480))]
    content = json.loads((tmp_path / "annotations" / "instance_val.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["car", "bus", "tram"]


def test_a_text_below_a_folder_belongs_to_the_picture_below_the_same(tmp_path: Path) -> None:
    make_txt(tmp_path, ["", ""])
    (tmp_path / "classes.txt").write_text("car\n")
    for folder in ("images", "labels"):
        (tmp_path / folder / "deep.v1").mkdir()
    (tmp_path / "images" / "deep.v1" / "p0.png").write_bytes(jpeg(64, 32))
    (tmp_path / "labels" / "deep.v1" / "p0.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "labels" / "deep.v1" / "p1.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "train_anno_list.txt").write_text("labels/deep.v1/p0.txt\n")
    convert(str(tmp_path), "YOLO", seed=0)
    assert [(p["name"], p["width"]) for p in found(tmp_path, "train")] == [("deep.v1/p0.png", 64)]
    (tmp_path / "train_anno_list.txt").write_text("labels/deep.v1/p1.txt\n")
    with pytest.raises(UsageError, match=r"its picture 'deep.v1/p1' is not in images/"):
        convert(str(tmp_path), "YOLO", seed=0)


def test_pictures_that_differ_in_their_ends_alone_do_not_become_one_text(tmp_path: Path) -> None:
    pictures = pictures_of(4)
    pictures[1]["name"] = pictures[0]["name"].replace(".jpg", ".png")
    content = {
        "images": [
            {"id": i, "file_name": p["name"], "width": p["width"], "height": p["height"]}
            for i, p in enumerate(pictures)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    part = read_part("train", str(tmp_path / "train.json"), Storage(), Faults({}))
    with pytest.raises(JobError, match="could not be told apart in YOLO"):
        list(texts([part], "YOLO"))


def test_visdrone_leaves_out_what_is_ignored_and_says_so(tmp_path: Path) -> None:
    make_txt(tmp_path, ["684,8,273,116,0,0,0,0\n406,119,265,70,1,4,0,1,\n", "1,2,3,4,1,11,0,0\n5,6,7,8,1,10,1,2"])
    converted = convert(str(tmp_path), "VisDrone", seed=0)
    assert found(tmp_path, "train")[0]["boxes"] == [("car", (406, 119, 671, 189))]
    assert found(tmp_path, "val")[0]["boxes"] == [("motor", (5, 6, 12, 14))]
    assert converted.notes == {"ignored regions left out": 1, "boxes of the category others left out": 1}
    content = json.loads((tmp_path / "annotations" / "instance_val.json").read_text())
    assert (content["annotations"][0]["truncation"], content["annotations"][0]["occlusion"]) == (1, 2)
    assert len(content["categories"]) == 10


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("YOLO", "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1", "line 2: expected 5 numbers"),
        ("YOLO", "\n3 0.5 0.5 0.1 0.1", "line 2: class 3: expected 0 to 2"),
        ("YOLO", "0 0.5 x 0.1 0.1", "line 1: expected numbers"),
        ("YOLO", "0 nan 0.5 0.1 0.1", "line 1: expected finite numbers"),
        ("VisDrone", "1,2,3,4", "line 1: expected 8 numbers"),
        ("VisDrone", "1,2,3,4,1,12,0,0", "line 1: category 12"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, kind: str, text: str, message: str) -> None:
    make_txt(tmp_path, [text, ""])
    (tmp_path / "classes.txt").write_text("car\nbus\ntram\n")
    with pytest.raises(UsageError, match=message):
        convert(str(tmp_path), kind, seed=0)
    assert not (tmp_path / "annotations" / "instance_train.json").exists()


def test_yolo_without_the_names_of_its_classes_is_refused(tmp_path: Path) -> None:
    make_txt(tmp_path, ["", ""])
    with pytest.raises(UsageError, match=r"classes.txt: expected a text file"):
        convert(str(tmp_path), "YOLO", seed=0)


def test_ids_count_from_one_over_both_parts_and_both_have_all_categories(tmp_path: Path) -> None:
    pictures = pictures_of(12)
    make(tmp_path, "VOC", pictures[:6], pictures[6:])
    convert(str(tmp_path), "VOC", seed=0)
    train, val = (json.loads((tmp_path / f"annotations/instance_{p}.json").read_text()) for p in ("train", "val"))
    assert [image["id"] for image in train["images"] + val["images"]] == list(range(1, 13))
    assert train["categories"] == val["categories"]
    assert [category["id"] for category in train["categories"]] == [1, 2, 3]
    for content in (train, val):
        assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
        assert all((a["difficult"], a["truncated"], a["iscrowd"]) == (1, 0, 0) for a in content["annotations"])


def test_without_a_list_for_val_the_list_is_divided_by_the_seed(tmp_path: Path) -> None:
    results = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        make(folder, "LabelMe", pictures_of(20), None)
        original = (folder / "train_anno_list.txt").read_bytes()
        assert convert(str(folder), "LabelMe", seed).pictures == {"train": 16, "val": 4}
        assert (folder / "train_anno_list.txt.bak").read_bytes() == original
        lists = [(folder / f"{part}_anno_list.txt").read_text().split("\n") for part in ("train", "val")]
        assert sorted(line for lines in lists for line in lines if line) == sorted(original.decode().split("\n")[:-2])
        results.append(lists)
    assert results[0] == results[1] != results[2]


def test_polygons_become_boxes_and_that_is_said(tmp_path: Path) -> None:
    make(tmp_path, "LabelMe", pictures_of(2), pictures_of(4)[2:])
    path = next((tmp_path / "annotations").glob("*0.json"))
    content = json.loads(path.read_text())
    content["shapes"] = [{"label": "a", "points": [[5, 1], [9.5, 4], [2, 8]], "shape_type": "polygon"}]
    path.write_text(json.dumps(content))
    converted = convert(str(tmp_path), "LabelMe", seed=0)
    assert found(tmp_path, "train")[0]["boxes"] == [("a", (2, 1, 9.5, 8))]
    assert converted.notes == {"polygons turned into the boxes around them": 1}


def test_the_list_of_unlabelled_pictures_is_kept_beside(tmp_path: Path) -> None:
    make(tmp_path, "VOC", pictures_of(4), pictures_of(8)[4:])
    (tmp_path / "unlabeled.txt").write_text("images/x.jpg\n")
    convert(str(tmp_path), "VOCWithUnlabeled", seed=0)
    assert (tmp_path / "annotations" / "unlabeled.txt").read_text() == "images/x.jpg\n"


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&c;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("VOC", lambda text: text[:-20], r"\.xml, line \d+: not XML"),
        ("VOC", lambda text: text.replace("<ymax>", "<ymax>x", 1), r"\.xml, line 3: ymax: expected a number"),
        ("VOC", lambda text: text.replace("<xmin>", "<xmin>inf", 1).replace("inf1", "inf"), "expected a"),
        (
            "VOC",
            lambda text: text.replace("<size>", "<sizes>").replace("</size>", "</sizes>"),
            "expected an element size",
        ),
        ("VOC", lambda text: BOMB, "document types and entities are not read"),
        ("VOC", lambda text: text.replace("ü 1.jpg", "../../etc/passwd"), "is not in images/"),
        ("LabelMe", lambda text: text[:-5], r"\.json, line \d+: not JSON"),
        (
            "LabelMe",
            lambda text: text.replace('"rectangle"', '"circle"', 1),
            r"line \d+: shape 0: expected",
        ),
        ("LabelMe", lambda text: text.replace('"imageWidth": 6', '"imageWidth": -6'), "imageWidth: expected a whole"),
        ("LabelMe", lambda text: "[]", "expected an object"),
    ],
)
def test_what_cannot_be_read_is_named_and_changes_nothing(
    tmp_path: Path, kind: str, change: Callable[[str], str], message: str
) -> None:
    make(tmp_path, kind, pictures_of(4), None)
    path = next((tmp_path / "annotations").glob("*_1.*"))
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    if "etc" in message or "images/" in message:
        (tmp_path / "images" / "ü 1.jpg").unlink()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UsageError, match=message):
        convert(str(tmp_path), kind, seed=0)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("line", ["annotations/none.xml", "../outside.xml", "/etc/passwd", "images/ü 0.jpg"])
def test_a_line_that_names_no_annotation_below_the_folder_is_refused(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "data"
    make(folder, "VOC", pictures_of(4), pictures_of(8)[4:])
    (tmp_path / "outside.xml").write_text(voc(pictures_of(1)[0]))
    (folder / "val_anno_list.txt").write_text(line + "\n")
    with pytest.raises(UsageError, match="line 1 of val_anno_list.txt"):
        convert(str(folder), "VOC", seed=0)


@pytest.mark.parametrize("calls", range(12))
def test_killed_before_any_of_its_renames_the_source_is_whole(tmp_path: Path, calls: int) -> None:
    pictures = pictures_of(10)
    make(tmp_path, "VOC", pictures, None)
    original = (tmp_path / "train_anno_list.txt").read_bytes()
    with dying_before_rename(calls):
        convert(str(tmp_path), "VOC", seed=0)
    if not finish_swap(str(tmp_path)) and not (tmp_path / "annotations" / "instance_train.json").exists():
        assert (tmp_path / "train_anno_list.txt").read_bytes() == original
        convert(str(tmp_path), "VOC", seed=0)
    assert (tmp_path / "train_anno_list.txt.bak").read_bytes() == original
    by_name = sorted(found(tmp_path, "train") + found(tmp_path, "val"), key=lambda picture: str(picture["name"]))
    assert by_name == pictures


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("VOC", "<width>65</width>", "<width>1e30</width>", "expected a number of pixels"),
        ("VOC", "<difficult>1</difficult>", "<difficult>Unspecified</difficult>", None),
        ("VOC", "<xmin>7.25</xmin>", "<xmin>1e308</xmin>", "expected a number of pixels"),
        ("LabelMe", '"imageWidth": 65', '"imageWidth": 1' + "0" * 400, "imageWidth"),
        ("LabelMe", '"imageWidth": 65', '"imageWidth": 1' + "0" * 5000, "not JSON"),
        ("LabelMe", '"class 0 <&>"', '"\\ud800"', "is no text"),
    ],
)
def test_numbers_and_texts_that_coco_cannot_hold_are_named(
    tmp_path: Path, kind: str, old: str, new: str, message: str | None
) -> None:
    make(tmp_path, kind, pictures_of(4), pictures_of(8)[4:])
    path = next(path for path in sorted((tmp_path / "annotations").iterdir()) if old in path.read_text())
    path.write_text(path.read_text().replace(old, new))
    if message is None:
        convert(str(tmp_path), kind, seed=0)
        return
    with pytest.raises(UsageError, match=message) as caught:
        convert(str(tmp_path), kind, seed=0)
    assert path.name in str(caught.value)
    assert not (tmp_path / "annotations" / "instance_train.json").exists()


def test_a_picture_that_two_lines_name_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "VOC", pictures_of(4), pictures_of(8)[4:])
    lines = (tmp_path / "train_anno_list.txt").read_text()
    (tmp_path / "val_anno_list.txt").write_text(lines.splitlines()[2] + "\n")
    with pytest.raises(
        UsageError, match="line 1 of val_anno_list.txt: its picture .* is that of line 3 of train_anno_list"
    ):
        convert(str(tmp_path), "VOC", seed=0)


@pytest.mark.parametrize("text", ["a\n\nb\n", "a\na\n", "\n"])
def test_names_of_classes_that_would_shift_the_others_are_refused(tmp_path: Path, text: str) -> None:
    make(tmp_path, "VOC", pictures_of(4), pictures_of(8)[4:])
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UsageError, match="none blank or twice"):
        convert(str(tmp_path), "YOLO", seed=0)


@pytest.mark.parametrize("kind", ["YOLO", "VOC"])
def test_coco_goes_to_another_format_and_back(tmp_path: Path, kind: str) -> None:
    pictures = pictures_of(12)
    make(tmp_path / "first", "LabelMe", pictures[:8], pictures[8:])
    convert(str(tmp_path / "first"), "LabelMe", seed=0)
    faults, storage, second = Faults({}), Storage(), tmp_path / "second"
    files = {part: str(tmp_path / "first" / "annotations" / f"instance_{part}.json") for part in ("train", "val")}
    parts = [read_part(part, file, storage, faults) for part, file in files.items()]
    for path, text in texts(parts, kind):
        (second / path).parent.mkdir(parents=True, exist_ok=True)
        (second / path).write_text(text, encoding="utf-8")
    (second / "images").mkdir()
    for picture in pictures:
        (second / "images" / picture["name"]).write_bytes(jpeg(picture["width"], picture["height"]))
    convert(str(second), kind, seed=0)
    for part, expected in (("train", pictures[:8]), ("val", pictures[8:])):
        back = found(second, part)
        assert [{**picture, "boxes": len(picture["boxes"])} for picture in back] == [
            {**picture, "boxes": len(picture["boxes"])} for picture in expected
        ]
        for picture, other in zip(back, expected):
            assert [label for label, _ in picture["boxes"]] == [label for label, _ in other["boxes"]]
            ours, theirs = ([box for _, box in each["boxes"]] for each in (picture, other))
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
