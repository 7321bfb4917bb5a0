"""Weights from a seed, for tests, demonstrations and speed measurements where no trained ones are at hand.

Plain initial weights give every anchor the same score, and plain random ones either saturate or amplify rounding
errors until two backends disagree by pixels. Four measures keep the network well-behaved on any picture:

- small batch-norm factors, so that swish works where it is nearly linear;
- a first layer that answers to edges only, not to brightness;
- statistics measured on synthetic pictures, and last layers scaled to a chosen spread of logits;
- weak lateral connections, so that the encoder's layer normalisation evens out contrast between pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sodbatch.model.spec import NetworkSpec
from sodbatch.model.weights import State, load_state

if TYPE_CHECKING:
    from paddle import Tensor, nn

    from sodbatch.model.network import SODNetwork

CALIBRATION_SIDE = 320
CALIBRATION_PICTURES = 12
GRAIN = {1: 0.02, 4: 0.04, 16: 0.06, 64: 0.1}
"""Amplitude of the ground's noise by cell size in pixels."""
PIXELS_PER_RECTANGLE = 1000
SIGNIFICANT_DIGITS = 3

STEM = "backbone.stem.conv1.conv.weight"
LATERAL = re.compile(r"neck\.fpn_stages\.[12]\.0\.conv[12]\.")
LATERAL_GAIN = 0.02
LOCAL_KERNEL = np.array([[0.3, 0.3, 0.3], [0.3, 1.0, 0.3], [0.3, 0.3, 0.3]])
BIN_LOGIT_STD = 1.5


@dataclass(frozen=True)
class ScoreSpread:
    """Mean and standard deviation of the class logits over all anchors."""

    mean: float
    std: float


SPARSE = ScoreSpread(-13.5, 4.0)
"""Few anchors score at all: some tens to some hundreds of boxes over 0.3."""


def seeded_state(spec: NetworkSpec, seed: int = 0, spread: ScoreSpread = SPARSE) -> State:
    """Weights that depend on nothing but the arguments.

    What is measured is rounded to three digits, so that the last bits, in which sums differ from run to run, seldom
    make a difference; where they do, a value differs by a unit of its third digit.

    Args:
        spec: The network.
        seed: Seed of the numpy generator.
        spread: How the class scores are to be distributed.

    Returns:
        float32 arrays by parameter name.
    """
    import paddle

    from sodbatch.model.network import SODNetwork

    rng = np.random.default_rng(seed)
    height, width = spec.input_size
    small = replace(spec, input_size=(min(height, CALIBRATION_SIDE), min(width, CALIBRATION_SIDE)))
    network = SODNetwork(small)
    network.eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    kept = {"yolo_head.proj_conv.weight": network.yolo_head.proj_conv.weight.numpy()}
    load_state(network, {name: _draw(rng, name, shape) for name, shape in shapes.items()} | kept)
    pictures = paddle.to_tensor(synthetic_pictures(rng, CALIBRATION_PICTURES, *small.input_size))
    with paddle.no_grad():
        _measure_batch_norms(network, pictures)
        _spread_predictions(network, pictures, spread)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def synthetic_pictures(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Rectangles of random size and colour on a grainy ground, float32 [count, 3, height, width] in 0 to 1."""
    pictures = np.empty((count, 3, height, width), np.float32)
    for picture in pictures:
        picture[:] = rng.uniform(0.2, 0.7, (3, 1, 1))
        for cell, amplitude in GRAIN.items():
            grain = rng.standard_normal((3, -(-height // cell), -(-width // cell))) * amplitude
            picture += grain.repeat(cell, axis=1).repeat(cell, axis=2)[:, :height, :width]
        for _ in range(height * width // PIXELS_PER_RECTANGLE):
            top, left = rng.integers(0, height), rng.integers(0, width)
            tall, wide = np.exp(rng.uniform(np.log(3), np.log(60), 2)).astype(int)
            picture[:, top : top + tall, left : left + wide] = rng.uniform(0.0, 1.0, (3, 1, 1))
    return np.clip(pictures, 0, 1)


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 4:
        return _draw_kernel(rng, name, shape)
    if len(shape) == 2:
        return (rng.standard_normal(shape) * np.sqrt(0.2 / shape[0])).astype(np.float32)
    if name.endswith("bn.weight"):
        return rng.uniform(0.04, 0.08, shape).astype(np.float32)
    if name.endswith(("weight", "_variance", "alpha")):
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    return rng.normal(0.0, 0.001, shape).astype(np.float32)


def _draw_kernel(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    kernel = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    if name.endswith(".fc.weight"):
        kernel *= 0.01
    if shape[2:] == (3, 3):
        kernel *= LOCAL_KERNEL
    if name == STEM:
        kernel -= kernel.mean(axis=(2, 3), keepdims=True)
    if LATERAL.match(name):  # the first 2 x out channels come from the level above, the rest from the backbone
        kernel[:, 2 * shape[0] :] *= LATERAL_GAIN
    return kernel.astype(np.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    magnitude = np.floor(np.log10(np.maximum(np.abs(values), 1e-12)))
    unit = 10.0 ** (magnitude - SIGNIFICANT_DIGITS + 1)
    return (np.round(values / unit) * unit).astype(np.float32)


def _measure_batch_norms(network: SODNetwork, pictures: Tensor) -> None:
    """Set every running mean and variance to what the pictures produce there."""
    from paddle import nn

    norms = [layer for layer in network.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    for norm in norms:
        norm.train()
        norm._momentum = 0.0
    network(pictures)
    for norm in norms:
        norm.eval()
        norm._mean.set_value(_rounded(norm._mean.numpy()))
        norm._variance.set_value(_rounded(norm._variance.numpy()))


def _spread_predictions(network: SODNetwork, pictures: Tensor, spread: ScoreSpread) -> None:
    """Scale and shift the last convolutions, channel by channel, to the wanted mean and deviation of their logits."""
    head = network.yolo_head
    levels = head.logits(network.neck(network.backbone(pictures)))
    bin_means = np.tile(-0.2 * (np.arange(head.bins) - 4.0) ** 2 / (head.bins / 10), 4)
    for level, (classes, bins) in enumerate(levels):
        _scale_channels(head.pred_cls[level], classes.numpy(), spread.mean, spread.std)
        _scale_channels(head.pred_reg[level], bins.numpy(), bin_means, BIN_LOGIT_STD)


def _scale_channels(conv: nn.Layer, logits: np.ndarray, mean: np.ndarray | float, std: float) -> None:
    measured_mean, measured_std = logits.mean(axis=(0, 2, 3)), logits.std(axis=(0, 2, 3))
    factor = _rounded(std / np.maximum(measured_std, 1e-6))
    bias = conv.bias.numpy()
    conv.weight.set_value(conv.weight.numpy() * factor[:, None, None, None])
    conv.bias.set_value(_rounded(mean - (measured_mean - bias) * factor))
