"""PaddleX's ``Predict.kernel_option.run_mode`` in this project's keys."""

from __future__ import annotations

from typing import Any

from sodbatch.errors import UsageError

RUN_MODES: dict[str, dict[str, Any]] = {
    "paddle": {"backend": "paddle", "precision": "fp32", "tensorrt": False},
    "paddle_fp32": {"backend": "paddle", "precision": "fp32", "tensorrt": False},
    "paddle_fp16": {"backend": "paddle", "precision": "fp16", "tensorrt": False},
    "mkldnn": {"backend": "paddle", "precision": "fp32", "tensorrt": False},
    "mkldnn_bf16": {"backend": "openvino", "precision": "bf16", "tensorrt": False},
    "trt_fp32": {"backend": "paddle", "precision": "fp32", "tensorrt": True},
    "trt_fp16": {"backend": "paddle", "precision": "fp16", "tensorrt": True},
}
"""PaddleX 3.7's run modes, less ``trt_int8``, as backend, precision and tensorrt.

On a CPU the paddle backend uses oneDNN (``mkldnn``) wherever it works, so that ``paddle`` and ``mkldnn`` are one.
"""


def apply_kernel_option(raw: dict[str, Any], *, fill_only: bool) -> None:
    """Replace ``Predict.kernel_option`` of a raw configuration by the keys it stands for, in place.

    Args:
        raw: Sections as read.
        fill_only: Leave keys alone that are given already; else overwrite them.

    Raises:
        UsageError: Another option than ``run_mode``, or a run mode without a counterpart here.
    """
    predict = raw.get("Predict")
    if not isinstance(predict, dict) or "kernel_option" not in predict:
        return
    option = predict.pop("kernel_option")
    if option is None or option == {}:
        return
    if not isinstance(option, dict) or option.keys() != {"run_mode"}:
        raise UsageError(f"Predict.kernel_option = {option!r}: expected {{run_mode: {' | '.join(RUN_MODES)}}}")
    mode = option["run_mode"]
    if not isinstance(mode, str) or mode not in RUN_MODES:
        raise UsageError(f"Predict.kernel_option.run_mode = {mode!r}: expected one of {', '.join(RUN_MODES)}")
    raw["Predict"] = {**RUN_MODES[mode], **predict} if fill_only else {**predict, **RUN_MODES[mode]}
