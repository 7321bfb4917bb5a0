"""The pictures of a part and their objects, in the form that training and evaluation take them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sodbatch.config import LimitsSection
from sodbatch.dataset.coco import Part
from sodbatch.dataset.pictures import picture_url
from sodbatch.dataset.records import rows_of
from sodbatch.decode import FailedPage, decode_pages
from sodbatch.errors import JobError, PictureError
from sodbatch.fetch import Fetcher
from sodbatch.storage import display_uri
from sodbatch.train.augment import Sample


@dataclass(frozen=True, eq=False)
class Examples:
    """A part's pictures; crowds and boxes without area are not learned.

    Attributes:
        urls: Of the pictures.
        starts: int64 [n + 1]; boxes ``starts[i]`` to ``starts[i + 1]`` are those of picture i.
        boxes: float32 [m, 4], (x1, y1, x2, y2) in pixels.
        labels: int64 [m], places in the data set's list of categories.
    """

    urls: list[str]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.urls)


def examples_of(part: Part, folder: str) -> Examples:
    """Take a part's pictures and boxes, in the order of its images; the part has been checked."""
    xywh = part.boxes.xywh
    learned = np.flatnonzero(~part.boxes.crowd & (xywh[:, 2:] > 0).all(axis=1))
    rows = rows_of(part.images.ids, part.boxes.image_ids[learned])
    order = np.argsort(rows, kind="stable")
    learned, rows = learned[order], rows[order]
    place = {identity: index for index, (identity, _) in enumerate(part.categories)}
    labels = np.array([place[identity] for identity in part.boxes.category_ids[learned].tolist()], np.int64)
    corners = np.concatenate([xywh[learned, :2], xywh[learned, :2] + xywh[learned, 2:]], axis=1)
    starts = np.searchsorted(rows, np.arange(len(part.images.ids) + 1))
    urls = [picture_url(folder, name) for name in part.images.names]
    return Examples(urls, starts.astype(np.int64), corners.astype(np.float32), labels)


class ExampleReader:
    """Reads examples, as the main job reads its pictures.

    Args:
        examples: What is read.
        fetcher: Gets the bytes.
        limits: Bounds on what is decoded.
    """

    def __init__(self, examples: Examples, fetcher: Fetcher, limits: LimitsSection) -> None:
        self._examples = examples
        self._fetcher = fetcher
        self._limits = limits

    def __call__(self, row: int) -> Sample:
        """Read one picture and its objects.

        Raises:
            JobError: The picture cannot be read; the check of the data set could read it.
        """
        url = self._examples.urls[row]
        try:
            page = next(decode_pages(self._fetcher.fetch(url), self._limits))
        except PictureError as error:
            raise JobError(f"{display_uri(url)} can no longer be read: {error}") from error
        if isinstance(page, FailedPage):
            raise JobError(f"{display_uri(url)} can no longer be read: {page.error}")
        image = np.asarray(cv2.cvtColor(page.image, cv2.COLOR_BGR2RGB), np.uint8)
        mine = slice(self._examples.starts[row], self._examples.starts[row + 1])
        return Sample(image, self._examples.boxes[mine], self._examples.labels[mine])
