"""PaddleX's Python interface: ``create_model(name).predict(pictures)``, without Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sodbatch.config import LimitsSection
from sodbatch.decode import FailedPage, decode_pages
from sodbatch.errors import PictureError, UsageError
from sodbatch.fetch import Fetcher
from sodbatch.manifest import open_manifest
from sodbatch.manifest.open import MANIFESTS
from sodbatch.manifest.pictures import has_magic, suffix
from sodbatch.model.find import find_model
from sodbatch.model.folder import ModelFolder
from sodbatch.predictor import Predictor, check_choice, create_predictor
from sodbatch.predictor.base import default_device, usable_cpus
from sodbatch.preprocess import resize
from sodbatch.results import DetResult
from sodbatch.storage import Storage, display_uri, local_path
from sodbatch.threshold import Threshold, resolve_threshold, select

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Picture:
    image: NDArray[np.uint8]
    input_path: str | None
    page_index: int | None


class Detector:
    """A model ready to detect; made by :func:`create_model`, whose arguments these are.

    Attributes:
        model_name: From the model folder.
        labels: Class id to name.
        backend: Which backend runs and why; None before the first picture.
    """

    def __init__(
        self,
        folder: ModelFolder,
        threshold: Any,
        storage: Storage,
        *,
        device: str,
        backend: str,
        threads: int | None,
        precision: str,
        tensorrt: bool,
    ) -> None:
        check_choice(device=device, backend=backend, threads=threads, precision=precision, tensorrt=tensorrt)
        self._folder = folder
        self._threshold = resolve_threshold(threshold, folder.draw_threshold, len(folder.labels))
        self._storage = storage
        self._threads = threads or usable_cpus()
        self._create = partial(
            create_predictor,
            folder,
            device=device,
            backend=backend,
            threads=threads,
            precision=precision,
            tensorrt=tensorrt,
        )
        self._predictor: Predictor | None = None
        self._made_for = (0.0, 0)
        self.model_name = folder.model_name
        self.labels = folder.labels
        self.backend: str | None = None

    def predict(self, input: Any, batch_size: int = 1, threshold: Any = None) -> Iterator[DetResult]:
        """Detect the objects of pictures, one result a picture (or page), in order.

        Pictures are read and predicted as the results are asked for, ``batch_size`` at a time.

        Args:
            input: A BGR picture (uint8 [H, W, 3]), a path, URL, folder or glob, or a list of these.
            batch_size: Pictures that are predicted together.
            threshold: Float or {class id: float}; None for that of :func:`create_model`, which
                goes before the model folder's.

        Raises:
            UsageError: On arguments that mean nothing.
            PictureError: While iterating, if a picture cannot be fetched or decoded.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}; expected a whole number from 1 on")
        if threshold is None:
            resolved = self._threshold
        else:
            resolved = resolve_threshold(threshold, None, len(self._folder.labels))
        return self._predict(self._pictures(input), batch_size, resolved)

    def _predict(self, pictures: Iterator[_Picture], batch_size: int, threshold: Threshold) -> Iterator[DetResult]:
        folder = self._folder
        while batch := list(islice(pictures, batch_size)):
            predictor = self._load(threshold.floor, batch_size)
            inputs = np.empty((len(batch), *folder.preprocess.shape), np.uint8)
            for picture, out in zip(batch, inputs):
                resize(picture.image, folder.preprocess, out)
            sizes = np.array([picture.image.shape[:2] for picture in batch], np.int32)
            for picture, raw in zip(batch, predictor.predict(inputs, sizes)):
                height, width = picture.image.shape[:2]
                yield DetResult.of(
                    select(raw, threshold, height, width, folder.keep_top_k),
                    folder.labels,
                    image=picture.image,
                    input_path=picture.input_path,
                    page_index=picture.page_index,
                )

    def _load(self, floor: float, batch_size: int) -> Predictor:
        """Return the predictor; made again only for a lower score or another number of pictures at a time."""
        made_floor, made_batch_size = self._made_for
        if self._predictor is None or floor < made_floor or batch_size != made_batch_size:
            self._predictor = None  # its memory goes before the next one's comes
            streams = min(batch_size, self._threads)
            self._predictor, self.backend = self._create(score_floor=floor, streams=streams, batch_size=batch_size)
            self._made_for = floor, batch_size
            log.info("%s", self.backend)
        return self._predictor

    def _pictures(self, input: Any) -> Iterator[_Picture]:
        items: Sequence[Any] = input if isinstance(input, (list, tuple)) else [input]
        for item in items:
            if not isinstance(item, (np.ndarray, str, Path)):
                raise UsageError(f"input holds a {type(item).__name__}; expected arrays, paths, URLs or folders")
            if isinstance(item, np.ndarray) and (
                item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size
            ):
                raise UsageError(f"input holds an array {item.dtype} {item.shape}; expected uint8 [H, W, 3], BGR")
        return self._read(items)

    def _read(self, items: Iterable[Any]) -> Iterator[_Picture]:
        fetcher = Fetcher(self._storage, self._storage.fetch_section, LimitsSection())
        for item in items:
            if isinstance(item, np.ndarray):
                yield _Picture(item, None, None)
                continue
            for source in self._sources(str(item)):
                shown = source if local_path(source) is not None else display_uri(source)
                try:
                    data = fetcher.fetch(source)
                except PictureError as error:
                    raise _named(error, shown) from error
                for page in decode_pages(data, LimitsSection()):
                    if isinstance(page, FailedPage):
                        raise _named(page.error, shown)
                    yield _Picture(page.image, shown, page.page_index)

    def _sources(self, item: str) -> Iterator[str]:
        """Yield the pictures that a path or URL names: itself, or those of a folder, glob or manifest."""
        path = local_path(item)
        is_list = path is None or has_magic(item) or suffix(path) in MANIFESTS or Path(path).is_dir()
        if not is_list:
            yield item
            return
        for table in open_manifest(item, self._storage).tables():
            yield from table["source"].to_pylist()


def _named(error: PictureError, shown: str) -> PictureError:
    return PictureError(error.error_class, f"{shown}: {error.message}")


def create_model(
    model_name: str,
    model_dir: str | Path | None = None,
    threshold: Any = None,
    *,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    precision: str = "fp32",
    tensorrt: bool = False,
    storage: Storage | None = None,
) -> Detector:
    """Open a model; it is loaded when the first picture comes.

    Args:
        model_name: Such as ``PP-YOLOE_plus_SOD-S``.
        model_dir: An inference folder, a path or a URL such as ``s3://bucket/folder``; without it
            the official model of that name is downloaded to the cache.
        threshold: Float or {class id: float}; boxes must score more. None for the model folder's.
        device: ``"cpu"``, ``"gpu"``, ``"gpu:N"``, or ``"auto"``: a GPU if Paddle has one.
        backend: ``"auto"``, ``"paddle"``, ``"openvino"`` or ``"onnxruntime"``.
        threads: CPU threads; None for all usable cores.
        precision: ``"fp32"``, on CPUs that have it ``"bf16"``, or on a GPU ``"fp16"``.
        tensorrt: Use TensorRT, on a GPU.
        storage: How S3 and other stores are reached; default: from the environment.

    Raises:
        UsageError: If there is no such model, or an argument means nothing.
    """
    storage = storage or Storage()
    folder = find_model(model_name, None if model_dir is None else str(model_dir), storage)
    if folder.model_name != model_name:
        log.warning("asked for %s, the model folder says it is %s", model_name, folder.model_name)
    return Detector(
        folder,
        threshold,
        storage,
        device=default_device() if device == "auto" else device,
        backend=backend,
        threads=threads,
        precision=precision,
        tensorrt=tensorrt,
    )
