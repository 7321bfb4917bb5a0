"""ONNX Runtime on a CPU or GPU, from the checked ONNX graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sodbatch.errors import UsageError
from sodbatch.predictor.base import by_class_and_score, usable_cpus
from sodbatch.preprocess import Preprocess


class ONNXRuntimePredictor:
    """Runs pictures as parallel calls of one picture each (the converted NMS takes batches of 1).

    The CUDA and TensorRT providers are untested on hardware.

    Args:
        graph: The ONNX file.
        preprocess: Normalisation.
        device: ``"cpu"``, ``"gpu"`` or ``"gpu:N"``.
        threads: CPU threads; None for all usable cores.
        streams: Parallel calls, which share the threads; None for one a thread (on a GPU: one).
        score_floor: Boxes scoring this or less are not needed: pushed down into NMS.
        precision: ``"fp16"`` with TensorRT only.
        tensorrt: Use the TensorRT provider before CUDA.

    Raises:
        UsageError: If the installed ONNX Runtime lacks the provider.
    """

    def __init__(
        self,
        graph: Path,
        preprocess: Preprocess,
        *,
        device: str = "cpu",
        threads: int | None = None,
        streams: int | None = None,
        score_floor: float = 0.0,
        precision: str = "fp32",
        tensorrt: bool = False,
    ) -> None:
        import onnxruntime as ort

        threads = threads or usable_cpus()
        streams = min(streams or (threads if device == "cpu" else 1), threads)
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, threads // streams)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = _providers(device, precision, tensorrt)
        missing = {name for name, _ in providers} - set(ort.get_available_providers())
        if missing:
            raise UsageError(
                f"ONNX Runtime {ort.__version__} lacks {', '.join(sorted(missing))}; "
                "install onnxruntime-gpu, or use backend: paddle"
            )
        model = with_score_floor(graph, score_floor)
        self.name = "onnxruntime-" + ("tensorrt" if tensorrt else device.partition(":")[0])
        self._preprocess = preprocess
        self._session = ort.InferenceSession(model, options, providers=providers)
        self._output = self._session.get_outputs()[0].name
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="onnxruntime")

    def predict(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """See :meth:`sodbatch.predictor.base.Predictor.predict`."""
        factors = self._preprocess.scale_factors(sizes)

        def run(i: int) -> NDArray[np.float32]:
            inputs = {
                "image": self._preprocess.normalize(images[i : i + 1]),
                "scale_factor": factors[i : i + 1],
            }
            (boxes,) = self._session.run([self._output], inputs)
            return by_class_and_score(np.asarray(boxes).reshape(-1, 6))

        return list(self._pool.map(run, range(len(images))))


def _providers(device: str, precision: str, tensorrt: bool) -> list[tuple[str, dict[str, Any]]]:
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    gpu = int(device.partition(":")[2] or 0)
    providers: list[tuple[str, dict[str, Any]]] = [("CUDAExecutionProvider", {"device_id": gpu})]
    if tensorrt:
        options = {"device_id": gpu, "trt_fp16_enable": precision == "fp16"}
        providers.insert(0, ("TensorrtExecutionProvider", options))
    return providers


def with_score_floor(graph: Path, score_floor: float) -> bytes:
    """Return the ONNX graph with the score threshold of its NMS raised to ``score_floor``; it is never lowered."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(graph))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    for node in model.graph.node:
        if node.op_type == "NonMaxSuppression":
            own = numpy_helper.to_array(constants[node.input[4]])
            name = f"{node.name or node.output[0]}.score_floor"
            floor = np.maximum(own, np.float32(score_floor)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(floor, name))
            node.input[4] = name
    return bytes(model.SerializeToString())
