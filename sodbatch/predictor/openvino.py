"""OpenVINO on a CPU, from the checked ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sodbatch.errors import UsageError
from sodbatch.predictor.base import by_class_and_score, usable_cpus
from sodbatch.preprocess import Preprocess

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names; without one it takes bfloat16 where the CPU has it."""


class OpenVINOPredictor:
    """Runs pictures as parallel requests of one picture each (the converted NMS takes batches of 1).

    Args:
        graph: The ONNX file.
        preprocess: Normalisation, folded into the graph with the layout change.
        threads: CPU threads; None for all usable cores.
        streams: Parallel requests, which share the threads; None for one a thread, which is
            best for throughput. 1 gives a single picture all threads.
        score_floor: Boxes scoring this or less are not needed: pushed down into NMS.
        precision: ``"fp32"``, or ``"bf16"`` on CPUs that have it.

    Raises:
        UsageError: The CPU has no bfloat16.
    """

    name = "openvino"

    def __init__(
        self,
        graph: Path,
        preprocess: Preprocess,
        *,
        threads: int | None = None,
        streams: int | None = None,
        score_floor: float = 0.0,
        precision: str = "fp32",
    ) -> None:
        import openvino as ov

        threads = threads or usable_cpus()
        streams = min(streams or threads, threads)
        core = ov.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("precision is bf16, which this CPU has not; expected fp32")
        model = core.read_model(graph)
        raise_score_threshold(model, score_floor)
        compiled = core.compile_model(
            take_uint8_nhwc(model, preprocess),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
                "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            },
        )
        self._preprocess = preprocess
        self._queue = ov.AsyncInferQueue(compiled, streams + 1)  # one waits, so that no stream does
        self._queue.set_callback(_keep_boxes)

    def predict(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """See :meth:`sodbatch.predictor.base.Predictor.predict`."""
        factors = self._preprocess.scale_factors(sizes)
        results: list[NDArray[np.float32] | None] = [None] * len(images)
        for i in range(len(images)):
            self._queue.start_async({"image": images[i : i + 1], "scale_factor": factors[i : i + 1]}, (results, i))
        self._queue.wait_all()
        found = [boxes for boxes in results if boxes is not None]
        if len(found) != len(images):
            raise RuntimeError(f"{len(images) - len(found)} of {len(images)} requests gave no answer")
        return found


def _keep_boxes(request: Any, slot: tuple[list[NDArray[np.float32]], int]) -> None:
    results, i = slot
    results[i] = by_class_and_score(request.get_output_tensor(0).data.reshape(-1, 6))


def raise_score_threshold(model: Any, score_floor: float) -> None:
    """Raise the score threshold of the model's NMS to ``score_floor``; it is never lowered."""
    from openvino import opset13 as opset

    for node in model.get_ops():
        if node.get_type_name() == "NonMaxSuppression":
            own = node.input_value(4).get_node().data
            floor = np.maximum(own, np.float32(score_floor))
            node.input(4).replace_source_output(opset.constant(floor, np.float32).output(0))


def take_uint8_nhwc(model: Any, preprocess: Preprocess) -> Any:
    """Make the model's ``image`` uint8 [1, H, W, 3] RGB, with the normalisation inside."""
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    image = steps.input("image")
    image.tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    image.model().set_layout(Layout("NCHW"))
    image.preprocess().convert_element_type(Type.f32)
    # OpenVINO divides by "scale" and subtracts "mean"; ours is pixels * scale + shift.
    if preprocess.scale != (1.0, 1.0, 1.0):
        image.preprocess().scale([1.0 / factor for factor in preprocess.scale])
    if any(preprocess.shift):
        image.preprocess().mean([-shift for shift in preprocess.shift])
    return steps.build()
