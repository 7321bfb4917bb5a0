"""Draws detections so that a 10-pixel object stays visible.

Lines run outside the box and are one pixel wide round small objects; a label stands where it
hides neither a small object nor another label, and is left out where there is no such place.
The first label of each class is placed before any second one, so that colours can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sodbatch.fonts import readable
from sodbatch.threshold import Detections

PALETTE = (
    (255, 64, 64), (255, 196, 0), (0, 224, 255), (64, 255, 64), (255, 96, 255), (255, 128, 0),
    (112, 144, 255), (190, 255, 0), (255, 255, 255), (214, 120, 255), (255, 160, 160), (0, 255, 170),
)  # fmt: skip
"""RGB colours of classes 0, 1, ..., then from the start again; bright, as ground is mostly dark."""

SMALL_SIDE = 24
"""A box with a side under this many pixels is drawn with the thinnest line."""

Rectangle = tuple[int, int, int, int]


def draw(
    image: NDArray[np.uint8],
    detections: Detections,
    labels: Sequence[str] | Mapping[int, str],
    *,
    scores: bool = True,
) -> NDArray[np.uint8]:
    """Draw boxes and labels on a copy of a picture.

    Args:
        image: uint8 [H, W, 3], BGR.
        detections: Boxes in pixels of this picture.
        labels: Class id to name.
        scores: Whether labels show them; a person's boxes have none.

    Returns:
        uint8 [H, W, 3], BGR.
    """
    height, width = image.shape[:2]
    canvas = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(max(height, width) / 1000))
    frames = [_frame(box, line) for box in detections.boxes.tolist()]
    for frame, box, cls_id in reversed(list(zip(frames, detections.boxes.tolist(), detections.cls_id.tolist()))):
        pen.rectangle(frame, outline=_color(cls_id), width=_line_width(box, line))

    font_size = min(28, max(10, round(max(height, width) / 95)))
    texts, path = readable({cls_id: labels[cls_id] for cls_id in set(detections.cls_id.tolist())})
    font = _font(font_size, path)
    taken = _occupied(frames, height, width, small=font_size * 4)
    for i in _label_order(detections):
        text = texts[int(detections.cls_id[i])] + (f" {detections.score[i]:.2f}" if scores else "")
        left, top, right, bottom = (int(v) for v in font.getbbox(text))
        place = _free_place(frames[i], right - left + 4, bottom - top + 4, taken)
        if place is None:
            continue
        x0, y0, x1, y1 = place
        taken[y0:y1, x0:x1] = True
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=_color(int(detections.cls_id[i])))
        pen.text((x0 + 2 - left, y0 + 2 - top), text, fill=(0, 0, 0), font=font)
    return np.ascontiguousarray(np.asarray(canvas)[..., ::-1])


@lru_cache(maxsize=8)
def _font(size: int, path: str | None) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


def _color(cls_id: int) -> tuple[int, int, int]:
    return PALETTE[cls_id % len(PALETTE)]


def _line_width(box: Sequence[float], line: int) -> int:
    return 1 if min(box[2] - box[0], box[3] - box[1]) < SMALL_SIDE else line


def _frame(box: Sequence[float], line: int) -> Rectangle:
    """Return the outer rectangle of a line that runs just outside the box."""
    reach = _line_width(box, line)
    return (
        int(np.floor(box[0])) - reach,
        int(np.floor(box[1])) - reach,
        int(np.ceil(box[2])) - 1 + reach,
        int(np.ceil(box[3])) - 1 + reach,
    )


def _label_order(detections: Detections) -> list[int]:
    """Order by descending score, the best box of every class before all others."""
    by_score = np.argsort(-detections.score, kind="stable")
    _, first = np.unique(detections.cls_id[by_score], return_index=True)
    first.sort()
    return [*by_score[first].tolist(), *np.delete(by_score, first).tolist()]


def _occupied(frames: Sequence[Rectangle], height: int, width: int, small: int) -> NDArray[np.bool_]:
    """Mark in bool [H, W] the pixels that no label may cover: small objects whole, of large ones the outline."""
    taken = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in frames:
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width - 1), min(y1, height - 1)
        if min(x1 - x0, y1 - y0) < small:
            taken[y0 : y1 + 1, x0 : x1 + 1] = True
        else:
            taken[[y0, y1], x0 : x1 + 1] = True
            taken[y0 : y1 + 1, [x0, x1]] = True
    return taken


def _free_place(frame: Rectangle, width: int, height: int, taken: NDArray[np.bool_]) -> Rectangle | None:
    """Return the first free place for a label of this size: above, below, right, left, inside the box's corner.

    Each is moved into the picture first.
    """
    x0, y0, x1, y1 = frame
    corners = (
        (x0, y0 - height),
        (x1 + 1 - width, y0 - height),
        (x0, y1 + 1),
        (x1 + 1 - width, y1 + 1),
        (x1 + 1, y0),
        (x0 - width, y0),
        (x0 + 3, y0 + 3),
    )
    for left, top in corners:
        left, top = max(0, min(left, taken.shape[1] - width)), max(0, min(top, taken.shape[0] - height))
        right, bottom = left + width, top + height
        if right <= taken.shape[1] and bottom <= taken.shape[0] and not taken[top:bottom, left:right].any():
            return left, top, right, bottom
    return None
