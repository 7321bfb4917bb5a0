"""The moving average of the weights, which is what is evaluated and exported (EMA, as PaddleDetection keeps it)."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor, nn

DECAY = 0.9998


class WeightAverage:
    """Averages all parameters and batch statistics of a network; older values fade by ``DECAY``, at first faster."""

    def __init__(self, network: nn.Layer) -> None:
        self._live: dict[str, Tensor] = dict(network.state_dict())
        self._sums = {name: paddle.zeros_like(value) for name, value in self._live.items()}
        self.steps = 0
        self.mass = 0.0

    @paddle.no_grad()
    def update(self) -> None:
        """Take in the network's present weights."""
        decay = min(DECAY, (1 + self.steps) / (10 + self.steps))
        for name, value in self._sums.items():
            value.scale_(decay)
            value.add_(self._live[name] * (1 - decay))
        self.mass = decay * self.mass + (1 - decay)
        self.steps += 1

    def state(self) -> dict[str, np.ndarray]:
        """Return the averages, float32 by parameter name; before the first update the network's own weights."""
        if self.steps == 0:
            return {name: value.numpy() for name, value in self._live.items()}
        return {name: value.numpy() / np.float32(self.mass) for name, value in self._sums.items()}

    def restore(self, state: dict[str, np.ndarray], steps: int, mass: float) -> None:
        """Go on from averages that :meth:`state` returned."""
        for name, value in self._sums.items():
            value.set_value(state[name] * np.float32(mass))
        self.steps, self.mass = steps, mass
