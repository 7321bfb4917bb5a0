"""Export: the folder's files, the graph against the network and a suppression by hand, no half folders."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pytest
import yaml

from sodbatch.errors import JobError, UsageError
from sodbatch.model.export import export, inference_config
from sodbatch.model.spec import SPECS, VISDRONE_LABELS

paddle = pytest.importorskip("paddle")

import sodbatch.model.export as export_module  # noqa: E402
from sodbatch.model.network import SODNetwork  # noqa: E402
from sodbatch.model.seeded import seeded_state, synthetic_pictures  # noqa: E402
from sodbatch.model.weights import load_state  # noqa: E402

TINY = SPECS["PP-YOLOE_plus_SOD-tiny"]
FILES = ["inference.json", "inference.pdiparams", "inference.yml"]


@pytest.fixture(scope="module")
def graph(tiny_model_dir):
    graph = paddle.jit.load(str(tiny_model_dir / "inference"))
    graph.eval()
    return graph


@pytest.fixture(scope="module")
def network():
    network = SODNetwork(TINY)
    network.eval()
    load_state(network, seeded_state(TINY, 0))
    return network


@pytest.fixture(scope="module")
def pixels():
    return np.rint(synthetic_pictures(np.random.default_rng(4), 3, *TINY.input_size) * 255).astype(np.float32)


def run(graph, pixels, scale_factor):
    boxes, counts = graph(paddle.to_tensor(pixels), paddle.to_tensor(np.array(scale_factor, np.float32)))
    return boxes.numpy(), counts.numpy()


def suppress(boxes, scores):
    """Greedy suppression per class by hand: score over 0.01, IoU over 0.6 goes, the best 500 of all classes stay."""
    kept = []
    for cls, class_scores in enumerate(scores):
        order = [i for i in np.argsort(-class_scores, kind="stable") if class_scores[i] > 0.01]
        chosen = []
        for i in order:
            if all(iou(boxes[i], boxes[j]) <= 0.6 for j in chosen):
                chosen.append(i)
        kept += [(cls, class_scores[i], *boxes[i]) for i in chosen]
    kept.sort(key=lambda row: -row[1])
    return np.array(kept[:500], np.float32).reshape(-1, 6)


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    if width == 0 or height == 0:
        return 0.0
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def sorted_rows(rows):
    return rows[np.lexsort((rows[:, 2], -rows[:, 1].round(4), rows[:, 0]))]


def test_the_graph_is_the_network_with_suppression_in_original_pixels(graph, network, pixels):
    scale_y, scale_x = 320 / 540, 320 / 960
    found, counts = run(graph, pixels[:1], [[scale_y, scale_x]])
    with paddle.no_grad():
        boxes, scores = (tensor.numpy()[0] for tensor in network(paddle.to_tensor(pixels[:1] / 255)))
    expected = suppress(boxes / np.array([scale_x, scale_y, scale_x, scale_y]), scores)
    assert counts.dtype == np.int32
    assert counts.tolist() == [len(found)] == [len(expected)]
    assert len(expected) > 20
    found, expected = sorted_rows(found), sorted_rows(expected)
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=1e-4)
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=0.05)


def test_any_batch_gives_each_picture_the_boxes_it_has_alone(graph, pixels):
    factors = [[1.0, 1.0], [0.5, 0.25], [2.0, 2.0]]
    together, counts = run(graph, pixels, factors)
    assert together.shape == (counts.sum(), 6)
    assert counts.shape == (3,)
    start = 0
    for index, count in enumerate(counts):
        alone, _ = run(graph, pixels[index : index + 1], factors[index : index + 1])
        assert len(alone) == count
        np.testing.assert_allclose(
            sorted_rows(together[start : start + count]), sorted_rows(alone), atol=0.05, rtol=1e-4
        )
        start += count


def test_the_folder_is_in_the_official_format(tiny_model_dir):
    assert sorted(file.name for file in tiny_model_dir.iterdir()) == FILES
    config = yaml.safe_load((tiny_model_dir / "inference.yml").read_text())
    assert config["Global"] == {"model_name": "PP-YOLOE_plus_SOD-tiny"}
    assert config["label_list"] == list(VISDRONE_LABELS)
    assert config["draw_threshold"] == 0.5
    assert config["arch"] == "YOLO"
    assert config["Preprocess"] == [
        {"type": "Resize", "target_size": [320, 320], "keep_ratio": False, "interp": 2},
        {"type": "Permute"},
    ]
    operations = json.loads((tiny_model_dir / "inference.json").read_text())["program"]["regions"][0]["blocks"][0][
        "ops"
    ]
    suppression = [operation for operation in operations if operation["#"].endswith("multiclass_nms3")]
    assert len(suppression) == 1
    attributes = {item["N"]: item["AT"]["D"] for item in suppression[0]["A"]}
    assert attributes["score_threshold"] == pytest.approx(0.01)
    assert attributes["nms_threshold"] == pytest.approx(0.6)
    assert (attributes["nms_top_k"], attributes["keep_top_k"], attributes["background_label"]) == (10_000, 500, -1)


def test_largesize_asks_for_1920_pixels():
    (resize, _) = inference_config(SPECS["PP-YOLOE_plus_SOD-largesize-L"])["Preprocess"]
    assert resize["target_size"] == [1920, 1920]


def test_given_weights_are_the_ones_in_the_graph(tmp_path, pixels, caplog):
    state = seeded_state(TINY, 5)
    network = SODNetwork(TINY)
    load_state(network, state)
    buffer = io.BytesIO()
    paddle.save(network.state_dict(), buffer)
    weights = tmp_path / "weights.pdparams"
    weights.write_bytes(buffer.getvalue())
    with caplog.at_level(logging.WARNING, logger="sodbatch"):
        folder = export(TINY.name, tmp_path / "out", str(weights))
    assert not caplog.records
    found, _ = run(paddle.jit.load(str(folder / "inference")), pixels[:1], [[1.0, 1.0]])
    network.eval()
    with paddle.no_grad():
        boxes, scores = (tensor.numpy()[0] for tensor in network(paddle.to_tensor(pixels[:1] / 255)))
    expected = suppress(boxes, scores)
    np.testing.assert_allclose(np.sort(found[:, 1]), np.sort(expected[:, 1]), atol=1e-4)


def test_seeded_weights_are_announced_and_replace_an_older_export(tmp_path, tiny_model_dir, caplog):
    target = tmp_path / "out"
    target.mkdir()
    (target / "inference.yml").write_text("old")
    (target / "notes.txt").write_text("mine")
    with caplog.at_level(logging.WARNING, logger="sodbatch"):
        assert export(TINY, target, seed=0) == target
    assert "seed 0" in caplog.text
    assert "no weights given" in caplog.text
    assert sorted(file.name for file in target.iterdir()) == [*FILES, "notes.txt"]
    assert (target / "inference.yml").read_bytes() == (tiny_model_dir / "inference.yml").read_bytes()
    assert (target / "inference.pdiparams").stat().st_size == (tiny_model_dir / "inference.pdiparams").stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_broken_export_leaves_nothing(tmp_path, monkeypatch):
    def write_half(network, prefix):
        prefix.with_suffix(".json").write_text("half")
        raise JobError("the disk is full")

    monkeypatch.setattr(export_module, "save_graph", write_half)
    with pytest.raises(JobError, match="disk is full"):
        export(TINY, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_come_before_any_folder(tmp_path):
    with pytest.raises(UsageError, match="unknown model"):
        export("PP-YOLOE-X", tmp_path / "out")
    with pytest.raises(UsageError, match="No such file"):
        export(TINY, tmp_path / "out", str(tmp_path / "absent.pdparams"))
    with pytest.raises(UsageError, match="cannot read the weights memory://absent.pdparams"):
        export(TINY, tmp_path / "out", "memory://absent.pdparams")
    assert list(tmp_path.iterdir()) == []


def test_output_under_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write an inference folder"):
        export(TINY, tmp_path / "file" / "out")


def test_weights_at_a_url_come_through_the_storage(tmp_path):
    class Storage:
        def read_bytes(self, url):
            assert url == "s3://bucket/w.pdparams"
            return b"not weights"

    with pytest.raises(UsageError, match="cannot be read as .pdparams"):
        export(TINY, tmp_path / "out", "s3://bucket/w.pdparams", storage=Storage())
