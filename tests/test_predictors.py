"""Predictors on the reduced model: backends agree, the score floor is exact, bad conversions are refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import sodbatch.predictor as predictor_module
import sodbatch.predictor.paddle as paddle_module
from sodbatch.errors import UsageError
from sodbatch.model.folder import open_model_folder
from sodbatch.predictor import conversion as conversion_module
from sodbatch.predictor import create_predictor
from sodbatch.predictor.agreement import compare
from sodbatch.predictor.conversion import sample_pictures
from sodbatch.predictor.onnxruntime import ONNXRuntimePredictor
from sodbatch.predictor.paddle import program_with_floor

BACKENDS = ["paddle", "openvino", "onnxruntime"]
run_paddle2onnx = conversion_module.run_paddle2onnx


@pytest.fixture(scope="module")
def folder(tiny_model_dir):
    return open_model_folder(tiny_model_dir)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("SODBATCH_CACHE", str(shared_cache))


@pytest.fixture
def new_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def pictures(folder):
    return sample_pictures(folder.preprocess)


@pytest.fixture(scope="module")
def expected(folder, pictures):
    predictor, _ = create_predictor(folder, backend="paddle", threads=2)
    return predictor.predict(*pictures)


def assert_same_boxes(reference, found, score, box):
    """Each box of one side has exactly one of the other within the tolerances, by brute force."""
    for a, b in zip(reference, found, strict=True):
        assert len(a) == len(b)
        free = np.ones(len(b), bool)
        for row in a:
            close = free & (b[:, 0] == row[0]) & (np.abs(b[:, 1] - row[1]) <= score)
            close &= (np.abs(b[:, 2:] - row[2:]) <= box).all(axis=1)
            assert close.any(), f"no partner for {row}"
            free[np.flatnonzero(close)[0]] = False


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_find_the_boxes_of_paddle(folder, pictures, expected, cache, backend):
    predictor, reason = create_predictor(folder, backend=backend, threads=2)
    found = predictor.predict(*pictures)
    assert sum(map(len, found)) > 100 and backend in reason
    # The crowded third picture is cut at keep_top_k, where rounding may choose another last box.
    assert_same_boxes(expected[:2], found[:2], 1e-3, 0.1)
    assert all(boxes.dtype == np.float32 for boxes in found)
    for boxes in found:
        order = np.lexsort((-boxes[:, 1], boxes[:, 0]))
        assert (boxes[order] == boxes).all()


def test_bfloat16_finds_nearly_the_same_or_says_that_the_cpu_has_none(folder, pictures, expected, cache):
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UsageError, match="bf16"):
            create_predictor(folder, precision="bf16", threads=2)
        return
    predictor, _ = create_predictor(folder, precision="bf16", threads=2)
    boxes = predictor.predict(*pictures)[0]
    sure = [row for row in expected[0] if row[1] > 0.3]
    near = [(np.abs(boxes[:, 1] - row[1]) < 0.1) & (np.abs(boxes[:, 2:] - row[2:]) < 5).all(axis=1) for row in sure]
    assert len(sure) > 10 and sum(map(np.any, near)) > 0.9 * len(sure)


@pytest.mark.parametrize("backend", BACKENDS)
def test_score_floor_changes_nothing_above_it(folder, pictures, cache, backend):
    whole = create_predictor(folder, backend=backend, threads=1)[0].predict(*pictures)
    scores = np.concatenate([boxes[:, 1] for boxes in whole])
    for floor in (float(np.median(scores)), float(scores.max()), 1.0):
        predictor, _ = create_predictor(folder, backend=backend, threads=1, score_floor=floor)
        for all_boxes, boxes in zip(whole, predictor.predict(*pictures), strict=True):
            np.testing.assert_array_equal(boxes, all_boxes[all_boxes[:, 1] > np.float32(floor)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_score_floor_never_lowers_the_graphs_own(folder, pictures, cache, backend):
    predictor, _ = create_predictor(folder, backend=backend, threads=2, score_floor=0.0)
    lowest = min(boxes[:, 1].min() for boxes in predictor.predict(*pictures))
    assert 0.01 < lowest < 0.02


def test_program_with_floor_is_a_copy_that_goes_away(folder, tmp_path):
    before = folder.program.read_bytes()
    with program_with_floor(folder.program, 0.25) as changed:
        assert changed != folder.program
        assert '"N": "score_threshold"' in changed.read_text() and ": 0.25}" in changed.read_text()
    assert not changed.exists() and folder.program.read_bytes() == before
    with program_with_floor(folder.program, 0.005) as unchanged:
        assert unchanged == folder.program
    with program_with_floor(tmp_path / "inference.pdmodel", 0.25) as older:
        assert older == tmp_path / "inference.pdmodel"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pictures_boxes_do_not_depend_on_its_batch(folder, pictures, cache, backend):
    images, sizes = pictures
    predictor, _ = create_predictor(folder, backend=backend, threads=2, batch_size=2)
    together = predictor.predict(images, sizes)
    reversed_ = predictor.predict(images[::-1], sizes[::-1])[::-1]
    alone = [predictor.predict(images[i : i + 1], sizes[i : i + 1])[0] for i in range(len(images))]
    assert_same_boxes(together, alone, 1e-5, 1e-3)
    assert_same_boxes(together, reversed_, 1e-5, 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normalisation_outside_the_graph(folder, pictures, cache, backend):
    # The graph must see the same numbers from pixels p under p * scale + shift as from these as pixels.
    images, sizes = (part[:2] for part in pictures)
    scale, shift = np.array([0.5, 0.25, 1.0]), np.array([20.0, 0.0, 0.0])
    coarse = images // 4 * 4
    normalized = (coarse * scale + shift).astype(np.uint8)
    other = replace(folder, preprocess=replace(folder.preprocess, scale=tuple(scale), shift=tuple(shift)))
    want = create_predictor(folder, backend=backend, threads=2)[0].predict(normalized, sizes)
    found = create_predictor(other, backend=backend, threads=2)[0].predict(coarse, sizes)
    assert sum(map(len, want)) > 0
    assert_same_boxes(want, found, 1e-3, 0.1)


def test_picture_without_boxes(folder, cache, pictures):
    for backend in BACKENDS:
        predictor, _ = create_predictor(folder, backend=backend, threads=2, score_floor=1.0)
        assert [boxes.shape for boxes in predictor.predict(*pictures)] == [(0, 6)] * 3


def test_auto_on_a_cpu_is_openvino_and_says_why(folder, cache):
    predictor, reason = create_predictor(folder, threads=2)
    assert predictor.name == "openvino"
    assert "default on a CPU" in reason and "agrees with paddle" in reason and "\n" not in reason


def test_auto_without_openvino_is_paddle(folder, monkeypatch):
    monkeypatch.setattr(predictor_module, "find_spec", lambda name: None if name == "openvino" else object())
    predictor, reason = create_predictor(folder, threads=2)
    assert predictor.name.startswith("paddle-cpu") and "openvino not installed" in reason
    with pytest.raises(UsageError, match="openvino"):
        create_predictor(folder, backend="openvino")


def tampered(change):
    """A conversion whose ONNX file is changed afterwards; counts its calls."""
    import onnx

    def run(folder, graph):
        run.calls += 1
        error = run_paddle2onnx(folder, graph)
        model = onnx.load(str(graph))
        change(model)
        onnx.save(model, str(graph))
        return error

    run.calls = 0
    return run


def scale_a_weight(model):
    from onnx import numpy_helper

    weights = [
        node.attribute[0].t
        for node in model.graph.node
        if node.op_type == "Constant" and len(node.attribute[0].t.dims) == 4
    ]
    weights[3].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[3]) * 1.2, weights[3].name))


def test_conversion_that_disagrees_is_refused_with_figures_and_the_reference_runs(
    folder, pictures, expected, new_cache, monkeypatch, caplog
):
    convert = tampered(scale_a_weight)
    monkeypatch.setattr(conversion_module, "run_paddle2onnx", convert)
    predictor, reason = create_predictor(folder, threads=2)
    assert predictor.name.startswith("paddle-cpu")
    assert "disagrees with paddle" in reason and "without partner" in reason
    assert any("disagrees" in record.message for record in caplog.records)
    for want, found in zip(expected, predictor.predict(*pictures), strict=True):
        np.testing.assert_array_equal(want, found)
    assert convert.calls == conversion_module.ATTEMPTS

    create_predictor(folder, threads=2)
    assert convert.calls == conversion_module.ATTEMPTS, "a refusal is remembered"
    assert not list(new_cache.rglob("*.onnx"))


def test_conversion_that_fails_is_refused(folder, new_cache, monkeypatch):
    monkeypatch.setattr(conversion_module, "run_paddle2onnx", lambda folder, graph: "exit code -11, boom")
    predictor, reason = create_predictor(folder, backend="onnxruntime", threads=2)
    assert predictor.name.startswith("paddle-cpu") and "exit code -11, boom" in reason


def test_failure_of_paddle2onnx_is_reported(folder, tmp_path):
    program = tmp_path / "inference.json"
    program.write_text("{}")
    error = run_paddle2onnx(replace(folder, program=program), tmp_path / "graph.onnx")
    assert error is not None and error.startswith("exit code")


def test_wrong_layer_norm_epsilons_are_put_right(folder, new_cache, monkeypatch):
    from onnx import numpy_helper

    found = []

    def spoil(model):
        sums = {node.output[0]: node for node in model.graph.node if node.op_type == "Add"}
        constants = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
        constants |= {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Sqrt":
                name = next(name for name in sums[node.input[0]].input if name in constants)
                found.append(float(numpy_helper.to_array(constants[name]).item()))
                spoiled = np.full_like(numpy_helper.to_array(constants[name]), 3.7)
                constants[name].CopyFrom(numpy_helper.from_array(spoiled, name))

    monkeypatch.setattr(conversion_module, "run_paddle2onnx", tampered(spoil))
    predictor, reason = create_predictor(folder, threads=2)
    assert len(found) > 0
    assert predictor.name == "openvino" and "agrees" in reason


def test_processes_that_race_convert_once(folder, new_cache, monkeypatch):
    convert = tampered(lambda model: None)
    monkeypatch.setattr(conversion_module, "run_paddle2onnx", convert)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: create_predictor(folder, threads=1), range(3)))
    assert [predictor.name for predictor, _ in made] == ["openvino"] * 3
    assert convert.calls == 1
    (verdict,) = new_cache.rglob("verdict.json")
    assert json.loads(verdict.read_text())["agrees"] is True


def test_paddle_without_onednn_takes_over_when_it_fails(folder, pictures, expected, monkeypatch, caplog):
    create = paddle_module._create_cpu

    def fail_with_onednn(program, params, threads, *, onednn):
        if onednn:
            raise NotImplementedError("(Unimplemented) ConvertPirAttribute2RuntimeAttribute not support")
        return create(program, params, threads, onednn=False)

    monkeypatch.setattr(paddle_module, "_create_cpu", fail_with_onednn)
    predictor, reason = create_predictor(folder, backend="paddle", threads=2)
    assert predictor.name == "paddle-cpu-without-onednn" and predictor.name in reason
    assert "ConvertPirAttribute2RuntimeAttribute" in caplog.text
    assert_same_boxes(expected[:2], predictor.predict(*pictures)[:2], 1e-3, 0.1)


def test_paddle_prints_nothing_to_standard_output(folder, pictures, capfd):
    predictor, _ = create_predictor(folder, backend="paddle", threads=2)
    predictor.predict(*pictures)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backend": "torch"}, "backend"),
        ({"device": "tpu"}, "device"),
        ({"device": "cpu:1"}, "device"),
        ({"device": "gpu:x"}, "device"),
        ({"precision": "int8"}, "precision"),
        ({"precision": "fp16"}, "GPU"),
        ({"precision": "bf16", "backend": "paddle"}, "openvino"),
        ({"precision": "bf16", "device": "gpu"}, "CPU"),
        ({"tensorrt": True}, "GPU"),
        ({"device": "gpu", "backend": "openvino"}, "openvino"),
        ({"device": "gpu", "backend": "onnxruntime", "precision": "fp16"}, "tensorrt"),
        ({"threads": 0}, "threads"),
        ({"threads": True}, "threads"),
    ],
)
def test_choices_that_mean_nothing_are_refused(folder, options, named):
    with pytest.raises(UsageError, match=named):
        create_predictor(folder, **options)


def test_onnxruntime_without_a_gpu_says_what_to_install(folder, cache):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(UsageError, match="onnxruntime-gpu"):
        ONNXRuntimePredictor("graph.onnx", folder.preprocess, device="gpu")


ROW = [0, 0.5, 10, 10, 20, 20]


def agreement(a, b, keep_top_k=500):
    a, b = (np.array(rows, np.float32).reshape(-1, 6) for rows in (a, b))
    return compare(a, b, score_tolerance=1e-3, box_tolerance=0.1, keep_top_k=keep_top_k, score_floor=0.01)


def test_compare_boxes():
    near = [0, 0.5005, 10.05, 10, 20, 19.95]
    assert agreement([ROW], [near]).agrees
    assert agreement([ROW], [near]).score_difference == pytest.approx(0.0005, rel=0.01)
    assert agreement([ROW], [near]).box_difference == pytest.approx(0.05, rel=0.01)
    assert not agreement([ROW], [[0, 0.502, 10, 10, 20, 20]]).agrees
    assert not agreement([ROW], [[0, 0.5, 10.2, 10, 20, 20]]).agrees
    assert not agreement([ROW], [[1, *ROW[1:]]]).agrees
    assert not agreement([ROW, ROW], [ROW]).agrees
    assert not agreement([ROW], [ROW, ROW]).agrees
    assert agreement([ROW, ROW], [ROW, ROW]).agrees
    assert not agreement([ROW], []).agrees
    assert not agreement([], []).agrees, "nothing to compare proves nothing"


def test_compare_excuses_boxes_that_rounding_may_drop():
    at_floor = [0, 0.0105, 50, 50, 60, 60]
    assert agreement([ROW, at_floor], [ROW]).agrees
    assert agreement([ROW], [ROW, at_floor]).agrees
    last, other_last = [0, 0.3, 50, 50, 60, 60], [0, 0.3004, 80, 80, 90, 90]
    assert agreement([ROW, last], [ROW, other_last], keep_top_k=2).agrees
    assert not agreement([ROW, last], [ROW, other_last], keep_top_k=3).agrees
