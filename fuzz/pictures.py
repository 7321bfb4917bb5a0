"""Pictures and documents: whatever the bytes, decoding gives pages or errors of the closed set."""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
import pypdfium2
from PIL import Image

from fuzz.mutate import mutations
from sodbatch.config import LimitsSection
from sodbatch.decode import FailedPage, Page, decode_pages
from sodbatch.decode.headers import read_header
from sodbatch.errors import PictureError

LIMITS = LimitsSection(max_pixels=2_000_000, max_pages=20)

_PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
_PICTURE = Image.fromarray(_PIXELS)


def _encode(kind: str, picture: Image.Image = _PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _pdf() -> bytes:
    document = pypdfium2.PdfDocument.new()
    document.new_page(20, 30)
    document.new_page(30, 20)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


_TWO: dict[str, Any] = {"save_all": True, "append_images": [_PICTURE.convert("L")]}

SEEDS = [
    _encode("JPEG", exif=_exif()),
    _encode("JPEG", progressive=True),
    _encode("JPEG", _PICTURE.convert("CMYK")),
    _encode("PNG"),
    _encode("PNG", _PICTURE.convert("P")),
    cv2.imencode(".png", _PIXELS.astype(np.uint16))[1].tobytes(),
    _encode("WEBP"),
    _encode("WEBP", _PICTURE.convert("RGBA"), lossless=True, exif=_exif()),
    _encode("WEBP", _PICTURE, **_TWO),
    _encode("BMP"),
    _encode("BMP", _PICTURE.convert("P")),
    _encode("PPM"),
    b"P3 4 2 255\n" + b" 17" * 24,
    b"P1 4 2\n0 1 0 1 1 0 1 0",
    struct.pack(">8I", 0x59A66A95, 40, 24, 24, 2880, 1, 0, 0) + _PIXELS.tobytes(),
    struct.pack(">8I", 0x59A66A95, 40, 24, 8, 960, 2, 0, 0) + _PIXELS.tobytes()[:960],
    _encode("TIFF", _PICTURE, **_TWO),
    _encode("TIFF", compression="tiff_lzw"),
    _encode("TIFF", compression="jpeg"),
    _encode("TIFF", _PICTURE.convert("1"), compression="group4"),
    _encode("TIFF", big_tiff=True),
    _encode("TIFF", Image.fromarray(_PIXELS[..., 0].astype(np.float32))),
    _encode("GIF"),
    _pdf(),
    _encode("PDF"),
]

TOKENS = (
    b"\xff\xd8\xff", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xe1", b"IDAT", b"PLTE", b"tRNS",
    b"acTL", b"eXIf", b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"BM", b"P5 ", b"II*\0", b"MM\0*", b"II+\0",
    b"%PDF-1.7\n", b"%%EOF", b"startxref\n", b"endobj", b"/Kids[1 0 R]", b"/MediaBox[0 0 1e9 1e9]", b"xref",
)  # fmt: skip

CASES = mutations(SEEDS, TOKENS)


def check_picture(data: bytes) -> None:
    """Decode, and hold the result against what :func:`sodbatch.decode.decode_pages` promises."""
    try:
        header = read_header(data)
    except PictureError as error:
        assert error.message
        header = None
    pages = list(decode_pages(data, LIMITS))
    assert pages
    numbered = [page.page_index for page in pages]
    assert numbered == [None] or numbered == list(range(pages[0].page_count))
    for page in pages:
        assert page.page_count == len(pages)
        if isinstance(page, FailedPage):
            assert page.error.message and "\n" not in page.error.message and len(page.error.message) < 600
        else:
            _check_page(page)
            sides = {header.width, header.height} if header else set()
            assert sides == {0} or page.page_index is not None or set(page.image.shape[:2]) == sides


def _check_page(page: Page) -> None:
    height, width, channels = page.image.shape
    assert page.image.dtype == np.uint8 and channels == 3 and page.image.flags.c_contiguous
    assert 0 < width * height <= LIMITS.max_pixels
