"""A predictor alone, on pictures that are decoded and resized already; prints JSON.

    python -m benchmarks.raw MODEL_DIR LISTING COUNT [--backend openvino] [--threads 2] [--streams 2] [--batch 16]

``--backend benchmark`` is OpenVINO as its own benchmark tool drives it: throughput hint, requests back to back,
results thrown away.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sodbatch.config import LimitsSection
from sodbatch.decode import Page, decode_pages
from sodbatch.model.folder import ModelFolder, open_model_folder
from sodbatch.predictor import create_predictor
from sodbatch.predictor.base import usable_cpus
from sodbatch.preprocess import Preprocess, resize

DISTINCT = 40
"""Pictures that are kept decoded, and taken again and again."""


def load(paths: list[Path], preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Decode and resize pictures: uint8 [n, H, W, 3], and int32 [n, 2] original heights and widths."""
    images, sizes = np.empty((len(paths), *preprocess.shape), np.uint8), np.empty((len(paths), 2), np.int32)
    for image, size, path in zip(images, sizes, paths, strict=True):
        [page] = decode_pages(path.read_bytes(), LimitsSection(), (), lambda index, count: None)
        assert isinstance(page, Page)
        resize(page.image, preprocess, out=image)
        size[:] = page.image.shape[:2]
    return images, sizes


class Benchmark:
    """OpenVINO's asynchronous throughput mode."""

    def __init__(self, folder: ModelFolder, threads: int, floor: float) -> None:
        import openvino as ov

        from sodbatch.predictor.conversion import convert
        from sodbatch.predictor.openvino import OpenVINOPredictor, raise_score_threshold, take_uint8_nhwc
        from sodbatch.predictor.paddle import PaddlePredictor

        self._preprocess = folder.preprocess
        graph = convert(
            folder,
            "openvino",
            lambda path: OpenVINOPredictor(path, folder.preprocess),
            lambda: PaddlePredictor(folder),
        ).graph
        core = ov.Core()
        model = core.read_model(graph)
        raise_score_threshold(model, floor)
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # as the others: else bfloat16 where the CPU has it
        }
        self._queue = ov.AsyncInferQueue(core.compile_model(take_uint8_nhwc(model, folder.preprocess), "CPU", settings))

    def predict(self, images: np.ndarray, sizes: np.ndarray) -> None:
        """Run all pictures."""
        factors = self._preprocess.scale_factors(sizes)
        for i in range(len(images)):
            self._queue.start_async({"image": images[i : i + 1], "scale_factor": factors[i : i + 1]})
        self._queue.wait_all()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("listing", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--backend", default="openvino", choices=["openvino", "onnxruntime", "paddle", "benchmark"])
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--streams", type=int)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--paddle-batch", type=int, default=1)
    parser.add_argument("--floor", type=float, default=0.5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    folder = open_model_folder(options.model_dir)
    images, sizes = load([Path(line) for line in options.listing.read_text().split()][:DISTINCT], folder.preprocess)
    started = time.perf_counter()
    predictor: Any
    if options.backend == "benchmark":
        predictor = Benchmark(folder, options.threads, options.floor)
    else:
        predictor, _ = create_predictor(
            folder,
            backend=options.backend,
            threads=options.threads,
            streams=options.streams,
            score_floor=options.floor,
            batch_size=options.paddle_batch,
        )
    load_seconds = time.perf_counter() - started
    predictor.predict(images[: options.threads], sizes[: options.threads])
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    for start in range(0, options.count, options.batch):
        chosen = np.arange(start, min(start + options.batch, options.count)) % len(images)
        predictor.predict(images[chosen], sizes[chosen])
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "load_seconds": load_seconds, "peak_bytes": peak, "warm_bytes": base}))


if __name__ == "__main__":
    main()
