"""Losses against small cases worked by hand and against numpy; gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

paddle = pytest.importorskip("paddle")

from sodbatch.model.network import SODNetwork  # noqa: E402
from sodbatch.model.spec import find_spec  # noqa: E402
from sodbatch.train.assign import Truth  # noqa: E402
from sodbatch.train.losses import (  # noqa: E402
    anchors_for,
    detection_losses,
    dfl_loss,
    expected_distances,
    giou_loss,
    varifocal_loss,
)


def tensor(values: object) -> paddle.Tensor:
    return paddle.to_tensor(np.array(values, np.float32))


def test_varifocal_loss_of_one_point() -> None:
    score, wanted = 0.3, 0.8
    logits = tensor([[math.log(score / (1 - score))] * 2])
    found = varifocal_loss(logits, tensor([[wanted, 0.0]]), tensor([[1.0, 0.0]]))
    positive = wanted * -(wanted * math.log(score) + (1 - wanted) * math.log(1 - score))
    negative = 0.75 * score**2 * -math.log(1 - score)
    assert float(found) == pytest.approx(positive + negative, rel=1e-5)


def test_giou_loss_of_known_pairs() -> None:
    boxes = tensor([[0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2]])
    wanted = tensor([[0, 0, 2, 2], [2, 0, 3, 1], [1, 1, 3, 3]])
    # equal; apart by one: the hull is 3, the union 2; overlap 1, union 7, hull 9
    expected = [0.0, 1 - (0 - 1 / 3), 1 - (1 / 7 - 2 / 9)]
    assert np.allclose(giou_loss(boxes, wanted).numpy(), expected, atol=1e-6)


def test_dfl_loss_weighs_the_two_bins_beside_the_distance() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 4, 10)).astype(np.float32)
    distances = np.array([[-2.0, -0.75, 3.25, 100.0]], np.float32)
    logs = logits[0] - np.log(np.exp(logits[0]).sum(axis=1, keepdims=True))
    expected = -np.mean(
        [
            logs[0, 0],
            logs[1, 1] * 0.75 + logs[1, 2] * 0.25,
            logs[2, 5] * 0.75 + logs[2, 6] * 0.25,
            logs[3, 8] * 0.01 + logs[3, 9] * 0.99,  # clipped to 6.99, just below the last bin's 7
        ]
    )
    assert float(dfl_loss(paddle.to_tensor(logits), paddle.to_tensor(distances), -2)) == pytest.approx(
        expected, rel=1e-4
    )


def test_distances_are_means_over_the_bins() -> None:
    logits = np.full((1, 4, 10), -30.0, np.float32)
    logits[0, 0, 0] = logits[0, 1, 9] = logits[0, 2, 3] = logits[0, 2, 4] = 30.0
    logits[0, 3] = 0.0
    assert np.allclose(expected_distances(paddle.to_tensor(logits), -2).numpy(), [[-2, 7, 1.5, 2.5]], atol=1e-5)


def batch(seed: int = 0) -> tuple[paddle.Tensor, Truth]:
    rng = np.random.default_rng(seed)
    images = paddle.to_tensor(rng.random((2, 3, 64, 96), np.float32))
    boxes = np.array([[[8, 8, 30, 24], [50, 20, 60, 44]], [[70, 2, 90, 40], [0, 0, 0, 0]]], np.float32)
    real = np.array([[[1], [1]], [[1], [0]]], np.float32)
    return images, Truth(paddle.to_tensor([[0, 3], [9, 0]]), paddle.to_tensor(boxes), paddle.to_tensor(real))


@pytest.mark.parametrize("static", [False, True])
def test_gradients_reach_every_parameter_of_the_network(static: bool) -> None:
    paddle.seed(0)
    network = SODNetwork(find_spec("PP-YOLOE_plus_SOD-tiny"))
    for conv in [*network.yolo_head.pred_cls, *network.yolo_head.pred_reg]:  # they begin at 0, which stops gradients
        conv.weight.set_value(paddle.randn(conv.weight.shape) * 0.01)
    network.train()
    images, truth = batch()
    losses = detection_losses(network.logits(images), truth, anchors_for(64, 96), -2, static=static)
    losses.total.backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if not parameter.stop_gradient and (parameter.grad is None or float(parameter.grad.abs().max()) == 0)
    ]
    of_boxes = ("yolo_head.stem_reg.", "yolo_head.pred_reg.")  # a level without an object learns no boxes
    assert [name for name in without if not name.startswith(of_boxes)] == []
    assert len({name.split(".")[2] for name in without}) < len(network.yolo_head.pred_reg)
    assert float(losses.total) == pytest.approx(
        float(losses.classes) + 2.5 * float(losses.iou) + 0.5 * float(losses.dfl), rel=1e-5
    )


def test_gradient_of_the_box_losses_is_that_of_differences() -> None:
    rng = np.random.default_rng(3)
    boxes = np.array([[0, 0, 4, 3], [1, 1, 6, 9]], np.float32) + rng.random((2, 4)).astype(np.float32)
    wanted = np.array([[1, 0, 5, 4], [2, 3, 5, 8]], np.float32)

    def total(values: np.ndarray) -> float:
        return float(
            giou_loss(paddle.to_tensor(values.astype(np.float64)), paddle.to_tensor(wanted.astype(np.float64))).sum()
        )

    leaf = paddle.to_tensor(boxes.astype(np.float64), stop_gradient=False)
    giou_loss(leaf, paddle.to_tensor(wanted.astype(np.float64))).sum().backward()
    for index in np.ndindex(boxes.shape):
        step = np.zeros(boxes.shape)
        step[index] = 1e-5
        assert leaf.grad.numpy()[index] == pytest.approx((total(boxes + step) - total(boxes - step)) / 2e-5, abs=1e-4)


def test_a_batch_without_objects_teaches_the_classes_alone() -> None:
    paddle.seed(0)
    network = SODNetwork(find_spec("PP-YOLOE_plus_SOD-tiny"))
    images, _ = batch()
    nothing = Truth(paddle.zeros([2, 1], "int64"), paddle.zeros([2, 1, 4]), paddle.zeros([2, 1, 1]))
    losses = detection_losses(network.logits(images), nothing, anchors_for(64, 96), -2, static=False)
    assert float(losses.iou) == float(losses.dfl) == 0 and float(losses.classes) > 0
    losses.total.backward()
