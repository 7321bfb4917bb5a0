"""Pictures that kill the process that works on them: the hook is in these stand-ins, not in the package.

A file that ends with ``deadly:SEGV`` (``HANG``, ``EXIT``, ``KILL``; ``deadly:SEGV:3`` for page 3 of a document) kills
a :class:`DeadlyLoad`; a picture whose pixels are all ``DEADLY_VALUE`` kills a :class:`DeadlyPredictor`.
``deadly:ONCE:PATH`` kills with SIGKILL while PATH does not exist, and makes it.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fakes import MeanPredictor

from sodbatch.decode import FailedPage, Page
from sodbatch.engine.pipeline import InferSpec
from sodbatch.errors import PictureError
from sodbatch.stages import Infer, Load

DEADLY_VALUE = 7
_MARK = re.compile(rb"deadly:(SEGV|HANG|EXIT|KILL|ONCE)(?::(.*))?\Z", re.DOTALL)


def mark(path: str | Path, how: str) -> str:
    """Make a picture deadly; returns its path."""
    with open(path, "ab") as file:
        file.write(f"deadly:{how}".encode())
    return str(path)


def die(how: str) -> None:
    """End this process in a way that no Python code can catch."""
    if how == "SEGV":
        ctypes.string_at(0)
    elif how == "HANG":
        threading.Event().wait()
    elif how == "EXIT":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyLoad(Load):
    """Load that dies of marked pictures."""

    def _pages(
        self, row: dict[str, Any], data: bytes | PictureError, on_page: Callable[[int, int], None]
    ) -> Iterator[Page | FailedPage]:
        found = _MARK.search(data) if isinstance(data, bytes) else None
        if found is None:
            yield from super()._pages(row, data, on_page)
            return
        how, argument = found[1].decode(), (found[2] or b"").decode()
        if how == "ONCE":
            if not Path(argument).exists():
                Path(argument).touch()
                die("KILL")
        elif not argument:
            die(how)

        def deadly_page(index: int, count: int) -> None:
            on_page(index, count)
            if argument == str(index):
                die(how)

        yield from super()._pages(row, data, deadly_page)


class DeadlyPredictor(MeanPredictor):
    """A predictor that dies of pictures of ``DEADLY_VALUE``."""

    def __init__(self, how: str = "SEGV") -> None:
        self.how = how

    def predict(self, images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        if any((image == DEADLY_VALUE).all() for image in images):
            die(self.how)
        return super().predict(images, sizes)


class DeadlySpec(InferSpec):
    """Makes Infer with a :class:`DeadlyPredictor`; the folder's weights are not loaded."""

    how = "SEGV"

    def create(self) -> tuple[Infer, str]:
        folder = self.folder
        stage = Infer(
            DeadlyPredictor(self.how),
            self.threshold,
            folder.labels,
            folder.keep_top_k,
            folder.preprocess.shape,
            self.passthrough,
        )
        return stage, "deadly"


class HangingSpec(DeadlySpec):
    """The same, hanging."""

    how = "HANG"


class KilledSpec(DeadlySpec):
    """The same, killed by SIGKILL."""

    how = "KILL"


class KilledWhenLoadedSpec(InferSpec):
    """A model during whose loading somebody kills the process."""

    def create(self) -> tuple[Infer, str]:
        die("KILL")
        raise AssertionError


class UnloadableSpec(InferSpec):
    """A model that kills its process while it is loaded."""

    def create(self) -> tuple[Infer, str]:
        die("SEGV")
        raise AssertionError


def deadly_pipeline(pipeline: Any) -> Any:
    """Return a pipeline with the stages of this module."""
    load, infer = pipeline.load, pipeline.infer
    return replace(pipeline, load=DeadlyLoad(**vars(load)), infer=DeadlySpec(**vars(infer)))
