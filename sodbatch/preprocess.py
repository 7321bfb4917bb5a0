"""From a decoded page to the model's uint8 input, as the model folder's ``Preprocess`` section says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sodbatch.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = {0: "nearest", 1: "linear", 2: "cubic", 3: "area", 4: "Lanczos"}

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocess:
    """What happens to a picture between decoding and the graph.

    Attributes:
        height: Input height in pixels; the aspect ratio is not kept.
        width: Input width in pixels.
        interp: OpenCV's interpolation flag, 0 to 4 (2 is cubic).
        scale: Per RGB channel, factor on the pixel values 0 to 255.
        shift: Per RGB channel, added after ``scale``. With scale 1 and shift 0 the graph takes the pixels as they are.
    """

    height: int
    width: int
    interp: int = 2
    scale: Channels = (1.0, 1.0, 1.0)
    shift: Channels = (0.0, 0.0, 0.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the model input."""
        return self.height, self.width, 3

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """What the graph's ``image`` input takes.

        Args:
            images: uint8 RGB [N, H, W, 3].

        Returns:
            float32 [N, 3, H, W], contiguous.
        """
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
        if any(factor != 1.0 for factor in self.scale):
            planes *= np.array(self.scale, np.float32).reshape(3, 1, 1)
        if any(self.shift):
            planes += np.array(self.shift, np.float32).reshape(3, 1, 1)
        return planes

    def scale_factors(self, sizes: np.ndarray) -> np.ndarray:
        """The graph's ``scale_factor`` input, float32 [N, 2], of pictures of ``sizes`` int [N, 2] (height, width)."""
        return (np.array([self.height, self.width], np.float64) / sizes).astype(np.float32)


def resize(image_bgr: np.ndarray, preprocess: Preprocess, out: np.ndarray) -> None:
    """Resize a picture into ``out``.

    Args:
        image_bgr: uint8 [h, w, 3], channels blue, green, red.
        preprocess: The target size and the interpolation.
        out: uint8 [H, W, 3], contiguous; receives red, green, blue.

    Raises:
        ValueError: ``out`` has another shape, type or layout.
    """
    import cv2

    if out.shape != preprocess.shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected contiguous uint8 {preprocess.shape}")
    resized = cv2.resize(image_bgr, (preprocess.width, preprocess.height), interpolation=preprocess.interp)
    cv2.cvtColor(resized, cv2.COLOR_BGR2RGB, dst=out)


def parse_preprocess(steps: Any) -> Preprocess:
    """Read the ``Preprocess`` section of ``inference.yml``.

    Accepted are the steps that PP-YOLOE models are exported with, in their order: Resize, NormalizeImage (absent when
    the graph normalises), Permute. They mean what they mean in PaddleX.

    Raises:
        UsageError: Another step, order, key or value.
    """
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "type" in step for step in steps):
        raise UsageError("Preprocess must be a list of steps with a type")
    names = [str(step["type"]) for step in steps]
    if names not in (["Resize", "NormalizeImage", "Permute"], ["Resize", "Permute"]):
        raise UsageError(
            f"Preprocess has the steps {', '.join(names) or 'none'}; "
            "supported are Resize, NormalizeImage (optional), Permute, in this order"
        )
    arguments = {str(step["type"]): {key: step[key] for key in step if key != "type"} for step in steps}
    _only_keys("Permute", arguments["Permute"], ())
    height, width, interp = _parse_resize(arguments["Resize"])
    if "NormalizeImage" not in arguments:
        return Preprocess(height, width, interp)
    scale, shift = _parse_normalize(arguments["NormalizeImage"])
    return Preprocess(height, width, interp, scale, shift)


def _parse_resize(step: Mapping[str, Any]) -> tuple[int, int, int]:
    _only_keys("Resize", step, ("target_size", "keep_ratio", "interp"))
    size, interp = step.get("target_size"), step.get("interp", 2)
    if not (isinstance(size, list) and len(size) == 2 and all(_is_positive_int(side) for side in size)):
        raise UsageError(f"Preprocess Resize has target_size {size!r}, expected [height, width] in pixels")
    if step.get("keep_ratio", False) is not False:
        raise UsageError("Preprocess Resize has keep_ratio true, which these models do not use; expected false")
    if isinstance(interp, bool) or not isinstance(interp, int) or interp not in INTERPOLATIONS:
        known = ", ".join(f"{flag} ({name})" for flag, name in INTERPOLATIONS.items())
        raise UsageError(f"Preprocess Resize has interp {interp!r}, expected one of {known}")
    return size[0], size[1], interp


def _parse_normalize(step: Mapping[str, Any]) -> tuple[Channels, Channels]:
    """Scale and shift that equal (pixel / 255 - mean) / std, without the 255 when ``is_scale`` is false."""
    _only_keys("NormalizeImage", step, ("mean", "std", "is_scale", "norm_type"))
    norm_type = step.get("norm_type")
    if norm_type not in (None, "none", "mean_std"):
        raise UsageError(f"Preprocess NormalizeImage has norm_type {norm_type!r}, expected none or mean_std")
    mean = _three_numbers("mean", step.get("mean", list(IMAGENET_MEAN)))
    std = _three_numbers("std", step.get("std", list(IMAGENET_STD)))
    if 0.0 in std:
        raise UsageError(f"Preprocess NormalizeImage has std {list(std)}, expected numbers other than 0")
    unit = 1.0 / 255.0 if step.get("is_scale", True) else 1.0
    red, green, blue = ((unit / deviation, -center / deviation) for center, deviation in zip(mean, std, strict=True))
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _only_keys(step: str, arguments: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(str(key) for key in set(arguments) - set(known))
    if unknown:
        raise UsageError(f"Preprocess {step} has the keys {', '.join(unknown)}, known are {', '.join(known) or 'none'}")


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _three_numbers(key: str, value: Any) -> Channels:
    try:
        red, green, blue = (float(number) for number in value)
    except (TypeError, ValueError):
        raise UsageError(f"Preprocess NormalizeImage has {key} {value!r}, expected three numbers") from None
    return red, green, blue
