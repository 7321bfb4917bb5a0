"""Hostile inputs, made from a seed: each with the rows that it must become.

``python tests/hostile.py FOLDER`` makes them all, runs the main job over them with the reduced model, and prints
a table of every input with its row, and the peak memory of the run.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pypdfium2
from PIL import Image

OK = ""
"""In place of an error class."""


@dataclass(frozen=True)
class Case:
    """A file, or a name in a manifest.

    Attributes:
        rows: The error class of each row that it becomes, ``OK`` for none.
        data: The file's content; None where there is no regular file.
        says: What the error messages contain.
    """

    rows: tuple[str, ...]
    data: bytes | None = None
    says: str = ""


def ok(data: bytes, pages: int = 1) -> Case:
    return Case((OK,) * pages, data)


def bad(error_class: str, data: bytes | None, says: str) -> Case:
    return Case((error_class,), data, says)


def pixels(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


PICTURE = Image.fromarray(pixels())


def encode(kind: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# --- single parts of formats


def png(width: int, height: int, compressed: bytes, *chunks: tuple[bytes, bytes], colour: int = 0) -> bytes:
    """Put a PNG of 8 bits together; colour 0 is grey, 2 is RGB."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", compressed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def grey_jpeg(width: int, height: int, share: float = 1.0) -> bytes:
    """Make a JPEG of one grey: each block is ``00`` (no change) and ``1010`` (nothing else), 4 blocks in 3 bytes."""
    small = encode("JPEG", Image.new("L", (8, 8), 128))
    frame, scan = small.index(b"\xff\xc0"), small.index(b"\xff\xda") + 10
    header = small[: frame + 5] + struct.pack(">HH", height, width) + small[frame + 9 : scan]
    blocks = -(-width // 8) * -(-height // 8)
    return header + b"\x28\xa2\x8a" * int(blocks * share // 4 + 1) + b"\xff\xd9"


def tiff(width: int, height: int, body: bytes = bytes(8), compression: int = 1, samples: int = 1) -> bytes:
    """Put a TIFF of one strip and 8 bits together: a header, ten entries, the strip."""
    start = 8 + 2 + 10 * 12 + 4
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 2 if samples == 3 else 1, 273: start}
    values |= {277: samples, 278: height, 279: len(body), 284: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + body


def deflated(size: int) -> bytes:
    """Deflate ``size`` zeros, a mebibyte at a time."""
    stream = zlib.compressobj(1)
    block = bytes(2**20)
    whole = b"".join(stream.compress(block) for _ in range(size // len(block)))
    return whole + stream.compress(bytes(size % len(block))) + stream.flush()


def webp_canvas(width: int, height: int) -> bytes:
    """Make a WebP's extended header, which counts sides in 24 bits, and nothing after it."""
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size + bytes(8)


def one_colour_webp(width: int, height: int) -> bytes:
    """Make a lossless WebP of one colour: five codes of one symbol (4 bits each), then no bit for any pixel."""
    bits = (width - 1) | (height - 1) << 14 | 0x11111 << 35
    body = b"\x2f" + bits.to_bytes(13, "little")  # OpenCV wants a header of 32 bytes
    return b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def bmp(width: int, height: int, body: bytes = b"", compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(body), 0, 0, 256, 0)
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + palette + body


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encode("JPEG", exif=exif)


def with_cut_exif() -> bytes:
    segment = b"Exif\0\0MM\0*\0\0\0\x08\0\x30\x01\x12\0\x03"
    data = encode("JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def ycck() -> bytes:
    """Say of a CMYK JPEG, by the last byte of its Adobe segment, that its first three planes are YCbCr."""
    data = bytearray(encode("JPEG", PICTURE.convert("CMYK")))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def many_scans(count: int) -> bytes:
    data = encode("JPEG", PICTURE.resize((640, 640)), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    table += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, len(body))
    return body + table + end


def one_page(page: bytes, *objects: bytes, trailer: bytes = b"") -> bytes:
    pages = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
    return pdf(
        [b"<</Type/Catalog/Pages 2 0 R>>", pages, b"<</Type/Page/Parent 2 0 R" + page + b">>", *objects], trailer
    )


def stream(data: bytes, keys: bytes = b"") -> bytes:
    return b"<</Length %d/Filter/FlateDecode%s>>\nstream\n%s\nendstream" % (len(data), keys, data)


def pdf_with_picture(side: int) -> bytes:
    """Make a page of 100 points that shows a grey picture of ``side`` x ``side`` pixels."""
    keys = b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8" % (side, side)
    page = b"/MediaBox[0 0 100 100]/Contents 4 0 R/Resources<</XObject<</P 5 0 R>>>>"
    return one_page(page, stream(zlib.compress(b"100 0 0 100 0 0 cm /P Do")), stream(deflated(side * side), keys))


def blank_pdf(pages: int, width: float = 10, height: float = 10) -> bytes:
    document = pypdfium2.PdfDocument.new()
    for _ in range(pages):
        document.new_page(width, height)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


# --- the cases, by name of file


def damaged() -> dict[str, Case]:
    cases = {
        "zero.jpg": bad("empty", b"", "0 bytes"),
        "text.jpg": bad("not_an_image", b"This is no picture.\n" * 50, "text"),
        "page.jpg": bad("not_an_image", b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        "error.png": bad("not_an_image", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        "zeros.jpg": bad("not_an_image", bytes(5000), "no known type"),
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped.jpg", encode("JPEG"))
    cases["zip.jpg"] = bad("not_an_image", archive.getvalue(), "zip archive")
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        whole = encode(kind)
        cases[f"whole.{kind.lower()}"] = ok(whole)
        for tenth in range(1, 10):
            cut = whole[: len(whole) * tenth // 10]
            cases[f"cut_{tenth}.{kind.lower()}"] = bad("truncated", cut, "")
    whole = encode("GIF")
    for tenth in range(1, 11):
        cases[f"cut_{tenth}_gif.png"] = bad("unsupported", whole[: len(whole) * tenth // 10], "GIF")
    return cases


def large(max_pixels: int) -> dict[str, Case]:
    """Return what says that it is large, and squares that just fit into the limit.

    WebP's own codecs end at 16,383 pixels a side, its container at 2**24.
    """
    side = math.isqrt(max_pixels)
    cases = {
        "header_40000.png": png(40_000, 40_000, zlib.compress(b"")),
        "header_40000.jpg": grey_jpeg(40_000, 40_000, 0),
        "header_40000.tif": tiff(40_000, 40_000),
        "header_40000.webp": webp_canvas(40_000, 40_000),
        "header_40000.bmp": bmp(40_000, 40_000),
        "header_40000.ppm": b"P6 40000 40000 255\n",
        "valid_20000.png": png(20_000, 20_000, deflated(20_001 * 20_000)),
        "valid_20000.jpg": grey_jpeg(20_000, 20_000),
        "valid_20000.tif": tiff(20_000, 20_000, deflated(20_000 * 20_000), 8),
        "valid_16383.webp": one_colour_webp(16_383, 16_383),
        "rle_20000.bmp": bmp(20_000, 20_000, b"\0\1", 1),
    }
    refused = {
        name: bad("too_large", data, f"pixels, more than the limit of {max_pixels} pixels")
        for name, data in cases.items()
    }
    return refused | {
        "largest_that_fits.jpg": ok(grey_jpeg(side, side)),
        "largest_that_fits.png": ok(png(side, side, deflated((side * 3 + 1) * side), colour=2)),
        "largest_that_fits.tif": ok(tiff(side, side, deflated(side * side * 3), 8, samples=3)),
        "largest_that_fits.webp": ok(one_colour_webp(side, side)),
    }


def bombs() -> dict[str, Case]:
    """Small files that would unpack to a gigabyte."""
    gigabyte = deflated(2**30)
    page = b"/MediaBox[0 0 100 100]/Contents 4 0 R"
    return {
        "bomb_rows.png": ok(png(100, 100, gigabyte)),
        "bomb_text.png": ok(png(100, 100, zlib.compress(bytes(10_100)), (b"zTXt", b"comment\0\0" + gigabyte))),
        "bomb_profile.png": ok(png(100, 100, zlib.compress(bytes(10_100)), (b"iCCP", b"profile\0\0" + gigabyte))),
        "bomb_strip.tif": ok(tiff(100, 100, gigabyte, 8)),
        "bomb_samples.tif": bad("decoder_failure", tiff(100, 100, samples=60_000), ""),
        "bomb_scans.jpg": bad("too_large", many_scans(2_000), "scans"),
        "bomb_picture.pdf": ok(pdf_with_picture(30_000)),
        "bomb_content.pdf": ok(one_page(page, stream(deflated(2**27)))),
        "bomb_page.pdf": bad("too_large", one_page(b"/MediaBox[0 0 9000000 9000000]"), "9e+06 x 9e+06 points"),
        "largest_page.pdf": ok(one_page(b"/MediaBox[0 0 14400 14400]")),
    }


def odd() -> dict[str, Case]:
    """Kinds of pixels, orientations, animations, shapes; all of them to be read but where no single picture is."""
    deep = pixels().astype(np.uint16) * 257
    alpha = PICTURE.convert("RGBA")
    alpha.putalpha(7)
    cases = {
        "cmyk.jpg": encode("JPEG", PICTURE.convert("CMYK")),
        "ycck.jpg": ycck(),
        "deep.png": encode("PNG", Image.fromarray(deep[..., 0])),
        "deep.tif": encode("TIFF", Image.fromarray(deep[..., 0])),
        "float.tif": encode("TIFF", Image.fromarray(deep[..., 0].astype(np.float32))),
        "cmyk.tif": encode("TIFF", PICTURE.convert("CMYK")),
        "one_bit.tif": encode("TIFF", PICTURE.convert("1"), compression="group4"),
        "grey.jpg": encode("JPEG", PICTURE.convert("L")),
        "palette.png": encode("PNG", PICTURE.convert("P")),
        "palette.bmp": encode("BMP", PICTURE.convert("P")),
        "alpha.png": encode("PNG", alpha),
        "alpha.webp": encode("WEBP", alpha),
        "alpha.tif": encode("TIFF", alpha),
        "progressive.jpg": encode("JPEG", progressive=True),
        "cut_exif.jpg": with_cut_exif(),
        "tiny.png": encode("PNG", PICTURE.crop((0, 0, 1, 1))),
        "tiny.jpg": encode("JPEG", PICTURE.crop((0, 0, 1, 1))),
        "wide.jpg": encode("JPEG", PICTURE.resize((8_000, 10))),
        "tall.jpg": encode("JPEG", PICTURE.resize((10, 8_000))),
        "scan_cut_but_ended.jpg": encode("JPEG")[:-1000] + b"\xff\xd9",
    } | {f"orientation_{value}.jpg": with_orientation(value) for value in (*range(10), 65_535)}
    others = [PICTURE.rotate(90, expand=True), PICTURE.convert("L")]
    return {name: ok(data) for name, data in cases.items()} | {
        "animated.gif.jpg": bad("unsupported", encode("GIF", save_all=True, append_images=others), "GIF"),
        "animated.webp": bad("unsupported", encode("WEBP", save_all=True, append_images=others[1:]), "animated WebP"),
    }


def documents() -> dict[str, Case]:
    whole = encode("PDF")
    broken = b"%PDF-1.7\n" + b"nonsense " * 99 + b"startxref\n0\n%%EOF"
    loop = bytearray(encode("TIFF"))
    first = struct.unpack_from("<I", loop, 4)[0]
    entries = struct.unpack_from("<H", loop, first)[0]
    struct.pack_into("<I", loop, first + 2 + 12 * entries, first)
    lock = b"<</Filter/Standard/V 2/R 3/Length 128/P -44/O<" + b"11" * 32 + b">/U<" + b"22" * 32 + b">>>"
    pages = [PICTURE.rotate(90, expand=True), PICTURE.convert("CMYK")]
    return {
        "pages.tif": ok(encode("TIFF", save_all=True, append_images=pages), 3),
        "circle.tif": ok(bytes(loop)),
        "no_directory.tif": bad("truncated", b"II*\0\xff\xff\0\0", ""),
        "whole.pdf": ok(whole),
        "cut.pdf": bad("truncated", whole[: len(whole) // 2], "end marker"),
        "broken.pdf": bad("decoder_failure", broken, "cannot be read"),
        "encrypted.pdf": bad(
            "unsupported", one_page(b"/MediaBox[0 0 9 9]", lock, trailer=b"/Encrypt 4 0 R/ID[<00><00>]"), "password"
        ),
        "thousand.pdf": ok(blank_pdf(1_000), 1_000),
        "itself.pdf": ok(pdf([b"<</Type/Catalog/Pages 1 0 R>>"])),
    }


NAMES = (
    "ümläut_漢字_😀.jpg",
    " .jpg",
    " spaces before and after .jpg",
    "x" * 251 + ".jpg",
    "é" * 125 + ".jpg",
    "new\nline.jpg",
    "control\x01\x1b[31m\x7f.jpg",
    "tab\there.jpg",
    "..jpg",
    "...jpg",
    ".hidden.jpg",
    "-rf.jpg",
    "%2e%2e%2fup.jpg",
    "..\\up.jpg",
    "'quoted\".jpg",
    "glob*?[a].jpg",
    "query?token=1#part.jpg",
    "semi;colon&$(touch x).jpg",
    "\u202egpj.exe.jpg",
    "a=b.jpg",
)
"""Names of whole pictures."""


def files(max_pixels: int) -> dict[str, Case]:
    """Return every file that lies in the folder of pictures, by name."""
    named = {name: ok(encode("JPEG", Image.fromarray(pixels(seed=i)))) for i, name in enumerate(NAMES)}
    return damaged() | large(max_pixels) | bombs() | odd() | documents() | named


def special(folder: Path) -> dict[str, Case]:
    """Put into a folder what is no file: links, a folder, a FIFO, a socket, devices; return what each becomes."""
    links = {
        "dangling.jpg": "nowhere.jpg",
        "circle_1.jpg": "circle_2.jpg",
        "circle_2.jpg": "circle_1.jpg",
        "itself.jpg": "itself.jpg",
        "null.jpg": "/dev/null",
        "endless.jpg": "/dev/zero",
        "to_a_folder.jpg": ".",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo.jpg")
    (folder / "folder.jpg").mkdir()
    working = os.getcwd()
    os.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    os.chdir(working)
    missing = {
        name: bad("missing", None, "") for name in ("dangling.jpg", "circle_1.jpg", "circle_2.jpg", "itself.jpg")
    }
    kinds = dict.fromkeys(("null.jpg", "endless.jpg", "fifo.jpg", "socket.jpg"), "not a regular file")
    return missing | {name: bad("unsupported", None, says) for name, says in kinds.items()}


NAMED = {
    "folder.jpg": bad("unsupported", None, "is a folder"),
    "to_a_folder.jpg": bad("unsupported", None, "is a folder"),
    "": bad("missing", None, "names no path"),
    "   ": bad("missing", None, "names no path"),
    "../outside.jpg": ok(b""),
    "sub/../../outside_too.jpg": ok(b""),
    "../../../../../../../../etc/passwd": bad("not_an_image", None, "text"),
    "nowhere.jpg": bad("missing", None, "No such file"),
    "x" * 300 + ".jpg": bad("missing", None, "name too long"),
    "y/" * 3000 + "z.jpg": bad("missing", None, "name too long"),
    "nul\0byte.jpg": bad("missing", None, "null"),
    "C:\\pictures\\a.jpg": bad("missing", None, "No such file"),
    "data:image/png;base64,AAAA": bad("missing", None, "No such file"),
    "nosuch://bucket/a.jpg": bad("unsupported", None, "nosuch"),
    "http://127.0.0.1:9/a.jpg": bad("unavailable", None, ""),
    "http:///a.jpg": bad("unavailable", None, ""),
    "http://[broken/a.jpg": bad("unavailable", None, ""),
    "/proc/self/mem": bad("unavailable", None, ""),
}
"""Names in a manifest beside the folder."""

GROUPS = (
    "..",
    ".",
    "../../up",
    "a/b",
    "a=b",
    "",
    None,
    "new\nline",
    "%2F",
    "é漢",
    "__HIVE_DEFAULT_PARTITION__",
    "x" * 240,
)
"""Values of the manifest's column by which the tables are partitioned."""


def make(root: Path, max_pixels: int) -> dict[str, Case]:
    """Write all of it: ``in/pictures`` with files, links and worse, ``in/pictures/names.jsonl`` and what that leads to.

    Returns:
        What each input becomes, by :func:`key`.
    """
    pictures = root / "in" / "pictures"
    pictures.mkdir(parents=True)
    cases = files(max_pixels)
    for name, case in cases.items():
        (pictures / name).write_bytes(case.data or b"")
    cases |= special(pictures)
    for name in ("outside.jpg", "outside_too.jpg"):
        (root / "in" / name).write_bytes(encode("JPEG"))
    lines = [
        {"image": name, "group": GROUPS[index % len(GROUPS)], "note": "../../note", "status": "no", "number": index}
        for index, name in enumerate(NAMED)
    ]
    (pictures / "names.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return cases | NAMED


def key(row: dict[str, Any], root: Path) -> str:
    """Return what :func:`make` calls the input of a row: the name in the manifest, or the file's in the folder."""
    if row["number"] is not None:
        return list(NAMED)[row["number"]]
    return os.path.relpath(row["uri"], root / "in" / "pictures")


_RUN = """
import resource, sys
from sodbatch.cli import main
code = main(sys.argv[1:])
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("PEAK", max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def run(root: Path, output: Path, model_dir: Path, max_pixels: int, *inputs: Path) -> tuple[int, int, str]:
    """Run the main job inline, with all companions of the tables, in a process of its own.

    Returns:
        The exit code, the peak memory in bytes of the largest of its processes, and what it printed on standard error.
    """
    settings = {
        "Output.partition_by": "group",
        "Output.paddlex_json": "true",
        "Output.coco_json": "true",
        "Visualize.pictures": "all",
        "Predict.threshold": "0.3",
        "Limits.max_pixels": str(max_pixels),
        "Fetch.retries": "0",
        "Global.device": "cpu",
    }
    arguments = ["predict", "--engine", "inline", "--model-dir", str(model_dir), "--output", str(output)]
    arguments += [word for path in inputs for word in ("--input", str(path))]
    arguments += [word for item in settings.items() for word in ("-o", "=".join(item))]
    (root / "tmp").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        cwd=root,
        env=os.environ | {"TMPDIR": str(root / "tmp")},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
    )
    found = re.search(r"^PEAK (\d+)$", done.stdout, re.MULTILINE)
    return done.returncode, int(found[1]) * 1024 if found else 0, done.stderr


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Read the table of pictures with all its partitions."""
    return [
        row for part in sorted(output.glob("images/**/*.parquet")) for row in pq.ParquetFile(part).read().to_pylist()
    ]


def main(root: Path) -> None:
    """Make the inputs, run the job, and print what each has become."""
    from sodbatch.config import LimitsSection
    from sodbatch.model.export import export

    root, max_pixels = root.resolve(), LimitsSection().max_pixels
    make(root, max_pixels)
    model_dir = export("PP-YOLOE_plus_SOD-tiny", root / "model")
    pictures = root / "in" / "pictures"
    code, peak, _ = run(root, root / "out", model_dir, max_pixels, pictures, pictures / "names.jsonl")
    print("| input | rows | result | reason |\n| --- | --- | --- | --- |")
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(root / "out"):
        rows.setdefault(key(row, root), []).append(row)
    for name, found in sorted(rows.items()):
        results = ", ".join(sorted({row["error_class"] or "ok" for row in found}))
        reason = (found[0]["error_message"] or "").replace(str(root), "FOLDER")
        print(f"| {name[:60]!r} | {len(found)} | {results} | {reason[:100]} |")
    print(f"\n{len(rows)} inputs, exit code {code}, peak memory of the largest process {peak / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
