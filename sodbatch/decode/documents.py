"""Documents: the pages of a TIFF by Pillow and of a PDF by PDFium, one at a time, as PaddleX reads them.

Source of the figures: PaddleX 3.7.2, ``inference/utils/io/readers.py`` and ``pdf_rendering.py``. A PDF page is
rendered at scale 2.0, less where it would pass 178,956,970 pixels, but never under 0.1.
"""

from __future__ import annotations

import io
import logging
import math
import re
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from sodbatch.config import LimitsSection
from sodbatch.errors import ErrorClass, PictureError

PDF_SCALE = 2.0
PDF_MIN_SCALE = 0.1
PDF_MAX_PIXELS = 178_956_970

# What Pillow says of a damaged TIFF is in its page's error, or did no harm.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

_pdfium_lock = threading.Lock()
"""PDFium must not be entered by two threads of a process, not even for different documents."""

BAND_PIXELS = 2**20
"""A TIFF page is turned into BGR so many pixels at a time: Pillow's 4 bytes a pixel and ours are there once."""

OnPage = Callable[[int, int], None]
"""Called with page_index and page_count before that page is decoded."""

PageResult = tuple[int, int, "NDArray[np.uint8] | PictureError"]
"""page_index, page_count, and the page as uint8 BGR [H, W, 3] or why it failed."""


def tiff_pages(data: bytes, limits: LimitsSection, skip: Collection[int], on_page: OnPage) -> Iterator[PageResult]:
    """Decode a TIFF page by page.

    Raises:
        PictureError: The file as a whole cannot be read, or has more than ``max_pages``.
    """
    try:
        with _pillow_bound.off():
            tiff = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
            count = _count_tiff_pages(tiff, limits.max_pages)
    except PictureError:
        raise
    except Exception as error:
        first_directory = int.from_bytes(data[4:8], "little" if data[:2] == b"II" else "big")
        cut = len(data) < 8 or first_directory + 2 > len(data)
        kind = ErrorClass.TRUNCATED if cut else ErrorClass.DECODER_FAILURE
        raise PictureError(kind, f"the TIFF cannot be read: {_one_line(error)}") from error
    for index in range(count):
        if index not in skip:
            on_page(index, count)
            yield index, count, _tiff_page(tiff, index, len(data), limits)


class _PillowBound:
    """Pillow's own bound on pixels, off as long as any thread is inside: ``max_pixels`` is checked instead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._bound: int | None = None

    @contextmanager
    def off(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    Image.MAX_IMAGE_PIXELS = self._bound


_pillow_bound = _PillowBound()


def _count_tiff_pages(tiff: TiffImagePlugin.TiffImageFile, max_pages: int) -> int:
    for index in range(max_pages + 1):
        try:
            tiff.seek(index)
        except EOFError:
            return index
    raise PictureError(ErrorClass.TOO_LARGE, f"more pages than the limit of {max_pages}")


def _tiff_page(
    tiff: TiffImagePlugin.TiffImageFile, index: int, size: int, limits: LimitsSection
) -> NDArray[np.uint8] | PictureError:
    try:
        with _pillow_bound.off():
            tiff.seek(index)
            check_pixels(*tiff.size, limits.max_pixels)
            end = _end_of_data(tiff.tag_v2)
            if end > size:
                return PictureError(ErrorClass.TRUNCATED, f"page {index}: {size} bytes of {end}")
            tiff.load()
        return _bgr(tiff)
    except PictureError as error:
        return error
    except Exception as error:
        kind = ErrorClass.TRUNCATED if "truncated" in str(error) else ErrorClass.DECODER_FAILURE
        return PictureError(kind, f"page {index}: {_one_line(error)}")


def _bgr(picture: Image.Image) -> NDArray[np.uint8]:
    width, height = picture.size
    image = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = picture.crop((0, top, width, min(top + rows, height)))
        image[top : top + rows] = np.asarray(band.convert("RGB"))[..., ::-1]
    return image


def _end_of_data(tags: Any) -> int:
    """Return where the last strip or tile of a page ends in the file."""
    ends = [0]
    for offsets, counts in ((273, 279), (324, 325)):
        ends += [start + length for start, length in zip(tags.get(offsets, ()), tags.get(counts, ()))]
    return max(ends)


def pdf_pages(data: bytes, limits: LimitsSection, skip: Collection[int], on_page: OnPage) -> Iterator[PageResult]:
    """Render a PDF page by page.

    Raises:
        PictureError: The file as a whole cannot be read, needs a password, or has more than ``max_pages``.
    """
    if (missing := _missing_end(data)) is not None:
        raise PictureError(ErrorClass.TRUNCATED, f"the PDF is cut off: {missing}")
    document = _open_pdf(data)
    try:
        with _pdfium_lock:
            count = len(document)
        if count == 0:
            raise PictureError(ErrorClass.DECODER_FAILURE, "the PDF has no pages")
        if count > limits.max_pages:
            raise PictureError(ErrorClass.TOO_LARGE, f"{count} pages, more than the limit of {limits.max_pages}")
        for index in range(count):
            if index not in skip:
                on_page(index, count)
                yield index, count, _pdf_page(document, index, limits)
    finally:
        with _pdfium_lock:
            document.close()


def _missing_end(data: bytes) -> str | None:
    """Say what the end of a PDF lacks; PDFium would repair such a file and lose pages without a word."""
    linearized = re.search(rb"/Linearized.{0,200}?/L\s+(\d{1,15})", data[:1024], re.DOTALL)
    if linearized and int(linearized[1]) > len(data):
        return f"{len(data)} bytes of {int(linearized[1])}"
    return None if b"%%EOF" in data[max(data.rfind(b"startxref"), 0) :] else "its end marker is missing"


def _open_pdf(data: bytes) -> Any:
    import pypdfium2

    with _pdfium_lock:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if "password" in str(error).lower():
                raise PictureError(ErrorClass.UNSUPPORTED, "the PDF is encrypted and needs a password") from error
            raise PictureError(ErrorClass.DECODER_FAILURE, f"the PDF cannot be read: {_one_line(error)}") from error
        document.init_forms()
        return document


def _pdf_page(document: Any, index: int, limits: LimitsSection) -> NDArray[np.uint8] | PictureError:
    try:
        with _pdfium_lock:
            page = document[index]
            try:
                width, height = page.get_size()
                scale = pdf_scale(width, height, min(limits.max_pixels, PDF_MAX_PIXELS))
                return np.ascontiguousarray(page.render(scale=scale).to_numpy())
            finally:
                page.close()
    except PictureError as error:
        return PictureError(error.error_class, f"page {index}: {error.message}")
    except Exception as error:
        return PictureError(ErrorClass.DECODER_FAILURE, f"page {index}: {_one_line(error)}")


def pdf_scale(width: float, height: float, max_pixels: int) -> float:
    """Return the scale at which a page is rendered, as PaddleX chooses it.

    Args:
        width: Of the page, in points (1/72 inch).
        height: As ``width``.
        max_pixels: The most that the rendered page may have.

    Returns:
        2.0, or the largest scale (to within 32 bisections) that stays inside ``max_pixels``.

    Raises:
        PictureError: The page has no area (``decoder_failure``), or is too large at 0.1 (``too_large``).
    """
    if width <= 0 or height <= 0:
        raise PictureError(ErrorClass.DECODER_FAILURE, f"a page of {width:g} x {height:g} points has no area")

    def fits(scale: float) -> bool:
        return math.ceil(width * scale) * math.ceil(height * scale) <= max_pixels

    if fits(PDF_SCALE):
        return PDF_SCALE
    if not fits(PDF_MIN_SCALE):
        raise PictureError(
            ErrorClass.TOO_LARGE,
            f"a page of {width:g} x {height:g} points, beyond {max_pixels} pixels even at scale {PDF_MIN_SCALE}",
        )
    low, high = PDF_MIN_SCALE, min(PDF_SCALE, math.sqrt(max_pixels / (width * height)))
    for _ in range(32):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture by the size in its header.

    Raises:
        PictureError: ``too_large``, or ``decoder_failure`` for a picture without area.
    """
    if width <= 0 or height <= 0:
        raise PictureError(ErrorClass.DECODER_FAILURE, f"the header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise PictureError(
            ErrorClass.TOO_LARGE, f"{width} x {height} pixels, more than the limit of {max_pixels} pixels"
        )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
