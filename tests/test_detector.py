"""create_model(...).predict(...): inputs, laziness, thresholds and errors as users of PaddleX expect them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sodbatch import create_model
from sodbatch.errors import ErrorClass, PictureError, UsageError
from sodbatch.model.folder import open_model_folder
from sodbatch.predictor.paddle import PaddlePredictor

NAME = "PP-YOLOE_plus_SOD-tiny"


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return create_model(NAME, tiny_model_dir, 0.1, backend="paddle", device="cpu", threads=2)


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(1)
    image = rng.normal(110, 15, (240, 400, 3)).clip(0, 255).astype(np.uint8)
    for _ in range(60):
        y, x = rng.integers(0, 220), rng.integers(0, 380)
        image[y : y + rng.integers(4, 20), x : x + rng.integers(4, 20)] = rng.integers(0, 256, 3)
    return image


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "b.png"), picture)
    cv2.imwrite(str(tmp_path / "deep" / "a.bmp"), picture[:, ::-1])
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def boxes_by_hand(model_dir, image, threshold):
    """The raw graph output through PaddleX's rules, one box at a time."""
    folder = open_model_folder(model_dir)
    shape = (folder.preprocess.width, folder.preprocess.height)
    resized = cv2.resize(image, shape, interpolation=cv2.INTER_CUBIC)[..., ::-1]
    raw = PaddlePredictor(folder, threads=2).predict(resized[None], np.array([image.shape[:2]], np.int32))[0]
    height, width = image.shape[:2]
    found = []
    for cls_id, score, x1, y1, x2, y2 in raw.tolist():
        limit = threshold.get(int(cls_id), 0.5) if isinstance(threshold, dict) else threshold
        x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
        if score > limit and x2 > x1 and y2 > y1:
            found.append((int(cls_id), folder.labels[int(cls_id)], score, [x1, y1, x2, y2]))
    return found


def rows(result):
    return [(box["cls_id"], box["label"], box["score"], box["coordinate"]) for box in result["boxes"]]


@pytest.mark.parametrize("threshold", [0.2, {0: 0.05, 3: 0.9}])
def test_boxes_are_those_of_the_graph_under_paddlex_rules(model, tiny_model_dir, picture, threshold):
    (result,) = model.predict(picture, threshold=threshold)
    expected = boxes_by_hand(tiny_model_dir, picture, threshold)
    assert len(expected) > 3
    assert [row[:2] for row in rows(result)] == [row[:2] for row in expected]
    for found, wanted in zip(rows(result), expected):
        assert found[2] == pytest.approx(wanted[2], abs=1e-4)
        assert found[3] == pytest.approx(wanted[3], abs=0.02)
    assert result["input_path"] is None and result["page_index"] is None


def test_every_kind_of_input(model, folder, picture):
    png, bmp = str(folder / "b.png"), str(folder / "deep" / "a.bmp")
    (of_array,), (of_path,), (of_object,) = (list(model.predict(source)) for source in (picture, png, folder / "b.png"))
    assert rows(of_array) == rows(of_path) == rows(of_object) and len(rows(of_path)) > 3
    assert of_path["input_path"] == png
    assert sorted(result["input_path"] for result in model.predict(str(folder))) == sorted([png, bmp])
    assert [result["input_path"] for result in model.predict([bmp, picture, png])] == [bmp, None, png]
    assert [result["input_path"] for result in model.predict(str(folder / "*.png"))] == [png]
    assert [result["input_path"] for result in model.predict([str(folder / "deep"), png])] == [bmp, png]


def test_url(model, folder, picture, tmp_path):
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/b.png"
    try:
        (result,) = model.predict(url + "?Signature=secret")
    finally:
        server.shutdown()
        server.server_close()
    assert rows(result) == rows(next(model.predict(picture)))
    assert result["input_path"] == url
    result.save_to_json(str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "b_res.json").read_text())["input_path"] == url


def test_pages_of_tiff_and_pdf(model, tmp_path, picture):
    pages = [Image.fromarray(np.ascontiguousarray(page[..., ::-1])) for page in (picture, picture[:, ::-1])]
    for name in ("scan.tif", "scan.pdf"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        results = list(model.predict(str(tmp_path / name), batch_size=2))
        assert [result["page_index"] for result in results] == [0, 1]
        results[1].save_to_json(str(tmp_path))
        assert (tmp_path / "scan_1_res.json").exists()
    tiff = list(model.predict(str(tmp_path / "scan.tif")))
    assert rows(tiff[1]) == rows(next(model.predict(np.ascontiguousarray(picture[:, ::-1]))))


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_batch_size_changes_no_result(model, picture, batch_size):
    pictures = [np.ascontiguousarray(np.roll(picture, shift, axis=1)) for shift in range(0, 250, 50)]
    one_by_one = list(model.predict(pictures))
    for alone, together in zip(one_by_one, model.predict(pictures, batch_size=batch_size), strict=True):
        assert [row[:2] for row in rows(alone)] == [row[:2] for row in rows(together)]
        for a, b in zip(rows(alone), rows(together)):
            assert a[3] == pytest.approx(b[3], abs=1e-2) and a[2] == pytest.approx(b[2], abs=1e-5)


def test_predict_is_lazy(model, picture, tmp_path):
    results = model.predict([picture, str(tmp_path / "missing.png")])
    assert len(next(results)["boxes"]) > 3
    with pytest.raises(PictureError):
        next(results)


def test_threshold_of_predict_goes_before_create_model_before_yml(tiny_model_dir, picture):
    def lowest(at_create, at_predict):
        model = create_model(NAME, tiny_model_dir, at_create, backend="paddle", device="cpu", threads=2)
        (result,) = model.predict(picture, threshold=at_predict)
        return min(box["score"] for box in result["boxes"])

    assert lowest(None, None) > 0.5  # draw_threshold of the yml
    assert 0.2 < lowest(0.2, None) < 0.5
    assert 0.05 < lowest(0.2, 0.05) < 0.2
    assert lowest(0.05, 0.2) > 0.2


def test_lower_threshold_after_a_higher_one_still_finds_all(tiny_model_dir, picture):
    model = create_model(NAME, tiny_model_dir, 0.9, backend="paddle", device="cpu", threads=2)
    few = next(model.predict(picture))
    many = next(model.predict(picture, threshold=0.1))
    again = next(model.predict(picture))
    assert len(few["boxes"]) < len(many["boxes"]) == len(boxes_by_hand(tiny_model_dir, picture, 0.1))
    assert rows(again) == rows(few)


@pytest.mark.parametrize(
    ("content", "error_class"),
    [(b"", ErrorClass.EMPTY), (b"this is text", ErrorClass.NOT_AN_IMAGE), (None, ErrorClass.MISSING)],
)
def test_bad_picture_raises_with_its_class_and_name(model, tmp_path, content, error_class):
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PictureError, match=r"bad\.jpg") as caught:
        list(model.predict(str(path)))
    assert caught.value.error_class is error_class


def test_arguments_that_mean_nothing_are_refused_at_once(model, picture, tiny_model_dir):
    for bad in (None, 3, [picture, 3], picture[..., 0], picture.astype(np.float32), picture[:0]):
        with pytest.raises(UsageError, match="input"):
            model.predict(bad)
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(UsageError, match="batch_size"):
            model.predict(picture, batch_size=bad)
    for bad in (float("nan"), 2, {99: 0.5}):
        with pytest.raises(UsageError, match="threshold"):
            model.predict(picture, threshold=bad)
        with pytest.raises(UsageError, match="threshold"):
            create_model(NAME, tiny_model_dir, bad)
    with pytest.raises(UsageError, match="backend"):
        create_model(NAME, tiny_model_dir, backend="torch")
    with pytest.raises(UsageError, match="nowhere"):
        create_model(NAME, "/nowhere/at/all")


def test_empty_folder_is_refused(model, tmp_path):
    with pytest.raises(UsageError):
        list(model.predict(str(tmp_path)))


def test_model_folder_by_url_is_fetched_once_for_each_state(tiny_model_dir, picture, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    for file in Path(tiny_model_dir).iterdir():
        memory.pipe_file(f"/models/tiny/{file.name}", file.read_bytes())
    try:
        model = create_model(NAME, "memory://models/tiny", 0.1, backend="paddle", device="cpu", threads=2)
        assert len(next(model.predict(picture))["boxes"]) > 3
        create_model(NAME, "memory://models/tiny")
        assert len([p for p in (tmp_path / "cache" / "remote").iterdir() if p.is_dir()]) == 1
        memory.pipe_file("/models/tiny/inference.yml", memory.cat_file("/models/tiny/inference.yml") + b"\n")
        create_model(NAME, "memory://models/tiny")
        assert len([p for p in (tmp_path / "cache" / "remote").iterdir() if p.is_dir()]) == 2
        memory.rm_file("/models/tiny/inference.pdiparams")
        with pytest.raises(UsageError, match="inference"):
            create_model(NAME, "memory://models/tiny")
    finally:
        memory.rm("/models", recursive=True)


def test_importing_sodbatch_imports_no_heavy_package():
    code = """
import sys, sodbatch
heavy = {"ray", "paddle", "cv2", "openvino", "onnxruntime"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
sodbatch.create_model
assert not {"ray", "paddle"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_larger_batch_runs_together(tiny_model_dir, picture, monkeypatch):
    ran = []
    run = PaddlePredictor._run

    def counted(self, images, sizes):
        ran.append(len(images))
        return run(self, images, sizes)

    monkeypatch.setattr(PaddlePredictor, "_run", counted)
    model = create_model(NAME, tiny_model_dir, backend="paddle", device="cpu", threads=1)
    list(model.predict([picture] * 2, batch_size=2))
    ran.clear()
    list(model.predict([picture] * 4, batch_size=4))
    assert 4 in ran and 2 not in ran
