"""The result object: keys, files and printing as PaddleX's."""

from __future__ import annotations

import ast
import json

import numpy as np
import pytest
from PIL import Image

from sodbatch.results import DetResult
from sodbatch.threshold import Detections

LABELS = ("car", "café")


def result(input_path="a/picture.jpg", page_index=None):
    detections = Detections(
        np.array([0, 1], np.int32),
        np.array([0.75, 0.5], np.float32),
        np.array([[1, 2, 13, 14.5], [20, 20, 60, 50]], np.float32),
    )
    return DetResult.of(
        detections,
        LABELS,
        image=np.full((80, 120, 3), 70, np.uint8),
        input_path=input_path,
        page_index=page_index,
    )


EXPECTED = {
    "input_path": "a/picture.jpg",
    "page_index": None,
    "boxes": [
        {"cls_id": 0, "label": "car", "score": 0.75, "coordinate": [1.0, 2.0, 13.0, 14.5]},
        {"cls_id": 1, "label": "café", "score": 0.5, "coordinate": [20.0, 20.0, 60.0, 50.0]},
    ],
}


def test_json_holds_what_paddlex_holds():
    assert result().json == {"res": EXPECTED}
    assert result()["boxes"] == EXPECTED["boxes"]


@pytest.mark.parametrize(
    ("input_path", "page", "name"),
    [("a/picture.jpg", None, "picture_res.json"), ("b/doc.pdf", 3, "doc_3_res.json"),
     ("s3://bucket/x.y.png", None, "x.y_res.json")],
)  # fmt: skip
def test_save_to_json_into_a_folder(tmp_path, input_path, page, name):
    result(input_path, page).save_to_json(str(tmp_path / "new"))
    written = json.loads((tmp_path / "new" / name).read_text("utf-8"))
    assert written == {**EXPECTED, "input_path": input_path, "page_index": page}


def test_save_to_json_into_a_file_with_options(tmp_path):
    path = tmp_path / "deep" / "res.json"
    result().save_to_json(str(path), indent=2, ensure_ascii=True)
    text = path.read_text("utf-8")
    assert "caf\\u00e9" in text and '\n  "input_path"' in text
    result().save_to_json(str(path))
    assert "café" in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("input_path", "page", "name"),
    [("a/picture.jpg", None, "picture_res.jpg"), ("b/doc.pdf", 0, "doc_0_res.png"),
     ("c/scan.tif", 2, "scan_2_res.tif"), ("d/sun.ras", None, "sun_res.png")],
)  # fmt: skip
def test_save_to_img_into_a_folder(tmp_path, input_path, page, name):
    result(input_path, page).save_to_img(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert Image.open(tmp_path / name).size == (120, 80)


def test_save_to_img_into_a_file_holds_the_drawn_boxes(tmp_path):
    res = result()
    res.save_to_img(str(tmp_path / "out.png"))
    written = np.asarray(Image.open(tmp_path / "out.png"))
    assert (written == np.asarray(res.img["res"])).all()
    assert (written != 70).any()


def test_an_array_gets_one_made_up_name_for_all_its_files(tmp_path):
    res = result(None)
    res.save_to_json(str(tmp_path))
    res.save_to_img(str(tmp_path))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert [n.split("_res")[1] for n in names] == [".json", ".png"]
    assert names[0].split("_res")[0] == names[1].split("_res")[0]


def test_print(capsys):
    result().print()
    assert json.loads(capsys.readouterr().out) == {"res": EXPECTED}
    result().print(indent=2, ensure_ascii=True)
    out = capsys.readouterr().out
    assert "caf\\u00e9" in out and '\n  "res"' in out
    result().print(format_json=False)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and ast.literal_eval(out) == {"res": EXPECTED}


def test_picture_can_be_drawn_after_boxes_are_filtered():
    res = result()
    res["boxes"] = []
    assert (np.asarray(res.img["res"]) == 70).all()
