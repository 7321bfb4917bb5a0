"""What every predictor is, and the small things that they share."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Predictor(Protocol):
    """Runs the exported graph on pictures of the model's shape.

    A picture's boxes do not depend on the other pictures of the batch. A predictor belongs to
    the process that made it (it cannot be pickled) and is called by one thread at a time.
    """

    name: str
    """Backend and device, such as ``"paddle-cpu"`` or ``"openvino"``."""

    def predict(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """Run the graph.

        Args:
            images: uint8 [N, H, W, 3], RGB, resized to the model's shape.
            sizes: int32 [N, 2], height and width in pixels of the original pictures.

        Returns:
            A float32 array [n, 6] for each picture: class, score, x1, y1, x2, y2 in pixels of
            the original picture, unclipped; by class, in a class by descending score.
        """
        ...


def by_class_and_score(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Order raw boxes [n, 6] as Paddle's NMS emits them: by class, in a class by descending score.

    Equal scores go by coordinates, so that the order does not hang on a backend's sort.
    """
    return raw[np.lexsort((*raw[:, :1:-1].T, -raw[:, 1], raw[:, 0]))]


def usable_cpus() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_device() -> str:
    """Return ``"gpu"`` if Paddle's GPU wheel is installed and sees a GPU, else ``"cpu"``."""
    try:
        distribution("paddlepaddle-gpu")
    except PackageNotFoundError:
        return "cpu"
    import paddle

    return "gpu" if paddle.device.cuda.device_count() else "cpu"
