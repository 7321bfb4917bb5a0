"""Decode: bytes to pages, pixel for pixel as PaddleX 3.7.2 reads them.

Pictures go through ``cv2.imdecode(IMREAD_COLOR)``, which applies the EXIF orientation (but for WebP: see below),
drops alpha and brings any depth to 8 bits; TIFF and PDF go through :mod:`sodbatch.decode.documents`. Sizes are checked
in the header, before memory is spent, and a file whose end is missing is refused rather than half decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sodbatch.config import LimitsSection
from sodbatch.decode.documents import OnPage, check_pixels, pdf_pages, tiff_pages
from sodbatch.decode.headers import Header, read_header
from sodbatch.errors import ErrorClass, PictureError

OPENCV_MAX_PIXELS, OPENCV_MAX_SIDE = 2**30, 2**20
"""OpenCV's own bounds, which it reads from the environment when it is loaded; ``max_pixels`` cannot pass them."""

# What OpenCV would print about a damaged picture is the error of its row.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_DOCUMENTS = {"tiff": tiff_pages, "pdf": pdf_pages}


@dataclass(frozen=True)
class Page:
    """A decoded picture or page.

    Attributes:
        page_index: From 0 in a TIFF or PDF, also one of a single page; None for other formats.
        page_count: Pages of the input; 1 for other formats.
        image: uint8 BGR [H, W, 3], contiguous.
    """

    page_index: int | None
    page_count: int
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class FailedPage:
    """A page that could not be decoded, or (``page_index`` None, ``page_count`` 1) a whole file."""

    page_index: int | None
    page_count: int
    error: PictureError


def _nobody(page_index: int, page_count: int) -> None:
    """Take no notice of a page."""


def decode_pages(
    data: bytes, limits: LimitsSection, skip: Collection[int] = (), on_page: OnPage = _nobody
) -> Iterator[Page | FailedPage]:
    """Decode a file to its pages, one in memory at a time.

    Args:
        data: The whole file; its format is found in its content.
        limits: ``max_pixels`` of a page and ``max_pages`` of a document; beyond one, the error is ``too_large``.
        skip: Page indices that are neither decoded nor yielded.
        on_page: Called with ``page_index`` and ``page_count`` before a document's page is decoded.

    Yields:
        One result for a picture; one a page, in order, for a document; never nothing unless all pages are skipped.
        Never raises PictureError.
    """
    try:
        header = read_header(data)
        if header.format in _DOCUMENTS:
            for index, count, result in _DOCUMENTS[header.format](data, limits, skip, on_page):
                if isinstance(result, PictureError):
                    yield FailedPage(index, count, result)
                else:
                    yield Page(index, count, result)
        else:
            yield Page(None, 1, _decode_picture(data, header, limits.max_pixels))
    except PictureError as error:
        yield FailedPage(None, 1, error)


def _decode_picture(data: bytes, header: Header, max_pixels: int) -> NDArray[np.uint8]:
    if header.truncated and not header.width:
        raise PictureError(ErrorClass.TRUNCATED, header.truncated)
    check_pixels(header.width, header.height, min(max_pixels, OPENCV_MAX_PIXELS))
    if max(header.width, header.height) > OPENCV_MAX_SIDE:
        raise PictureError(
            ErrorClass.TOO_LARGE,
            f"{header.width} x {header.height} pixels, a side longer than OpenCV's bound of {OPENCV_MAX_SIDE}",
        )
    if header.truncated:
        raise PictureError(ErrorClass.TRUNCATED, header.truncated)
    if data[:2] in (b"P1", b"P2", b"P3"):
        data += b"\n"  # OpenCV wants a separator after the last number too
    flags = cv2.IMREAD_COLOR
    if header.format == "webp":  # OpenCV 4.10, which PaddleX pins, does not turn a WebP by its EXIF; later ones do
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        reason = " ".join(str(error.err or error).split())[:200]
        raise PictureError(ErrorClass.DECODER_FAILURE, f"OpenCV cannot decode the {header.format}: {reason}") from error
    if image is None:
        raise PictureError(ErrorClass.DECODER_FAILURE, f"OpenCV cannot decode the {header.format}: corrupt content")
    return np.asarray(image, np.uint8)
