"""Batches: which pictures a worker takes in which step, read ahead and augmented by threads.

The order, the sizes and all chance follow from seed, epoch and step alone, and not from the number of workers: two
workers of batch b see together what one worker of batch 2 b sees, and a resumed training sees what it would have seen.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sodbatch.train.augment import INTERPOLATIONS, Sample, augment
from sodbatch.train.schedule import side_of_step

AHEAD = 3
"""Batches that are read while one is learned from."""


@dataclass(frozen=True)
class Batch:
    """Pictures of one step, and their objects, padded to the same number, at least 1.

    Attributes:
        images: uint8 [B, 3, S, S], RGB.
        labels: int64 [B, n].
        boxes: float32 [B, n, 4], (x1, y1, x2, y2) in pixels.
        real: float32 [B, n, 1], 1 for objects, 0 for padding.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    real: NDArray[np.float32]


@dataclass(frozen=True)
class Order:
    """Which pictures each step takes.

    Attributes:
        pictures: In the part that is trained on.
        batch_size: Of one worker.
        workers: That share a step.
        sides: Input sides in pixels, one of which each step takes.
        expand: The most that a picture's canvas is enlarged.
        seed: Of everything.
    """

    pictures: int
    batch_size: int
    workers: int
    sides: Sequence[int]
    expand: float
    seed: int

    @property
    def global_batch(self) -> int:
        """Pictures of one step of all workers."""
        return self.batch_size * self.workers

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; pictures that do not fill the last one wait for another epoch."""
        return self.pictures // self.global_batch

    def of_step(self, epoch: int, step: int, rank: int) -> NDArray[np.int64]:
        """Return the pictures [batch_size] of a worker in a step of an epoch."""
        start = step * self.global_batch + rank * self.batch_size
        return _permutation(self.seed, epoch, self.pictures)[start : start + self.batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


class Reader:
    """Reads batches of one worker ahead of the training.

    Args:
        read: Returns the picture of a row as it is stored, with its objects.
        order: Which pictures when.
        rank: Of this worker.
        threads: That read and augment.
    """

    def __init__(self, read: Callable[[int], Sample], order: Order, rank: int, threads: int) -> None:
        self._read = read
        self._order = order
        self._rank = rank
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self.waited_s = 0.0

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, from 0, in order; ``waited_s`` grows by what the caller waits for them."""
        steps = self._order.steps_per_epoch
        ahead: deque[list[Future[Sample]]] = deque()
        submitted = 0
        for _ in range(steps):
            while submitted < steps and len(ahead) <= AHEAD:
                ahead.append(self._submit(epoch, submitted))
                submitted += 1
            started = time.monotonic()
            samples = [future.result() for future in ahead.popleft()]
            self.waited_s += time.monotonic() - started
            yield collate(samples)

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, epoch: int, step: int) -> list[Future[Sample]]:
        at = epoch * self._order.steps_per_epoch + step
        side = side_of_step(self._order.sides, self._order.seed, at)
        interpolation = int(np.random.default_rng((self._order.seed, 2, at)).choice(INTERPOLATIONS))
        rows = self._order.of_step(epoch, step, self._rank).tolist()
        return [self._pool.submit(self._make, epoch, row, side, interpolation) for row in rows]

    def _make(self, epoch: int, row: int, side: int, interpolation: int) -> Sample:
        rng = np.random.default_rng((self._order.seed, 3, epoch, row))
        return augment(rng, self._read(row), side, interpolation, self._order.expand)


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples of one size together."""
    most = max(1, *(len(sample.labels) for sample in samples))
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    labels = np.zeros((len(samples), most), np.int64)
    boxes = np.zeros((len(samples), most, 4), np.float32)
    real = np.zeros((len(samples), most, 1), np.float32)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        labels[row, :count], boxes[row, :count], real[row, :count] = sample.labels, sample.boxes, 1
    return Batch(np.ascontiguousarray(images), labels, boxes, real)
