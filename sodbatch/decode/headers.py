"""What a picture file is, from its first bytes: format, size, and whether its end is missing. Spends no memory.

The formats are those of PaddleX's image reader; a file is known by its content, never by its name.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from sodbatch.errors import ErrorClass, PictureError


@dataclass(frozen=True)
class Header:
    """What the first bytes say.

    Attributes:
        format: "jpeg", "png", "webp", "bmp", "pnm", "ras", "tiff" or "pdf".
        width: In pixels, as stored (before any EXIF rotation); 0 for documents, whose pages have sizes.
        height: As ``width``.
        truncated: What is missing at the end; None when nothing is, as far as the structure tells.
    """

    format: str
    width: int = 0
    height: int = 0
    truncated: str | None = None


def read_header(data: bytes) -> Header:
    """Read the header of a picture or document.

    Raises:
        PictureError: ``empty``, ``not_an_image``, ``unsupported``; ``truncated`` where the header itself is cut;
            ``too_large`` for a JPEG of a great many scans.
    """
    if not data:
        raise PictureError(ErrorClass.EMPTY, "0 bytes")
    for name, recognise, parse in _FORMATS:
        if recognise(data):
            try:
                width, height, truncated = parse(data)
            except (struct.error, IndexError):
                raise PictureError(
                    ErrorClass.TRUNCATED, f"the {name} header is cut off after {len(data)} bytes"
                ) from None
            return Header(name, width, height, truncated)
    if data[:4] in _TIFF_MAGIC:
        return Header("tiff")
    if b"%PDF-" in data[:1024]:
        return Header("pdf")
    for start, name in _UNSUPPORTED:
        if start.match(data):
            raise PictureError(ErrorClass.UNSUPPORTED, f"{name} is not among the formats that can be read")
    raise PictureError(ErrorClass.NOT_AN_IMAGE, f"the content is {_describe(data)}, not a picture")


_Parsed = tuple[int, int, "str | None"]

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# In scan data a marker is FF and a byte other than 00 (a stuffed FF), FF (fill) and D0..D7 (restart).
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
MAX_JPEG_SCANS = 500
"""libjpeg-turbo's advice: real progressive pictures have some ten, and each costs a pass over the whole picture."""

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes) -> _Parsed:
    """Walk the segments to the EOI of the main picture; thumbnails lie inside segments and are jumped over.

    A scan that is damaged but followed by an EOI cannot be told from a whole one without decoding it; libjpeg, and so
    PaddleX, fills what is missing with grey.
    """
    width = height = scans = 0
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == 0xD9:
            return width, height, None
        if marker in (0x01, 0xD8):
            continue
        if position + 2 > len(data):
            break
        if marker == 0xDA and (scans := scans + 1) > MAX_JPEG_SCANS:
            raise PictureError(ErrorClass.TOO_LARGE, f"a JPEG of more than {MAX_JPEG_SCANS} scans")
        if marker in _JPEG_FRAMES and not width:
            height, width = struct.unpack_from(">HH", data, position + 3)
        position += int.from_bytes(data[position : position + 2], "big")
    return width, height, "the end marker of the JPEG is missing"


def _png(data: bytes) -> _Parsed:
    width, height = struct.unpack_from(">II", data, 16)
    position = 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if name == b"IEND" and position <= len(data):
            return width, height, None
    return width, height, "the IEND chunk of the PNG is missing"


def _webp(data: bytes) -> _Parsed:
    size = 8 + struct.unpack_from("<I", data, 4)[0]
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 2:
            raise PictureError(ErrorClass.UNSUPPORTED, "an animated WebP, not a picture")
        width, height = (1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return width, height, _shortfall(data, size)


def _bmp(data: bytes) -> _Parsed:
    offset, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        compression = image_size = 0
    else:
        width, height, _, depth, compression, image_size = struct.unpack_from("<iiHHII", data, 18)
    width, height = abs(width), abs(height)
    uncompressed = compression in (0, 3, 6)
    pixels = (width * depth + 31) // 32 * 4 * height if uncompressed else image_size
    return width, height, _shortfall(data, offset + pixels)


_PNM_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(
    rb"P([14])" + (_PNM_GAP + rb"(\d{1,10})") * 2 + rb"\s|P([2356])" + (_PNM_GAP + rb"(\d{1,10})") * 3 + rb"\s"
)


def _pnm(data: bytes) -> _Parsed:
    match = _PNM.match(data)
    if match is None:
        raise PictureError(ErrorClass.TRUNCATED, f"the PNM header is cut off or malformed ({len(data)} bytes)")
    kind = (match[1] or match[4]).decode()
    width, height = int(match[2] or match[5]), int(match[3] or match[6])
    samples = width * height * (3 if kind in "36" else 1)
    if kind == "4":
        size = (width + 7) // 8 * height
    elif kind in "56":
        size = samples * (2 if int(match[7]) > 255 else 1)
    else:  # text: a digit and a separator each, separators optional in P1
        size = samples if kind == "1" else 2 * samples - 1
    return width, height, _shortfall(data, match.end() + size)


def _ras(data: bytes) -> _Parsed:
    width, height, depth, length, kind, _, map_length = struct.unpack_from(">7I", data, 4)
    pixels = length if kind == 2 else (width * depth + 15) // 16 * 2 * height  # 2: run-length encoded
    return width, height, _shortfall(data, 32 + map_length + pixels)


def _shortfall(data: bytes, expected: int) -> str | None:
    return f"{len(data)} bytes of {expected}" if len(data) < expected else None


def _is_bmp(data: bytes) -> bool:
    return data[:2] == b"BM" and data[14:18] in (
        b"",
        *(struct.pack("<I", n) for n in (12, 40, 52, 56, 64, 108, 124)),
    )


_FORMATS: tuple[tuple[str, Callable[[bytes], object], Callable[[bytes], _Parsed]], ...] = (
    ("jpeg", lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    ("png", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    ("webp", lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
    ("bmp", _is_bmp, _bmp),
    ("pnm", re.compile(rb"P[1-6](?:\s|#)").match, _pnm),
    ("ras", lambda data: data.startswith(b"\x59\xa6\x6a\x95"), _ras),
)

_UNSUPPORTED = tuple(
    (re.compile(magic, re.DOTALL), name)
    for magic, name in (
        (rb"GIF8[79]a", "GIF"),
        (rb".{4}ftyp(?:avif|avis)", "AVIF"),
        (rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", "HEIF"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
        (rb"8BPS", "Photoshop"),
        (rb"\0\0[\x01\x02]\0[\x01-\xff]\0", "ICO"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
        (rb"#\?(?:RADIANCE|RGBE)", "Radiance HDR"),
        (rb"P7\s", "PAM"),
        (rb"P[Ff]\s", "PFM"),
        (rb"qoif", "QOI"),
        (rb"DDS ", "DDS"),
        (rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<svg", "SVG"),
    )
)


def _describe(data: bytes) -> str:
    start = data[:512]
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "a zip archive"
    if start.startswith(b"\x1f\x8b"):
        return "gzip data"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)", start, re.IGNORECASE):
        return "an HTML page"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<[?!a-z]", start, re.IGNORECASE):
        return "XML"
    if not re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", start):
        return "text"
    return "of no known type"
