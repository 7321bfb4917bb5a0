"""Weights from a seed, for tests, demonstrations and speed measurements where no trained ones are at hand.

Plain initial weights give every anchor the same score. Here statistics are measured on synthetic pictures, so that
signals keep their spread through the depth of the network, and the last layers are scaled to a chosen spread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .spec import NetworkSpec
from .weights import State, load_state

CALIBRATION_SIDE = 320
CALIBRATION_PICTURES = 12
SIGNIFICANT_DIGITS = 3


@dataclass(frozen=True)
class ScoreSpread:
    """Mean and standard deviation of the class logits over all anchors."""

    mean: float
    std: float


SPARSE = ScoreSpread(-13.5, 4.0)
"""Few anchors score at all: some tens to some hundreds of boxes over 0.3."""
CROWDED = ScoreSpread(-1.0, 0.7)
"""Every anchor scores over 0.01 for every class: the worst case for suppression."""
BIN_LOGIT_STD = 1.5
LOCAL_KERNEL = np.array([[0.3, 0.3, 0.3], [0.3, 1.0, 0.3], [0.3, 0.3, 0.3]])


def seeded_state(spec: NetworkSpec, seed: int = 0, spread: ScoreSpread = SPARSE) -> State:
    """Weights that depend on nothing but the arguments.

    What is measured is rounded to three digits, so that other processors' last bits make no difference.

    Args:
        spec: The network.
        seed: Seed of the numpy generator.
        spread: How the class scores are to be distributed.

    Returns:
        float32 arrays by parameter name.
    """
    import paddle

    from .network import SODNetwork

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
    """Pictures of differing brightness, contrast and grain, float32 [count, 3, height, width] in 0 to 1."""
    pictures = np.empty((count, 3, height, width), np.float32)
    for picture in pictures:
        picture[:] = rng.uniform(0.2, 0.7, (3, 1, 1))
        for cell in (1, 4, 16, 64):
            grain = rng.standard_normal((3, -(-height // cell), -(-width // cell)))
            grain *= np.exp(rng.uniform(np.log(0.02), np.log(0.2)))
            picture += grain.repeat(cell, axis=1).repeat(cell, axis=2)[:, :height, :width]
    return np.clip(pictures, 0, 1)


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) > 1:
        gain, fan_in = (0.2, shape[0]) if len(shape) == 2 else (2.0, int(np.prod(shape[1:])))
        if name.endswith(".fc.weight"):
            gain = 0.001
        kernel = rng.standard_normal(shape) * np.sqrt(gain / fan_in)
        if shape[2:] == (3, 3):
            kernel *= LOCAL_KERNEL
        return kernel.astype(np.float32)
    if name.endswith(("weight", "_variance", "alpha")):
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    return rng.normal(0.0, 0.1, shape).astype(np.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    magnitude = np.floor(np.log10(np.maximum(np.abs(values), 1e-12)))
    unit = 10.0 ** (magnitude - SIGNIFICANT_DIGITS + 1)
    return (np.round(values / unit) * unit).astype(np.float32)


def _measure_batch_norms(network, pictures) -> None:  # type: ignore[no-untyped-def]
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


def _spread_predictions(network, pictures, spread: ScoreSpread) -> None:  # type: ignore[no-untyped-def]
    """Scale and shift the last convolutions, channel by channel, to the wanted mean and deviation of their logits."""
    head = network.yolo_head
    levels = head.logits(network.neck(network.backbone(pictures)))
    bin_means = np.tile(-0.2 * (np.arange(head.bins) - 4.0) ** 2 / (head.bins / 10), 4)
    for level, (classes, bins) in enumerate(levels):
        _scale_channels(head.pred_cls[level], classes.numpy(), spread.mean, spread.std)
        _scale_channels(head.pred_reg[level], bins.numpy(), bin_means, BIN_LOGIT_STD)


def _scale_channels(conv, logits: np.ndarray, mean: np.ndarray | float, std: float) -> None:  # type: ignore[no-untyped-def]
    measured_mean, measured_std = logits.mean(axis=(0, 2, 3)), logits.std(axis=(0, 2, 3))
    factor = _rounded(std / np.maximum(measured_std, 1e-6))
    bias = conv.bias.numpy()
    conv.weight.set_value(conv.weight.numpy() * factor[:, None, None, None])
    conv.bias.set_value(_rounded(mean - (measured_mean - bias) * factor))
