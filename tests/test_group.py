"""Batch normalisation over several workers on CPUs against Paddle's own over one batch of all their pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

paddle = pytest.importorskip("paddle")

import paddle.distributed as dist  # noqa: E402
from paddle import nn  # noqa: E402

from sodbatch.train import group  # noqa: E402


def layer() -> nn.BatchNorm2D:
    made = nn.BatchNorm2D(5)
    rng = np.random.default_rng(1)
    made.weight.set_value(rng.uniform(0.5, 2, 5).astype(np.float32))
    made.bias.set_value(rng.normal(size=5).astype(np.float32))
    return made


def learned(call: Callable[[paddle.Tensor], paddle.Tensor], norm: nn.BatchNorm2D, x: np.ndarray, wanted: np.ndarray):
    """Output, and gradients of input, weight and bias, of a weighted sum of the output."""
    leaf = paddle.to_tensor(x, stop_gradient=False)
    out = call(leaf)
    (out * paddle.to_tensor(wanted)).sum().backward()
    return [out.numpy(), leaf.grad.numpy(), norm.weight.grad.numpy(), norm.bias.grad.numpy()]


def test_two_halves_are_normalised_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, wanted = (rng.normal(1, 2, (4, 5, 6, 7)).astype(np.float32) for _ in range(2))
    whole = layer()
    expected = learned(whole, whole, x, wanted)
    # each half runs beside a recorded other: what is summed over both is what the other half had summed
    said: list[list[np.ndarray]] = [[], []]
    for _ in range(4):
        before, said = said, [[], []]
        halves = []
        for half in range(2):
            norm = layer()
            others = iter(before[1 - half])

            def all_reduce(value: paddle.Tensor, mine=said[half], others=others) -> None:
                mine.append(value.numpy())
                value.set_value(value + paddle.to_tensor(next(others, np.zeros(value.shape, np.float32))))

            monkeypatch.setattr(dist, "all_reduce", all_reduce)
            shared = group._SharedStatistics(norm, 2)
            part = slice(2 * half, 2 * half + 2)
            halves.append((learned(shared, norm, x[part], wanted[part]), norm))
    (one, norm), (other, _) = halves
    for index in (0, 1):
        assert np.allclose(np.concatenate([one[index], other[index]]), expected[index], atol=2e-5)
    for index in (2, 3):
        assert np.allclose(one[index] + other[index], expected[index], rtol=1e-4, atol=1e-3)
    assert np.allclose(norm._mean.numpy(), whole._mean.numpy(), atol=1e-6)
    assert np.allclose(norm._variance.numpy(), whole._variance.numpy(), atol=1e-4)
    norm.eval()
    whole.eval()
    assert np.allclose(
        group._SharedStatistics(norm, 2)(paddle.to_tensor(x)).numpy(), whole(paddle.to_tensor(x)).numpy(), atol=1e-4
    )
