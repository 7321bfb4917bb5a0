"""Model folders: what is read from them, what makes them incomplete or foreign, the fingerprint."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sodbatch.errors import UsageError
from sodbatch.model.folder import open_model_folder
from sodbatch.model.spec import VISDRONE_LABELS
from sodbatch.preprocess import Preprocess

CONFIG = {
    "draw_threshold": 0.25,
    "Global": {"model_name": "PP-YOLOE_plus_SOD-S"},
    "Preprocess": [
        {"type": "Resize", "target_size": [64, 96], "keep_ratio": False, "interp": 2},
        {"type": "Permute"},
    ],
    "label_list": ["car", "bus"],
}


def data(name, shape):
    return {"#": "1.data", "A": [attribute("name", name), attribute("shape", shape)]}


def attribute(name, value):
    return {"N": name, "AT": {"D": value}}


def program(*operations):
    return {"program": {"regions": [{"blocks": [{"ops": [{"#": "p", "A": [0, 1]}, *operations]}]}]}}


IMAGE, SCALE = data("image", [-1, 3, 64, 96]), data("scale_factor", [-1, 2])
NMS = {"#": "1.multiclass_nms3", "A": [attribute("keep_top_k", 123)]}
DETECTOR = program(IMAGE, SCALE, NMS)


@pytest.fixture
def make_folder(tmp_path):
    def make(config=CONFIG, graph=DETECTOR, yml="inference.yml", stem="inference"):
        folder = tmp_path / "my-model"
        folder.mkdir(exist_ok=True)
        (folder / yml).write_text(yaml.safe_dump(config))
        (folder / f"{stem}.json").write_text(json.dumps(graph))
        (folder / f"{stem}.pdiparams").write_bytes(b"params")
        return folder

    return make


def test_an_exported_folder_opens(tiny_model_dir):
    folder = open_model_folder(tiny_model_dir)
    assert folder.model_name == "PP-YOLOE_plus_SOD-tiny"
    assert folder.labels == VISDRONE_LABELS
    assert folder.draw_threshold == 0.5
    assert folder.keep_top_k == 500
    assert folder.preprocess == Preprocess(320, 320)
    assert folder.program == tiny_model_dir / "inference.json"
    assert folder.params == tiny_model_dir / "inference.pdiparams"


@pytest.mark.parametrize("yml", ["inference.yml", "infer_cfg.yml"])
@pytest.mark.parametrize("stem", ["inference", "model"])
def test_both_spellings_of_the_names_are_read(make_folder, yml, stem):
    folder = open_model_folder(str(make_folder(yml=yml, stem=stem)))
    assert folder.program.name == f"{stem}.json"
    assert folder.params.name == f"{stem}.pdiparams"
    assert folder.labels == ("car", "bus")
    assert folder.draw_threshold == 0.25
    assert folder.keep_top_k == 123
    assert (folder.preprocess.height, folder.preprocess.width) == (64, 96)


def test_absent_values_take_their_defaults(make_folder):
    config = {key: value for key, value in CONFIG.items() if key not in ("Global", "draw_threshold")}
    folder = open_model_folder(make_folder(config, program(IMAGE, SCALE)))
    assert (folder.model_name, folder.draw_threshold, folder.keep_top_k) == ("my-model", 0.5, 500)


def test_no_cap_on_boxes_is_a_cap_never_reached(make_folder):
    graph = program(IMAGE, SCALE, {"#": "1.multiclass_nms3", "A": [attribute("keep_top_k", -1)]})
    assert open_model_folder(make_folder(graph=graph)).keep_top_k > 10**9


def test_an_older_program_is_read(make_folder):
    path = make_folder()
    (path / "inference.json").unlink()
    (path / "inference.pdmodel").write_bytes(b"\x0a\x05image\x12\x0cscale_factor")
    folder = open_model_folder(path)
    assert folder.program.name == "inference.pdmodel"
    assert folder.keep_top_k == 500


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("inference.yml", "lacks inference.yml or infer_cfg.yml; it holds inference.json, inference.pdiparams"),
        ("inference.json", "lacks inference.json or inference.pdmodel or model.json or model.pdmodel; it holds"),
        ("inference.pdiparams", "lacks inference.pdiparams; it holds inference.json, inference.yml"),
    ],
)
def test_an_incomplete_folder_says_what_is_missing_and_what_is_there(make_folder, name, missing):
    folder = make_folder()
    (folder / name).unlink()
    with pytest.raises(UsageError, match=missing):
        open_model_folder(folder)


def test_an_absent_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist or is not a folder"):
        open_model_folder(tmp_path / "absent")
    with pytest.raises(UsageError, match="it holds nothing"):
        open_model_folder(tmp_path)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (program(data("x", [-1, 3, 224, 224])), "the graph takes x; expected a PP-YOLOE detector"),
        (program(IMAGE), "the graph takes image; expected"),
        (program(IMAGE, SCALE, data("im_shape", [-1, 2])), "takes im_shape, image, scale_factor; expected"),
        (program(data("image", [-1, 3, 640, 640]), SCALE), r"\[640, 640\] pixels, Preprocess makes them \[64, 96\]"),
        ({"nodes": []}, "not a Paddle 3 program"),
        ([], "not a Paddle 3 program"),
    ],
)
def test_a_model_of_another_kind_is_refused(make_folder, graph, message):
    with pytest.raises(UsageError, match=message):
        open_model_folder(make_folder(graph=graph))


def test_a_graph_of_free_input_size_fits_any_preprocess(make_folder):
    assert open_model_folder(make_folder(graph=program(data("image", [-1, 3, -1, -1]), SCALE, NMS)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_list": []}, "label_list"),
        ({"label_list": "car"}, "label_list"),
        ({"label_list": ["car", "bus\n_SUCCESS"]}, "without line breaks and control characters"),
        ({"label_list": ["\x1b[31mcar"]}, "without line breaks and control characters"),
        ({"draw_threshold": 2}, "draw_threshold is 2"),
        ({"draw_threshold": float("nan")}, "draw_threshold is nan"),
        ({"draw_threshold": True}, "draw_threshold is True"),
        ({"Preprocess": [{"type": "Pad"}]}, "steps Pad"),
        ({"Preprocess": None}, "Preprocess must be a list"),
    ],
)
def test_a_yml_that_is_not_understood_is_refused_with_the_folder(make_folder, change, message):
    with pytest.raises(UsageError, match=rf"my-model: .*{message}"):
        open_model_folder(make_folder(CONFIG | change))


@pytest.mark.parametrize("text", ["a: [", "just text", "", "!!python/object/apply:os.system ['touch ran']"])
def test_a_yml_that_is_no_plain_mapping_is_refused(make_folder, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_folder()
    (folder / "inference.yml").write_text(text)
    with pytest.raises(UsageError, match=r"inference\.yml"):
        open_model_folder(folder)
    assert not (tmp_path / "ran").exists()


def test_a_link_out_of_the_folder_is_refused(make_folder, tmp_path):
    folder = make_folder()
    outside = tmp_path / "secret"
    shutil.move(folder / "inference.pdiparams", outside)
    (folder / "inference.pdiparams").symlink_to(outside)
    with pytest.raises(UsageError, match=r"inference\.pdiparams is a link out of the folder"):
        open_model_folder(folder)


def test_the_fingerprint_follows_content_not_place(make_folder, tmp_path):
    folder = make_folder()
    fingerprint = open_model_folder(folder).fingerprint
    digests = [
        hashlib.sha256((folder / name).read_bytes()).digest()
        for name in ("inference.json", "inference.pdiparams", "inference.yml")
    ]
    assert fingerprint == hashlib.sha256(b"".join(digests)).hexdigest()
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert open_model_folder(copy).fingerprint == fingerprint
    for name in ("inference.json", "inference.pdiparams", "inference.yml"):
        changed = Path(shutil.copytree(folder, tmp_path / f"changed-{name}"))
        with (changed / name).open("ab") as file:
            file.write(b"\n")
        assert open_model_folder(changed).fingerprint != fingerprint


def test_opening_a_folder_imports_neither_paddle_nor_opencv(make_folder):
    code = (
        "import sys; from sodbatch.model.folder import open_model_folder; import sodbatch.model.export;"
        f"open_model_folder({str(make_folder())!r}); print({{'paddle', 'cv2', 'ray'}} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
