"""The reference: Paddle Inference on the folder's own graph."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sodbatch.errors import UsageError
from sodbatch.model.folder import ModelFolder
from sodbatch.predictor.base import usable_cpus
from sodbatch.predictor.tensorrt import tensorrt_engines

log = logging.getLogger(__name__)

GPU_MEMORY_POOL_MB = 100
"""First size of Paddle's GPU memory pool, which grows as needed; PaddleX's value."""

ONEDNN_CACHED_SHAPES = 10
"""Input shapes whose oneDNN primitives are kept; without a bound the cache grows (Paddle #43346)."""


class PaddlePredictor:
    """Runs batches with Paddle Inference.

    On a CPU with oneDNN, unless a trial run fails (Paddle 3.3 cannot run these graphs with it:
    Paddle #79749). On a GPU in float32 or float16, with TensorRT on request; the GPU and
    TensorRT paths follow Paddle's documented calls and are untested on hardware.

    Args:
        folder: The model.
        device: ``"cpu"``, ``"gpu"`` or ``"gpu:N"``.
        threads: CPU threads; None for all usable cores.
        score_floor: Boxes scoring this or less are not needed: pushed down into the graph's NMS
            (programs in JSON only).
        precision: ``"fp32"`` or, on a GPU, ``"fp16"``.
        tensorrt: Let TensorRT run what it can of the graph.
        batch_size: The most pictures that run together.
    """

    def __init__(
        self,
        folder: ModelFolder,
        *,
        device: str = "cpu",
        threads: int | None = None,
        score_floor: float = 0.0,
        precision: str = "fp32",
        tensorrt: bool = False,
        batch_size: int = 1,
    ) -> None:
        self._preprocess = folder.preprocess
        self._batch_size = batch_size
        with program_with_floor(folder.program, score_floor) as program:
            if device == "cpu":
                with _native_output_to_stderr():
                    self._create_on_cpu(program, folder.params, threads or usable_cpus())
                return
            gpu = int(device.partition(":")[2] or 0)
            _require_gpu(gpu)
            if tensorrt:
                self.name = f"paddle-tensorrt-{precision}"
                with tensorrt_engines(program, folder.params, folder.preprocess, precision, batch_size) as engines:
                    self._predictor = _create_gpu(*engines, gpu, "fp32")  # the engines have their precision inside
            else:
                self.name = f"paddle-gpu-{precision}"
                self._predictor = _create_gpu(program, folder.params, gpu, precision)

    def predict(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """See :meth:`sodbatch.predictor.base.Predictor.predict`."""
        results: list[NDArray[np.float32]] = []
        for start in range(0, len(images), self._batch_size):
            chunk = slice(start, start + self._batch_size)
            results += self._run(images[chunk], sizes[chunk])
        return results

    def _run(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        inputs = {
            "image": self._preprocess.normalize(images),
            "scale_factor": self._preprocess.scale_factors(sizes),
        }
        for name, array in inputs.items():
            handle = self._predictor.get_input_handle(name)
            handle.reshape(array.shape)
            handle.copy_from_cpu(array)
        self._predictor.run()
        outputs = [
            self._predictor.get_output_handle(name).copy_to_cpu() for name in self._predictor.get_output_names()[:2]
        ]
        shapes = [output.shape for output in outputs]
        if len(shapes) < 2 or shapes[0][1:] != (6,) or shapes[1] != (len(images),) or outputs[1].sum() != shapes[0][0]:
            raise ValueError(f"it gives arrays of the shapes {shapes}, expected boxes [k, 6] and their counts [n]")
        boxes, counts = outputs
        return np.split(boxes, np.cumsum(counts)[:-1])

    def _create_on_cpu(self, program: Path, params: Path, threads: int) -> None:
        self.name = "paddle-cpu"
        try:
            self._predictor = _create_cpu(program, params, threads, onednn=True)
            self._try_out()
        except Exception as error:  # Paddle raises many kinds here, NotImplementedError among them
            lines = [line for line in str(error).splitlines() if line.strip()]
            log.warning(
                "oneDNN fails on this graph with Paddle %s; going on without it, 2 to 3 times slower: %s",
                _paddle_version(),
                lines[-1].strip() if lines else type(error).__name__,
            )
            self.name = "paddle-cpu-without-onednn"
            self._predictor = _create_cpu(program, params, threads, onednn=False)
            try:
                self._try_out()
            except Exception as error:
                reason = " ".join(str(error).split())[-300:]
                raise UsageError(f"the graph in {program} cannot be used as a detector: {reason}") from error

    def _try_out(self) -> None:
        shape = self._preprocess.shape
        self._run(np.zeros((1, *shape), np.uint8), np.array([shape[:2]], np.int32))


def _create_cpu(program: Path, params: Path, threads: int, *, onednn: bool) -> Any:
    from paddle import inference

    config = inference.Config(str(program), str(params))
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    if onednn:
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(ONEDNN_CACHED_SHAPES)
    else:
        config.disable_mkldnn()
    return inference.create_predictor(_common_options(config))


@contextmanager
def _native_output_to_stderr() -> Iterator[None]:
    """Keep what Paddle's passes print (a line for each ReduceMean) out of standard output."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(stdout, 1)
        os.close(stdout)


def _require_gpu(index: int) -> None:
    """Refuse a GPU that is not there; Paddle itself would go on with the CPU."""
    import paddle

    count = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    if index >= count:
        raise UsageError(
            f"GPU {index} was asked for, but this Paddle sees {count} GPUs; install paddlepaddle-gpu on a machine "
            "with an NVIDIA GPU, or use device cpu"
        )


def _create_gpu(program: Path, params: Path, gpu: int, precision: str) -> Any:
    """Untested on hardware."""
    from paddle import inference

    config = inference.Config(str(program), str(params))
    config.disable_mkldnn()
    config.exp_disable_mixed_precision_ops({"feed", "fetch"})
    half = inference.PrecisionType.Half
    config.enable_use_gpu(GPU_MEMORY_POOL_MB, gpu, half if precision == "fp16" else inference.PrecisionType.Float32)
    return inference.create_predictor(_common_options(config))


def _common_options(config: Any) -> Any:
    """Set on a ``paddle.inference.Config`` what every device takes, as PaddleX does."""
    config.enable_new_ir(True)
    config.enable_new_executor()
    config.set_optimization_level(3)
    config.enable_memory_optim()
    config.disable_glog_info()
    return config


def _paddle_version() -> str:
    from paddle import version

    return str(version.full_version)


@contextmanager
def program_with_floor(program: Path, score_floor: float) -> Iterator[Path]:
    """Yield a program whose NMS drops boxes scoring ``score_floor`` or less, as a file for as long as it is loaded.

    Greedy NMS takes boxes by descending score, so a box under the floor never suppresses one
    over it: what scores higher comes out the same. The graph's own score threshold is never
    lowered. A ``.pdmodel`` is yielded as it is.
    """
    if program.suffix != ".json":
        yield program
        return
    content = json.loads(program.read_bytes())
    attributes = [
        attribute["AT"]
        for operation in content["program"]["regions"][0]["blocks"][0]["ops"]
        if operation["#"].rpartition(".")[2] == "multiclass_nms3"
        for attribute in operation["A"]
        if attribute["N"] == "score_threshold"
    ]
    floor = float(np.float32(score_floor))
    if all(attribute["D"] >= floor for attribute in attributes):
        yield program
        return
    for attribute in attributes:
        attribute["D"] = max(attribute["D"], floor)
    with tempfile.TemporaryDirectory(prefix="sodbatch-") as folder:
        changed = Path(folder) / program.name
        changed.write_text(json.dumps(content))
        yield changed
