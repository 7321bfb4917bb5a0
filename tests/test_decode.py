"""Decoding: pixels equal an independent reader's, and whatever a file holds, it becomes pages or one clear error."""

from __future__ import annotations

import io
import math
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pypdfium2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from sodbatch.config import LimitsSection
from sodbatch.decode import FailedPage, Page, decode_pages
from sodbatch.decode.documents import pdf_scale
from sodbatch.decode.headers import read_header
from sodbatch.errors import ErrorClass, PictureError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LIMITS = LimitsSection()
WIDTH, HEIGHT = 37, 23


def make_pixels(seed: int = 0) -> np.ndarray:
    """Make a picture (uint8 RGB) whose rows and columns differ, so that a flip or shift shows."""
    ramp = np.add.outer(np.arange(HEIGHT) * 5, np.arange(WIDTH) * 3) % 256
    noise = np.random.default_rng(seed).integers(0, 40, (HEIGHT, WIDTH, 3))
    return np.clip(ramp[..., None] // 2 + noise + [0, 40, 80], 0, 255).astype(np.uint8)


RGB = make_pixels()
PICTURE = Image.fromarray(RGB)


def encode(format: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def decode(data: bytes, limits: LimitsSection = LIMITS, skip: tuple[int, ...] = ()) -> list[Page | FailedPage]:
    return list(decode_pages(data, limits, skip))


def image_of(data: bytes) -> np.ndarray:
    (page,) = decode(data)
    assert isinstance(page, Page), page
    assert (page.page_index, page.page_count) == (None, 1)
    assert page.image.dtype == np.uint8 and page.image.ndim == 3 and page.image.flags.c_contiguous
    return page.image


def error_of(data: bytes, limits: LimitsSection = LIMITS) -> PictureError:
    (page,) = decode(data, limits)
    assert isinstance(page, FailedPage), "it was decoded"
    assert "\n" not in page.error.message
    return page.error


def ras(kind: int = 1) -> bytes:
    """Write a Sun raster by its specification: rows of BGR, padded to 16 bits."""
    rows = b"".join(row.tobytes() + b"\0" * (WIDTH * 3 % 2) for row in RGB[..., ::-1])
    return struct.pack(">8I", 0x59A66A95, WIDTH, HEIGHT, 24, len(rows), kind, 0, 0) + rows


LOSSLESS = {
    "bmp": encode("BMP"),
    "png": encode("PNG"),
    "interlaced png": cv2.imencode(".png", RGB[..., ::-1])[1].tobytes(),
    "webp": encode("WEBP", lossless=True),
    "ppm": encode("PPM"),
    "ppm with a comment": b"P6\n# made by hand\n37 # width\n23\n255\n" + RGB.tobytes(),
    "ppm as text": b"P3 37 23 255\n" + b" ".join(b"%d" % value for value in RGB.ravel()),
    "ras": ras(),
    "old ras": ras(0),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_pixels_in_bgr(name: str) -> None:
    np.testing.assert_array_equal(image_of(LOSSLESS[name]), RGB[..., ::-1])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_jpeg_is_near_what_pillow_decodes(options: dict[str, Any]) -> None:
    data = encode("JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))[..., ::-1].astype(int)
    assert np.abs(image_of(data) - expected).max() <= 3


def test_other_modes() -> None:
    grey = np.asarray(PICTURE.convert("L"))
    palette = PICTURE.convert("P")
    bits = PICTURE.convert("1")
    alpha = PICTURE.convert("RGBA")
    alpha.putalpha(7)
    deep = RGB.astype(np.uint16) * 256 + 200
    cases = {
        "grey": (encode("PNG", PICTURE.convert("L")), np.dstack([grey] * 3)),
        "pgm": (encode("PPM", PICTURE.convert("L")), np.dstack([grey] * 3)),
        "pbm": (encode("PPM", bits), np.dstack([np.asarray(bits).astype(np.uint8) * 255] * 3)),
        "palette": (encode("PNG", palette), np.asarray(palette.convert("RGB"))[..., ::-1]),
        "palette bmp": (encode("BMP", palette), np.asarray(palette.convert("RGB"))[..., ::-1]),
        "alpha is dropped": (encode("PNG", alpha), RGB[..., ::-1]),
        "16 bits": (cv2.imencode(".png", deep[..., ::-1])[1].tobytes(), RGB[..., ::-1]),
        "16-bit grey": (encode("PNG", Image.fromarray(deep[..., 0])), np.dstack([RGB[..., 0]] * 3)),
    }
    for name, (data, expected) in cases.items():
        np.testing.assert_array_equal(image_of(data), expected, err_msg=name)
    cmyk = encode("JPEG", PICTURE.convert("CMYK"), quality=100)
    assert np.abs(image_of(cmyk) - RGB[..., ::-1].astype(int)).max() <= 25


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_but_to_webp(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encode("PNG", exif=exif)))))[..., ::-1]
    np.testing.assert_array_equal(image_of(encode("PNG", exif=exif)), upright)
    turned = image_of(encode("JPEG", exif=exif, quality=100, subsampling=0))
    assert turned.shape == upright.shape and np.abs(turned - upright.astype(int)).mean() < 2
    np.testing.assert_array_equal(image_of(encode("WEBP", exif=exif, lossless=True)), RGB[..., ::-1])


# --- damage


@pytest.mark.parametrize("name", [*LOSSLESS, "jpeg", "progressive jpeg", "lossy webp"])
@settings(max_examples=40)
@given(share=st.floats(0.2, 0.999))
def test_a_file_cut_anywhere_is_truncated(name: str, share: float) -> None:
    whole = (
        LOSSLESS.get(name)
        or {
            "jpeg": encode("JPEG"),
            "progressive jpeg": encode("JPEG", progressive=True),
            "lossy webp": encode("WEBP"),
        }[name]
    )
    if name == "ppm as text":  # a number may be cut in half, which nothing can tell
        share *= 0.4
    cut = whole[: min(int(len(whole) * share), len(whole) - 2)]
    assert error_of(cut).error_class is ErrorClass.TRUNCATED


def test_a_whole_thumbnail_does_not_make_a_cut_jpeg_whole() -> None:
    thumbnail = encode("JPEG", PICTURE.resize((16, 16)))
    whole = encode("JPEG", exif=b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert whole.count(b"\xff\xd9") >= 2
    assert image_of(whole).shape == (HEIGHT, WIDTH, 3)
    assert error_of(whole[:-40]).error_class is ErrorClass.TRUNCATED
    assert error_of(whole[:-2]).error_class is ErrorClass.TRUNCATED


@pytest.mark.parametrize("tail", [b"\0", b"\r\n", b"trailing" * 1000, encode("JPEG")])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "PPM"])
def test_bytes_after_the_end_do_no_harm(format: str, tail: bytes) -> None:
    data = encode(format)
    np.testing.assert_array_equal(image_of(data + tail), image_of(data))


def test_a_file_filled_up_with_zeros_is_truncated() -> None:
    data = encode("JPEG", make_large())
    assert error_of(data[: len(data) // 2].ljust(len(data), b"\0")).error_class is ErrorClass.TRUNCATED


def make_large() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8))


def test_a_png_with_broken_content_is_a_decoder_failure() -> None:
    data = bytearray(encode("PNG", make_large()))
    data[len(data) // 2] ^= 0xFF
    assert error_of(bytes(data)).error_class is ErrorClass.DECODER_FAILURE


def _bomb_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _bomb_jpeg() -> bytes:
    data = bytearray(encode("JPEG"))
    position = data.index(b"\xff\xc0")
    data[position + 5 : position + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def _bomb_tiff() -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {256: 60_000, 257: 60_000, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 60_000, 279: 1}.items():
        tags[tag] = value
    buffer = io.BytesIO(b"II*\0\x08\0\0\0")
    buffer.seek(8)
    tags.save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_bomb_png(100_000, 100_000), "100000 x 100000 pixels, more than the limit of 200000000"),
        (_bomb_png(2_000_000, 1), "side longer than OpenCV's bound"),
        (_bomb_jpeg(), "65500 x 65500 pixels"),
        (b"P6 70000 70000 255\n", "70000 x 70000 pixels"),
        (b"P6 9999999999 9999999999 255\n", "9999999999 x 9999999999 pixels"),
        (struct.pack(">8I", 0x59A66A95, 2**31, 2, 24, 0, 1, 0, 0), "2147483648 x 2 pixels"),
        (
            struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 0, 0, 0, 54, 40, 90000, -90000, 1, 24, 0, 0, 0, 0, 0, 0),
            "90000 x 90000",
        ),
        (b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2 + bytes(8), "16777216 x 16777216"),
        (_bomb_tiff(), "60000 x 60000 pixels"),
    ],
)
def test_a_bomb_is_refused_by_its_header(data: bytes, message: str) -> None:
    (page,) = decode(data)
    assert isinstance(page, FailedPage)
    assert page.error.error_class is ErrorClass.TOO_LARGE
    assert message in page.error.message


def test_the_limit_on_pixels_is_inclusive() -> None:
    exact = LimitsSection(max_pixels=WIDTH * HEIGHT)
    below = LimitsSection(max_pixels=WIDTH * HEIGHT - 1)
    for data in [*LOSSLESS.values(), encode("JPEG"), encode("TIFF")]:
        assert isinstance(decode(data, exact)[0], Page)
        assert decode(data, below)[0].error.error_class is ErrorClass.TOO_LARGE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ErrorClass.EMPTY),
        (b"hello, this is no picture\n", ErrorClass.NOT_AN_IMAGE),
        (b"<!DOCTYPE html><html><body>403</body></html>", ErrorClass.NOT_AN_IMAGE),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', ErrorClass.NOT_AN_IMAGE),
        (b"PK\x03\x04rest", ErrorClass.NOT_AN_IMAGE),
        (b"\x1f\x8b\x08rest", ErrorClass.NOT_AN_IMAGE),
        (bytes(1000), ErrorClass.NOT_AN_IMAGE),
        (b"\xff", ErrorClass.NOT_AN_IMAGE),
        (b"BMW is a car, not a picture", ErrorClass.NOT_AN_IMAGE),
        (b"P1\tis no picture", ErrorClass.TRUNCATED),
        (encode("GIF"), ErrorClass.UNSUPPORTED),
        (encode("ICO", PICTURE.resize((16, 16))), ErrorClass.UNSUPPORTED),
        (encode("AVIF"), ErrorClass.UNSUPPORTED),
        (encode("JPEG2000"), ErrorClass.UNSUPPORTED),
        (b"8BPS\0\1", ErrorClass.UNSUPPORTED),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', ErrorClass.UNSUPPORTED),
        (encode("WEBP", save_all=True, append_images=[ImageOps.mirror(PICTURE)]), ErrorClass.UNSUPPORTED),
        (b"\xff\xd8\xff\xd9", ErrorClass.DECODER_FAILURE),
        (_bomb_png(0, 10), ErrorClass.DECODER_FAILURE),
        (_bomb_png(10, 10), ErrorClass.DECODER_FAILURE),
        (b"\x89PNG\r\n\x1a\n", ErrorClass.TRUNCATED),
        (b"RIFF\x10\0\0\0WEBP", ErrorClass.TRUNCATED),
        (b"BM\0\0", ErrorClass.TRUNCATED),
        (b"\x59\xa6\x6a\x95\0\0", ErrorClass.TRUNCATED),
        (b"II*\0", ErrorClass.TRUNCATED),
        (b"MM\0*\0\0\xff\0", ErrorClass.TRUNCATED),
        (b"%PDF-1.7\n", ErrorClass.TRUNCATED),
        (b"%PDF-1.7\nnothing\nstartxref\n0\n%%EOF", ErrorClass.DECODER_FAILURE),
    ],
)
def test_what_is_not_a_picture(data: bytes, expected: ErrorClass) -> None:
    assert error_of(data).error_class is expected


@settings(max_examples=150)
@given(
    st.sampled_from([*LOSSLESS.values(), encode("JPEG"), encode("TIFF"), encode("TIFF", compression="tiff_lzw")]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damage_never_raises(data: bytes, changes: list[tuple[float, int]]) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[int(position**2 * len(damaged))] = value
    pages = decode(bytes(damaged), LimitsSection(max_pixels=10**6, max_pages=10))
    assert pages
    assert all(isinstance(page, (Page, FailedPage)) for page in pages)


@settings(max_examples=100)
@given(
    st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x99\0\0\0WEBP",
            b"BM",
            b"P5 ",
            b"\x59\xa6\x6a\x95",
            b"II*\0",
            b"%PDF-1",
        ]
    ),
    st.binary(max_size=200),
)
def test_random_bytes_never_raise(start: bytes, rest: bytes) -> None:
    pages = decode(start + rest, LimitsSection(max_pixels=10**6))
    assert pages
    assert all(isinstance(page, (Page, FailedPage)) for page in pages)


# --- TIFF


def pages_of(data: bytes, limits: LimitsSection = LIMITS, skip: tuple[int, ...] = ()) -> list[Page]:
    pages = decode(data, limits, skip)
    assert all(isinstance(page, Page) for page in pages), pages
    return pages  # type: ignore[return-value]


TIFF_PAGES = [PICTURE, PICTURE.convert("L").rotate(90, expand=True), PICTURE.convert("CMYK"), PICTURE.convert("1")]


def multipage_tiff(**options: Any) -> bytes:
    return encode("TIFF", TIFF_PAGES[0], save_all=True, append_images=TIFF_PAGES[1:], **options)


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}])
def test_tiff_pages(options: dict[str, Any]) -> None:
    pages = pages_of(multipage_tiff(**options))
    assert [(page.page_index, page.page_count) for page in pages] == [(i, 4) for i in range(4)]
    for page, picture in zip(pages, TIFF_PAGES):
        np.testing.assert_array_equal(page.image, np.asarray(picture.convert("RGB"))[..., ::-1])
        assert page.image.flags.c_contiguous


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits"])
def test_a_tiff_of_one_page_is_page_0_of_1(compression: str) -> None:
    (page,) = pages_of(encode("TIFF", compression=compression))
    assert (page.page_index, page.page_count) == (0, 1)
    np.testing.assert_array_equal(page.image, RGB[..., ::-1])


def test_only_our_limit_bounds_a_tiff_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    height, width = RGB.shape[:2]
    assert error_of(encode("TIFF"), LimitsSection(max_pixels=height * width - 1)).error_class is ErrorClass.TOO_LARGE
    assert len(pages_of(encode("TIFF"), LimitsSection(max_pixels=height * width))) == 1
    assert Image.MAX_IMAGE_PIXELS == 10


def test_skipped_pages_are_not_yielded() -> None:
    assert [page.page_index for page in pages_of(multipage_tiff(), skip=(0, 2))] == [1, 3]
    assert pages_of(multipage_tiff(), skip=(0, 1, 2, 3)) == []


def test_a_bad_page_leaves_the_others() -> None:
    data = bytearray(multipage_tiff())
    with Image.open(io.BytesIO(data)) as tiff:
        tiff.seek(1)
        start = tiff.tag_v2[273][0]
    position = data.rindex(struct.pack("<I", start))
    data[position : position + 4] = struct.pack("<I", len(data))
    kinds = [page.error.error_class if isinstance(page, FailedPage) else None for page in decode(bytes(data))]
    assert kinds == [None, ErrorClass.TRUNCATED, None, None]
    failed = decode(bytes(data))[1]
    assert (failed.page_index, failed.page_count) == (1, 4)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_a_cut_tiff_is_truncated(compression: str) -> None:
    data = encode("TIFF", make_large(), compression=compression)
    assert error_of(data[: len(data) // 2]).error_class is ErrorClass.TRUNCATED
    header_last = data[:4] + struct.pack("<I", 8) + data[8:]
    assert len(decode(header_last)) == 1


def test_the_limit_on_pages() -> None:
    data = multipage_tiff()
    assert len(pages_of(data, LimitsSection(max_pages=4))) == 4
    error = error_of(data, LimitsSection(max_pages=3))
    assert (error.error_class, error.message) == (ErrorClass.TOO_LARGE, "more pages than the limit of 3")


def test_a_tiff_whose_pages_go_in_circles_ends() -> None:
    data = bytearray(encode("TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    assert len(decode(bytes(data), LimitsSection(max_pages=50))) <= 50


def test_pages_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    convert = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: converted.append(mode) or convert(self, mode))
    data = multipage_tiff()
    converted.clear()
    pages = decode_pages(data, LIMITS)
    for count in range(1, 5):
        next(pages)
        assert len(converted) == count


# --- PDF


def make_pdf(*sizes: tuple[float, float]) -> bytes:
    document = pypdfium2.PdfDocument.new()
    for size in sizes:
        document.new_page(*size)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def test_pdf_pages_are_rendered_at_twice_their_points() -> None:
    pages = pages_of(make_pdf((100, 50.2), (30, 40)))
    assert [(p.page_index, p.page_count, p.image.shape) for p in pages] == [(0, 2, (101, 200, 3)), (1, 2, (80, 60, 3))]
    assert all((page.image == 255).all() for page in pages)


def test_pdf_pages_show_their_pictures_in_bgr() -> None:
    corners = Image.new("RGB", (40, 40), (200, 10, 20))
    corners.paste((5, 150, 60), (20, 0, 40, 20))
    (page,) = pages_of(encode("PDF", corners, resolution=72.0, quality=100))
    assert page.image.shape == (80, 80, 3)
    np.testing.assert_allclose(page.image[60, 20], (20, 10, 200), atol=4)
    np.testing.assert_allclose(page.image[20, 60], (60, 150, 5), atol=4)


def test_pdf_skip_and_limits() -> None:
    data = make_pdf((10, 10), (10, 10), (20000, 30000))
    assert [page.page_index for page in pages_of(data, skip=(0, 2))] == [1]
    assert error_of(data, LimitsSection(max_pages=2)).error_class is ErrorClass.TOO_LARGE
    small = decode(data, LimitsSection(max_pixels=400))
    assert [isinstance(page, Page) for page in small] == [True, True, False]
    assert small[2].error.error_class is ErrorClass.TOO_LARGE
    (scaled,) = pages_of(data, LimitsSection(max_pixels=10**7), skip=(0, 1))
    assert 0.99 * 10**7 < scaled.image.shape[0] * scaled.image.shape[1] <= 10**7


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.integers(1, 10**9))
def test_pdf_scale_is_the_largest_that_fits(width: float, height: float, max_pixels: int) -> None:
    def pixels(scale: float) -> int:
        return math.ceil(width * scale) * math.ceil(height * scale)

    if pixels(0.1) > max_pixels:
        with pytest.raises(PictureError, match="too_large"):
            pdf_scale(width, height, max_pixels)
        return
    scale = pdf_scale(width, height, max_pixels)
    assert 0.1 <= scale <= 2.0 and pixels(scale) <= max_pixels
    if scale < 2.0:
        bound = min(2.0, math.sqrt(max_pixels / (width * height)))
        assert scale >= bound - 1e-6 or pixels(scale + 1e-6) > max_pixels


def test_a_cut_pdf_is_truncated() -> None:
    data = encode("PDF", make_large())
    for share in (0.1, 0.5, 0.9):
        assert error_of(data[: int(len(data) * share)]).error_class is ErrorClass.TRUNCATED
    assert len(pages_of(b"junk before\n" + data)) == 1


def test_an_encrypted_pdf_is_unsupported() -> None:
    """The standard security handler, revision 3, with a user password that is not empty (keys are arbitrary)."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>",
        b"<</Filter/Standard/V 2/R 3/Length 128/P -44/O<" + b"11" * 32 + b">/U<" + b"22" * 32 + b">>>",
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<</Size 5/Root 1 0 R/Encrypt 4 0 R/ID[<00><00>]>>\nstartxref\n%d\n%%%%EOF" % len(body)
    error = error_of(body + table + trailer)
    assert error.error_class is ErrorClass.UNSUPPORTED
    assert "password" in error.message


def test_documents_are_released_when_their_pages_are_not_all_taken() -> None:
    for _ in range(50):
        assert isinstance(next(decode_pages(make_pdf((10, 10), (10, 10)), LIMITS)), Page)


# --- headers


@pytest.mark.parametrize("size", [(1, 1), (255, 257), (4095, 3), (3, 4097)])
def test_headers_say_the_size(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    for format in ("JPEG", "PNG", "WEBP", "BMP", "PPM"):
        header = read_header(encode(format, picture))
        assert (header.width, header.height, header.truncated) == (*size, None), format
    header = read_header(encode("WEBP", picture, lossless=True))
    assert (header.width, header.height) == size
    header = read_header(encode("WEBP", picture.convert("RGBA"), exif=Image.Exif().tobytes() or b"Exif\0\0"))
    assert (header.width, header.height) == size


def test_a_jpeg_with_restart_markers_and_fill_bytes_is_whole() -> None:
    data = encode("JPEG", make_large(), restart_marker_blocks=2)
    assert b"\xff\xd3" in data
    scan = data.index(b"\xff\xda")
    filled = data[:scan] + b"\xff\xff\xff" + data[scan:]
    np.testing.assert_array_equal(image_of(filled), image_of(data))


def test_formats_are_told_by_content() -> None:
    kinds = {read_header(data).format for data in LOSSLESS.values()}
    assert kinds == {"bmp", "png", "webp", "pnm", "ras"}


# --- TIFF and JPEG under attack


def test_a_tiff_of_several_bands_is_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [page.image for page in pages_of(multipage_tiff())]
    monkeypatch.setattr("sodbatch.decode.documents.BAND_PIXELS", 5 * WIDTH)
    for page, image in zip(pages_of(multipage_tiff()), expected, strict=True):
        np.testing.assert_array_equal(page.image, image)


def test_threads_read_tiffs_at_once_and_leave_pillows_own_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    meeting = threading.Barrier(2, timeout=10)
    load = TiffImagePlugin.TiffImageFile.load

    def load_together(tiff: TiffImagePlugin.TiffImageFile) -> Any:
        if threading.current_thread() is not threading.main_thread():
            meeting.wait()  # both are inside, or this times out
        return load(tiff)

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", load_together)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(pages_of, [encode("TIFF")] * 2)
    assert len(first) == len(second) == 1
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    data = encode("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scans = data.count(b"\xff\xda")
    assert isinstance(decode(data[:-2] + data[last:-2] * (500 - scans) + b"\xff\xd9")[0], Page)
    error = error_of(data[:-2] + data[last:-2] * (501 - scans) + b"\xff\xd9")
    assert (error.error_class, error.message) == (ErrorClass.TOO_LARGE, "a JPEG of more than 500 scans")
