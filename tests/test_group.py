"""Batch normalisation over several workers on CPUs against Paddle's own over one batch of all; waiting."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
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


def test_a_large_mean_does_not_drown_a_small_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda value: None)
    x = paddle.to_tensor(np.random.default_rng(0).normal(100, 0.01, (4, 5, 6, 7)).astype(np.float32))
    expected = layer()(x).numpy()
    assert np.allclose(group._SharedStatistics(layer(), 1)(x).numpy(), expected, atol=2e-2)


LATE = """
import sys, time
import paddle.distributed as dist
from sodbatch.train.group import Group
dist.init_parallel_env()
group = Group()
group.lead(lambda: time.sleep(45))
print("together", group.total(__import__("paddle").ones([1])).item())
"""


@pytest.mark.slow
def test_others_wait_for_a_lead_that_takes_longer_than_a_sum_may() -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(socket.socket()) for _ in range(2)]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in ports]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", LATE],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PADDLE_TRAINER_ID": str(rank),
                "PADDLE_TRAINERS_NUM": "2",
                "PADDLE_CURRENT_ENDPOINT": addresses[rank],
                "PADDLE_TRAINER_ENDPOINTS": ",".join(addresses),
                "PADDLE_MASTER": addresses[0],
                "PADDLE_DISTRI_BACKEND": "gloo",
            },
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all("together 2.0" in each for each in said), said
