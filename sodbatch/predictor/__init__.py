"""Predictors: one small protocol, three backends, and the choice between them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from sodbatch.errors import UsageError
from sodbatch.model.folder import ModelFolder
from sodbatch.predictor.base import Predictor
from sodbatch.preprocess import Preprocess

__all__ = ["Predictor", "check_choice", "create_predictor"]

log = logging.getLogger(__name__)


def create_predictor(
    folder: ModelFolder,
    *,
    backend: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    streams: int | None = None,
    score_floor: float = 0.0,
    precision: str = "fp32",
    tensorrt: bool = False,
    batch_size: int = 1,
) -> tuple[Predictor, str]:
    """Load a model for inference.

    Args:
        folder: The model.
        backend: ``"paddle"`` (the reference), ``"openvino"``, ``"onnxruntime"``, or ``"auto"``:
            on a CPU OpenVINO if it is installed and its conversion agrees with Paddle, else
            Paddle; on a GPU Paddle.
        device: ``"cpu"``, ``"gpu"`` or ``"gpu:N"``.
        threads: CPU threads; None for all usable cores.
        streams: Pictures that OpenVINO and ONNX Runtime work on at the same time, sharing the
            threads; None for one a thread, 1 for the shortest time of a single picture.
        score_floor: Boxes scoring this or less may be left out; those above are the same.
        precision: ``"fp32"``; ``"bf16"`` with OpenVINO on CPUs that have it, whose boxes differ a little; on a GPU
            ``"fp16"``.
        tensorrt: Use TensorRT, on a GPU.
        batch_size: The most pictures that Paddle runs together.

    Returns:
        The predictor, and one line on what was chosen and why.

    Raises:
        UsageError: If what is asked for does not exist or is not installed.
    """
    check_choice(backend=backend, device=device, threads=threads, precision=precision, tensorrt=tensorrt)

    options = _Options(device, threads, streams, precision, tensorrt, batch_size)
    chosen, why = _choose(backend, device)
    if chosen == "paddle":
        predictor = _paddle(folder, score_floor, options)
        return predictor, f"{predictor.name}: {why}"
    _require(chosen, chosen)

    from sodbatch.predictor.conversion import convert

    conversion = convert(
        folder,
        chosen,
        lambda graph: _converted(chosen, graph, folder.preprocess, 0.0, replace(options, precision="fp32")),
        lambda: _paddle(folder, 0.0, replace(options, precision="fp32")),
    )
    if conversion.graph is None:
        predictor = _paddle(folder, score_floor, options)
        reason = f"{predictor.name}: not {chosen}, because {conversion.reason}"
        log.warning(reason)
        return predictor, reason
    predictor = _converted(chosen, conversion.graph, folder.preprocess, score_floor, options)
    return predictor, f"{predictor.name}: {why}; {conversion.reason}"


@dataclass(frozen=True)
class _Options:
    device: str
    threads: int | None
    streams: int | None
    precision: str
    tensorrt: bool
    batch_size: int


def _paddle(folder: ModelFolder, score_floor: float, options: _Options) -> Predictor:
    from sodbatch.predictor.paddle import PaddlePredictor

    _require("paddle", "paddlepaddle")
    return PaddlePredictor(
        folder,
        device=options.device,
        threads=options.threads,
        score_floor=score_floor,
        precision=options.precision,
        tensorrt=options.tensorrt,
        batch_size=options.batch_size,
    )


def _converted(backend: str, graph: Path, preprocess: Preprocess, score_floor: float, options: _Options) -> Predictor:
    threads, streams = options.threads, options.streams
    if backend == "openvino":
        from sodbatch.predictor.openvino import OpenVINOPredictor

        return OpenVINOPredictor(
            graph,
            preprocess,
            threads=threads,
            streams=streams,
            score_floor=score_floor,
            precision=options.precision,
        )
    from sodbatch.predictor.onnxruntime import ONNXRuntimePredictor

    return ONNXRuntimePredictor(
        graph,
        preprocess,
        device=options.device,
        threads=threads,
        streams=streams,
        score_floor=score_floor,
        precision=options.precision,
        tensorrt=options.tensorrt,
    )


def check_choice(*, backend: str, device: str, threads: int | None, precision: str, tensorrt: bool) -> None:
    """Refuse what :func:`create_predictor` cannot make, before anything is loaded.

    Raises:
        UsageError: Naming the argument and what is allowed.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads is {threads!r}; expected a whole number from 1 on, or none for all cores")
    if backend not in ("auto", "paddle", "openvino", "onnxruntime"):
        raise UsageError(f"backend is {backend!r}; expected auto, paddle, openvino or onnxruntime")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "gpu") or (index and (kind == "cpu" or not index.isdecimal())):
        raise UsageError(f"device is {device!r}; expected cpu, gpu or gpu:N")
    if precision not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"precision is {precision!r}; expected fp32, bf16 or fp16")
    if precision == "bf16" and (kind != "cpu" or backend not in ("auto", "openvino")):
        raise UsageError(f"precision bf16 needs backend openvino on a CPU; backend is {backend}, device is {device}")
    if kind == "cpu" and (tensorrt or precision == "fp16"):
        raise UsageError("tensorrt and precision fp16 need a GPU; device is cpu")
    if kind == "gpu" and backend == "openvino":
        raise UsageError("backend openvino runs on the CPU; device is gpu: use paddle or onnxruntime")
    if backend == "onnxruntime" and precision == "fp16" and not tensorrt:
        raise UsageError("backend onnxruntime runs fp16 with tensorrt only; set tensorrt, or use paddle")


def _choose(backend: str, device: str) -> tuple[str, str]:
    if backend != "auto":
        return backend, "as asked"
    if device != "cpu":
        return "paddle", "the default on a GPU"
    missing = [name for name in ("openvino", "paddle2onnx") if find_spec(name) is None]
    if missing:
        return "paddle", f"{' and '.join(missing)} not installed"
    return "openvino", "the default on a CPU"


def _require(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise UsageError(f"backend {module} needs the package {package}, which is not installed")
