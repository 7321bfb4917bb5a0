"""Evaluation of a training's weights on the part val, within the process that trains."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import paddle

from sodbatch.evaluate.figures import Figures, Found, GroundTruth, figures_of
from sodbatch.model.export import inference_graph
from sodbatch.model.network import SODNetwork
from sodbatch.model.spec import NetworkSpec
from sodbatch.model.weights import State, load_state
from sodbatch.train.examples import ExampleReader

AHEAD = 4
"""Pictures that are read while one is predicted."""


@paddle.no_grad()
def validate(spec: NetworkSpec, weights: State, truth: GroundTruth, read: ExampleReader, threads: int) -> Figures:
    """Predict every picture as the exported model would, and compute the figures.

    Args:
        spec: The network.
        weights: By parameter name.
        truth: What there is to find.
        read: Reads the pictures, by row.
        threads: That read.
    """
    network = SODNetwork(spec)
    load_state(network, weights)
    network.eval()
    network.fuse()
    graph = inference_graph(network)
    found = []
    for row, image, size in _pictures(spec, read, truth.pictures, threads):
        scale = np.array([[spec.input_size[0] / size[0], spec.input_size[1] / size[1]]], np.float32)
        boxes, _ = graph(paddle.to_tensor(image), paddle.to_tensor(scale))
        kept = boxes.numpy().reshape(-1, 6)
        kept = kept[kept[:, 0] >= 0]
        height, width = size
        kept[:, 2:] = np.clip(kept[:, 2:], 0, np.array([width, height, width, height]))
        found.append(np.column_stack([np.full(len(kept), row), kept]))
    columns = np.concatenate([np.empty((0, 7)), *found]).astype(np.float64)
    xywh = np.concatenate([columns[:, 3:5], columns[:, 5:7] - columns[:, 3:5]], axis=1)
    result = Found(columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64), xywh, columns[:, 2])
    return figures_of(truth, result)


def _pictures(
    spec: NetworkSpec, read: ExampleReader, count: int, threads: int
) -> Iterator[tuple[int, np.ndarray, tuple[int, int]]]:
    """Yield row, input float32 [1, 3, H, W] in 0 to 255, and (height, width) as stored, in order."""
    height, width = spec.input_size

    def load(row: int) -> tuple[int, np.ndarray, tuple[int, int]]:
        image = read(row).image
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        return row, resized.transpose(2, 0, 1)[None].astype(np.float32), (image.shape[0], image.shape[1])

    with ThreadPoolExecutor(threads, thread_name_prefix="val") as pool:
        for start in range(0, count, AHEAD * threads):
            yield from pool.map(load, range(start, min(count, start + AHEAD * threads)))
