"""The network: names and shapes of the official checkpoints, decoding and positions by hand, fusion."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sodbatch.errors import UsageError
from sodbatch.model.spec import SPECS, find_spec

paddle = pytest.importorskip("paddle")

from sodbatch.model.encoder import sincos_positions  # noqa: E402
from sodbatch.model.head import anchor_grid, decode_boxes  # noqa: E402
from sodbatch.model.network import SODNetwork  # noqa: E402
from sodbatch.model.seeded import ScoreSpread, seeded_state, synthetic_pictures  # noqa: E402
from sodbatch.model.weights import load_state  # noqa: E402

OFFICIAL = json.loads((Path(__file__).parent / "data" / "checkpoint_names.json").read_text())
TINY = SPECS["PP-YOLOE_plus_SOD-tiny"]


@pytest.fixture(scope="module")
def tiny_state():
    return seeded_state(TINY, 0)


@pytest.fixture
def tiny_network(tiny_state):
    network = SODNetwork(TINY)
    network.eval()
    load_state(network, tiny_state)
    return network


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(1)
    return paddle.to_tensor(synthetic_pictures(rng, 2, *TINY.input_size))


def evaluate(network, pictures):
    with paddle.no_grad():
        boxes, scores = network(pictures)
    return boxes.numpy(), scores.numpy()


@pytest.mark.parametrize("name", OFFICIAL)
def test_names_and_shapes_are_those_of_the_official_checkpoint(name):
    state = SODNetwork(replace(SPECS[name], input_size=(64, 64))).state_dict()
    shapes = {key: list(tensor.shape) for key, tensor in state.items()}
    reference = os.environ.get("SODBATCH_STATE_DICTS")  # a folder of state_dict_NAME.json: tells which names differ
    if reference:
        assert shapes == json.loads((Path(reference) / f"state_dict_{name}.json").read_text())
    lines = sorted(f"{key} {shape}" for key, shape in shapes.items())
    assert OFFICIAL[name] == {
        "names": len(shapes),
        "values": sum(math.prod(shape) for shape in shapes.values()),
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def test_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'PP-YOLO'.*PP-YOLOE_plus_SOD-largesize-L"):
        find_spec("PP-YOLO")


def test_anchors_are_cell_centres_of_strides_32_16_8_row_by_row():
    points, strides = anchor_grid(64, 96)
    expected = [
        (x + 0.5, y + 0.5, stride) for stride in (32, 16, 8) for y in range(64 // stride) for x in range(96 // stride)
    ]
    assert np.concatenate([points, strides], axis=1).tolist() == [list(row) for row in expected]


def test_boxes_are_distances_from_the_anchor_in_strides():
    points = paddle.to_tensor([[2.5, 1.5]])
    distances = paddle.to_tensor([[[1.0, 0.5, 2.0, -0.25]]])
    boxes = decode_boxes(points, paddle.to_tensor([[8.0]]), distances)
    assert boxes.numpy().tolist() == [[[12.0, 8.0, 36.0, 10.0]]]


def test_an_edge_is_the_mean_of_the_softmax_over_its_bins(tiny_network, pictures):
    head = tiny_network.yolo_head
    with paddle.no_grad():
        maps = tiny_network.neck(tiny_network.backbone(pictures))
        boxes, scores = (tensor.numpy() for tensor in head(maps))
        levels = [(classes.numpy(), bins.numpy()) for classes, bins in head.logits(maps)]
    low, high = TINY.reg_range
    values = np.arange(low, high)
    expected_boxes, expected_scores = [], []
    for (classes, bins), stride in zip(levels, (32, 16, 8), strict=True):
        _, _, height, width = bins.shape
        for y in range(height):
            for x in range(width):
                edges = bins[0, :, y, x].astype(np.float64).reshape(4, high - low)
                weights = np.exp(edges - edges.max(axis=1, keepdims=True))
                left, top, right, bottom = (weights * values).sum(axis=1) / weights.sum(axis=1)
                centre_x, centre_y = x + 0.5, y + 0.5
                box = [centre_x - left, centre_y - top, centre_x + right, centre_y + bottom]
                expected_boxes.append(np.array(box) * stride)
                expected_scores.append(1 / (1 + np.exp(-classes[0, :, y, x].astype(np.float64))))
    np.testing.assert_allclose(boxes[0], expected_boxes, atol=1e-3)
    np.testing.assert_allclose(scores[0].T, expected_scores, atol=1e-5)


def test_positions_run_along_columns_first_with_a_quarter_for_each_function():
    height, width, channels = 2, 3, 8
    table = sincos_positions(height, width, channels)
    assert table.shape == (1, 6, 8)
    frequencies = [1 / 10000 ** (k / 2) for k in range(2)]
    for i in range(width):
        for j in range(height):
            expected = (
                [math.sin(i * f) for f in frequencies]
                + [math.cos(i * f) for f in frequencies]
                + [math.sin(j * f) for f in frequencies]
                + [math.cos(j * f) for f in frequencies]
            )
            np.testing.assert_allclose(table[0, i * height + j], expected, atol=1e-6)


def test_attention_adds_positions_to_queries_and_keys_only(tiny_network):
    attention = tiny_network.neck.encoder.layers[0].self_attn
    rng = np.random.default_rng(2)
    channels, heads, tokens = attention.channels, 4, 5
    x = rng.standard_normal((tokens, channels))
    positions = rng.standard_normal((tokens, channels))
    weight, bias = attention.in_proj_weight.numpy(), attention.in_proj_bias.numpy()
    query, key, value = (
        source @ weight[:, part * channels : (part + 1) * channels] + bias[part * channels : (part + 1) * channels]
        for part, source in enumerate((x + positions, x + positions, x))
    )
    mixed = np.empty_like(x)
    for columns in np.split(np.arange(channels), heads):
        logits = query[:, columns] @ key[:, columns].T / math.sqrt(channels // heads)
        weights = np.exp(logits)
        mixed[:, columns] = weights / weights.sum(axis=1, keepdims=True) @ value[:, columns]
    expected = mixed @ attention.out_proj.weight.numpy() + attention.out_proj.bias.numpy()
    with paddle.no_grad():
        found = attention(
            paddle.to_tensor(x[None].astype(np.float32)), paddle.to_tensor(positions[None].astype(np.float32))
        )
    np.testing.assert_allclose(found.numpy()[0], expected, atol=1e-4)


def test_fused_blocks_compute_what_both_branches_computed(tiny_network, pictures):
    boxes, scores = evaluate(tiny_network, pictures)
    names = set(tiny_network.state_dict())
    tiny_network.fuse()
    fused_boxes, fused_scores = evaluate(tiny_network, pictures)
    np.testing.assert_allclose(fused_scores, scores, atol=1e-4)
    np.testing.assert_allclose(fused_boxes, boxes, atol=2e-2)
    assert not [name for name in tiny_network.state_dict() if name.endswith("alpha")]
    assert [name for name in names if name.endswith("alpha")]


def test_alpha_weighs_the_pointwise_branch(tiny_network, pictures):
    block = tiny_network.backbone.stages[0].blocks[0].conv2
    x = paddle.to_tensor(np.random.default_rng(3).standard_normal((1, 6, 8, 8)).astype(np.float32))
    block.alpha.set_value(paddle.to_tensor([0.5]))
    with paddle.no_grad():
        y = block.conv1(x).numpy() + 0.5 * block.conv2(x).numpy()
        np.testing.assert_allclose(block(x).numpy(), y / (1 + np.exp(-y)), atol=1e-5)
        block.fuse()
        np.testing.assert_allclose(block(x).numpy(), y / (1 + np.exp(-y)), atol=1e-5)


def test_one_picture_in_a_batch_does_not_change_another(tiny_network, pictures):
    both = evaluate(tiny_network, pictures)
    alone = evaluate(tiny_network, pictures[1:2])
    np.testing.assert_allclose(both[0][1], alone[0][0], atol=1e-2)
    np.testing.assert_allclose(both[1][1], alone[1][0], atol=1e-4)


def test_scores_are_spread_as_asked(pictures):
    crowded = ScoreSpread(-1.0, 0.7)
    network = SODNetwork(TINY)
    network.eval()
    load_state(network, seeded_state(TINY, 0, crowded))
    _, scores = evaluate(network, pictures)
    assert (scores > 0.01).mean() > 0.99
