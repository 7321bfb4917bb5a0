"""From a Paddle folder to a checked ONNX graph, made once a machine and cached.

A conversion is checked against Paddle when it is made, before anything uses it: paddle2onnx can
change numbers silently (2.1.0 reads double attributes of a Paddle 3 graph as uninitialised
floats, Paddle2ONNX #1646). What disagrees after a few attempts is recorded as refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from sodbatch.cache import cache_dir
from sodbatch.errors import UsageError
from sodbatch.model.folder import ModelFolder
from sodbatch.predictor.agreement import Agreement, compare
from sodbatch.predictor.base import Predictor
from sodbatch.predictor.layernorm import repair_layer_norm
from sodbatch.preprocess import Preprocess
from sodbatch.storage.local import write_atomic

log = logging.getLogger(__name__)

SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.1
ATTEMPTS = 3
CONVERSION_TIMEOUT_S = 1800
LOWEST_SCORE = 0.01
"""The score threshold that the graphs of these models carry."""

REVISION = 1
"""Raised when this module's conversion or check changes, so that older cached ones are not used."""

_EXPORT = """\
import sys
from paddle2onnx import export
program, params, graph = sys.argv[1:]
export(program, params, graph, opset_version=16, optimize_tool="None")  # the other tools install packages
"""

MakePredictor = Callable[[Path], Predictor]


@dataclass(frozen=True)
class Conversion:
    """A checked conversion.

    Attributes:
        graph: The ONNX file; None if the conversion was refused.
        reason: One line: the figures of the check, or why there is no graph.
    """

    graph: Path | None
    reason: str


def convert(
    folder: ModelFolder, backend: str, make: MakePredictor, make_reference: Callable[[], Predictor]
) -> Conversion:
    """Return the cached conversion of a folder for a backend, or makes and checks it.

    Of several processes one converts and the others wait for it.

    Args:
        folder: The model.
        backend: The backend's package, ``"openvino"`` or ``"onnxruntime"``.
        make: Makes the backend's predictor from an ONNX file.
        make_reference: Makes the Paddle predictor to check against, if there is no cached verdict.

    Raises:
        UsageError: If the cache folder cannot be written.
    """
    home = cache_dir() / "onnx" / _key(folder, backend)
    verdict, graph = home / "verdict.json", home / "inference.onnx"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock"):
            if not verdict.exists():
                found = _convert_and_check(folder, graph, make, make_reference)
                write_atomic(str(verdict), json.dumps(found, indent=2).encode())
            found = json.loads(verdict.read_text())
    except OSError as error:
        raise UsageError(
            f"cannot cache the conversion in {home}: {error.strerror or error}; "
            "set SODBATCH_CACHE to a folder that can be written, or use backend: paddle"
        ) from error
    if not found["agrees"]:
        return Conversion(None, f"{found['reason']} (remembered; delete {home} to try again)")
    return Conversion(graph, found["reason"])


def _key(folder: ModelFolder, backend: str) -> str:
    """Name the cache entry by the model and everything that the conversion and its check depend on."""
    parts = [str(REVISION)]
    for package in ("paddle2onnx", "paddlepaddle", "paddlepaddle-gpu", backend):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{folder.fingerprint[:32]}-{backend}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def _convert_and_check(
    folder: ModelFolder, graph: Path, make: MakePredictor, make_reference: Callable[[], Predictor]
) -> dict[str, object]:
    """Convert, check, and try again with a fresh process; leave ``graph`` behind only if it agrees."""
    log.info("converting %s to ONNX and checking the result against Paddle", folder.model_name)
    images, sizes = sample_pictures(folder.preprocess)
    reference: list[NDArray[np.float32]] | None = None
    failure = ""
    for attempt in range(1, ATTEMPTS + 1):
        with tempfile.TemporaryDirectory(prefix=".making-", dir=graph.parent) as making:
            candidate = Path(making) / graph.name
            error = run_paddle2onnx(folder, candidate)
            if error:
                failure = f"paddle2onnx failed: {error}"
                log.warning("attempt %d of %d: %s", attempt, ATTEMPTS, failure)
                continue
            repair_layer_norm(candidate, folder.program)
            if reference is None:
                reference = make_reference().predict(images, sizes)
            agreement = agreement_of(reference, make(candidate).predict(images, sizes), folder.keep_top_k)
            if agreement.agrees:
                os.replace(candidate, graph)
                reason = f"its conversion agrees with paddle on {len(images)} pictures ({agreement})"
                return {"agrees": True, "reason": reason, **asdict(agreement)}
            failure = f"its conversion disagrees with paddle on {len(images)} sample pictures: {agreement}"
            log.warning("attempt %d of %d: %s", attempt, ATTEMPTS, failure)
    return {"agrees": False, "reason": failure}


def agreement_of(reference: list[NDArray[np.float32]], found: list[NDArray[np.float32]], keep_top_k: int) -> Agreement:
    """Compare raw boxes of several pictures within the tolerances for converted graphs."""
    total = Agreement()
    for expected, boxes in zip(reference, found, strict=True):
        total += compare(
            expected,
            boxes,
            score_tolerance=SCORE_TOLERANCE,
            box_tolerance=BOX_TOLERANCE,
            keep_top_k=keep_top_k,
            score_floor=LOWEST_SCORE,
        )
    return total


def run_paddle2onnx(folder: ModelFolder, graph: Path) -> str | None:
    """Convert in a process of its own, which may crash; return why it failed, or None."""
    arguments = [str(path.resolve()) for path in (folder.program, folder.params)] + [str(graph.resolve())]
    try:
        done = subprocess.run(  # noqa: S603 - our own code on files given as arguments
            [sys.executable, "-c", _EXPORT, *arguments],
            cwd=graph.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=CONVERSION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no result after {CONVERSION_TIMEOUT_S} s"
    if done.returncode == 0 and graph.exists():
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return f"exit code {done.returncode}, {lines[-1] if lines else 'no output'}"


def sample_pictures(preprocess: Preprocess) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Draw made-up pictures to check on: a gradient with noise under few, many and very many rectangles.

    Returns:
        uint8 [3, H, W, 3] and int32 [3, 2], original heights and widths.
    """
    rng = np.random.default_rng(2026)
    height, width, _ = preprocess.shape
    slope = np.linspace(40, 180, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
    images = []
    for count in (8, 80, 600):
        image = slope + rng.normal(0, 12, preprocess.shape)
        for _ in range(count):
            h, w = rng.integers(3, max(4, min(height, width) // 12), 2)
            y, x = rng.integers(0, height - h), rng.integers(0, width - w)
            image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
            image[y + h // 3 : y + h // 2 + 1, x : x + w] *= 0.5
        images.append(image.clip(0, 255).astype(np.uint8))
    return np.stack(images), np.array([[540, 960], [1080, 1920], [1500, 1000]], np.int32)
