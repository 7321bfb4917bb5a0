"""TensorRT through Paddle: the graph's fitting parts become engines, built at start-up.

Follows ``paddle.tensorrt.export`` of Paddle's GPU wheels as PaddleX 3.7.2 calls it. Untested on hardware.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sodbatch.errors import UsageError
from sodbatch.preprocess import Preprocess


@contextmanager
def tensorrt_engines(
    program: Path, params: Path, preprocess: Preprocess, precision: str, batch_size: int
) -> Iterator[tuple[Path, Path]]:
    """Build the engines for batches of 1 to ``batch_size``.

    Args:
        program: The graph, in JSON.
        params: Its parameters.
        preprocess: Gives the input's height and width.
        precision: ``"fp32"`` or ``"fp16"``.
        batch_size: The most pictures that run together.

    Yields:
        A program that calls the engines and its parameters, as files for as long as they are loaded.

    Raises:
        UsageError: If this Paddle has no TensorRT, or the program is an older ``.pdmodel``.
    """
    try:
        from paddle.tensorrt.export import Input, PrecisionMode, TensorRTConfig, convert
    except ImportError as error:
        raise UsageError(
            f"this Paddle has no TensorRT ({error}); install TensorRT beside a GPU wheel, or tensorrt: false"
        ) from error
    if program.suffix != ".json":
        raise UsageError(f"TensorRT needs a program in JSON, found {program.name}; use tensorrt: false")

    def shaped(*shape: int) -> tuple[NDArray[np.float32], ...]:
        least, most = np.ones((1, *shape), np.float32), np.ones((batch_size, *shape), np.float32)
        return least, most, most

    image, scale_factor = shaped(3, preprocess.height, preprocess.width), shaped(2)
    with tempfile.TemporaryDirectory(prefix="sodbatch-tensorrt-") as folder:
        prefix = Path(folder) / "graph"  # convert() wants program and parameters side by side
        prefix.with_suffix(".json").write_bytes(program.read_bytes())
        prefix.with_suffix(".pdiparams").symlink_to(params.resolve())
        settings = TensorRTConfig(inputs=[Input(image), Input(scale_factor)])
        settings.precision_mode = PrecisionMode.FP16 if precision == "fp16" else PrecisionMode.FP32
        settings.save_model_dir = str(Path(folder) / "engine")
        convert(str(prefix), settings)
        yield Path(f"{settings.save_model_dir}.json"), Path(f"{settings.save_model_dir}.pdiparams")
