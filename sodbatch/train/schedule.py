"""Learning rate and input size of every step; pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

COSINE_STRETCH = 1.2
"""The cosine reaches zero after this many times the training, so that the last steps still learn."""


def learning_rate(step: int, base: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up from 0, then half a cosine, as PaddleDetection has it.

    Args:
        step: From 0.
        base: Highest learning rate, reached after the warm-up.
        warmup_steps: At least 0.
        total_steps: Steps of the whole training.
    """
    if step < warmup_steps:
        return base * step / warmup_steps
    rest = max(1.0, COSINE_STRETCH * total_steps - warmup_steps)
    return base * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / rest)))


def scaled_rate(rate: float, batch: int, reference_batch: int) -> float:
    """Scale a learning rate linearly from the batch it was chosen for to another (arXiv 1706.02677)."""
    return rate * batch / reference_batch


def side_of_step(sides: Sequence[int], seed: int, step: int) -> int:
    """Input side in pixels of one step: all workers, and a resumed training, take the same."""
    return int(np.random.default_rng((seed, 1, step)).choice(sides))
