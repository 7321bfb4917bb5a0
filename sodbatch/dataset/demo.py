"""Pictures of a data set with their boxes drawn: the first of each part, and those with most faults on one sheet."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sodbatch.config import LimitsSection
from sodbatch.dataset.coco import Part
from sodbatch.dataset.pictures import picture_url
from sodbatch.dataset.records import rows_of, unsafe
from sodbatch.dataset.rules import RULES
from sodbatch.decode import FailedPage, decode_pages
from sodbatch.errors import PictureError
from sodbatch.fetch import Fetcher
from sodbatch.threshold import Detections
from sodbatch.visualize import draw

SHEET_COLUMNS, SHEET_ROWS = 4, 3
CELL = (480, 320)
CAPTION = 44
MARGIN = 60
"""Pixels of a picture that are shown around its faulty boxes."""

_RULE_NUMBERS = {rule: number for number, rule in enumerate(RULES)}


@dataclass(frozen=True)
class Pictures:
    """Reads pictures of a data set.

    Attributes:
        folder: The data set.
        fetcher, limits: As in the main job.
        failed: Why, of those that the check could not read, by file name: one that kills its process would kill
            this one too.
    """

    folder: str
    fetcher: Fetcher
    limits: LimitsSection
    failed: Mapping[str, str]

    def read(self, name: str) -> NDArray[np.uint8] | str:
        """Return a picture, uint8 BGR [H, W, 3]; or why there is none."""
        if reason := unsafe(name) or self.failed.get(name):
            return reason
        try:
            page = next(decode_pages(self.fetcher.fetch(picture_url(self.folder, name)), self.limits))
        except PictureError as error:
            return str(error)
        return str(page.error) if isinstance(page, FailedPage) else page.image


def draw_first(part: Part, count: int, pictures: Pictures) -> list[tuple[str, bytes]]:
    """Draw the first pictures of a part with their boxes.

    Returns:
        File names and encoded pictures; those that cannot be read are left out.
    """
    drawn = []
    for row, name in enumerate(part.images.names[:count]):
        image = pictures.read(name)
        if not isinstance(image, str):
            mine = part.boxes.image_ids == part.images.ids[row]
            named = dict(part.categories)
            ids, places = np.unique(part.boxes.category_ids[mine], return_inverse=True)
            boxes = _detections(part.boxes.xywh[mine], places, image)
            labels = [named.get(identity, f"category {identity}") for identity in ids.tolist()]
            drawn.append(_encode(name, draw(image, boxes, labels, scores=False)))
    return drawn


def draw_faults(parts: Sequence[Part], faults: pa.Table, pictures: Pictures) -> bytes | None:
    """Draw one sheet of the pictures with most kinds of faults; of their boxes only the faulty ones, named by rule.

    Returns:
        A JPEG; None when no fault belongs to a picture.
    """
    found = _faults_by_picture(parts, faults)
    kinds = {key: len(set(itertools.chain(*rules.values()))) for key, rules in found.items()}
    most = sorted(found, key=lambda key: (-kinds[key], key))[: SHEET_COLUMNS * SHEET_ROWS]
    if not most:
        return None
    rows = -(-len(most) // SHEET_COLUMNS)
    width, height = CELL
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, rows * (height + CAPTION)), (24, 24, 24))
    for place, (part_index, row) in enumerate(most):
        corner = (place % SHEET_COLUMNS * width, place // SHEET_COLUMNS * (height + CAPTION))
        _fill_cell(sheet, corner, parts[part_index], row, found[part_index, row], pictures)
    return _encode("sheet.jpg", np.asarray(sheet)[..., ::-1])[1]


Found = dict[tuple[int, int], dict[int | None, list[str]]]
"""For each part and row of an image the broken rules, errors first: by row of the box, None for the image itself."""


def _faults_by_picture(parts: Sequence[Part], faults: pa.Table) -> Found:
    images = [{f"image {identity}": row for row, identity in enumerate(part.images.ids.tolist())} for part in parts]
    owners: dict[tuple[int, str], tuple[int, int]] = {}
    wanted = {record for record in faults["record"].to_pylist() if record and record.startswith("annotation ")}
    ids = np.array([int(number) for record in wanted if (number := record.split()[-1]).lstrip("-").isdigit()], np.int64)
    for index, part in enumerate(parts):
        boxes = np.flatnonzero(np.isin(part.boxes.ids, ids))
        rows = rows_of(part.images.ids, part.boxes.image_ids[boxes])
        for box, row, identity in zip(boxes.tolist(), rows.tolist(), part.boxes.ids[boxes].tolist()):
            if row >= 0:
                owners[index, f"annotation {identity}"] = (row, box)
    found: Found = {}
    number_of = {part.name: index for index, part in enumerate(parts)}
    for fault in faults.select(["part", "file", "record", "rule"]).to_pylist():
        record = fault["record"]
        # a fault of both parts is about the one whose file it names
        chosen = [number_of[fault["part"]]] if fault["part"] in number_of else range(len(parts))
        for index in chosen:
            row = images[index].get(record)
            if row is not None and fault["file"] in (parts[index].file, f"images/{parts[index].images.names[row]}"):
                found.setdefault((index, row), {}).setdefault(None, []).append(fault["rule"])
            elif (index, record) in owners:
                row, box = owners[index, record]
                found.setdefault((index, row), {}).setdefault(box, []).append(fault["rule"])
    return found


def _fill_cell(
    sheet: Image.Image,
    corner: tuple[int, int],
    part: Part,
    row: int,
    broken: Mapping[int | None, list[str]],
    pictures: Pictures,
) -> None:
    width, height = CELL
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    image = pictures.read(part.images.names[row])
    if isinstance(image, str):
        pen.multiline_text((corner[0] + 12, corner[1] + 12), _wrapped(image), fill=(255, 160, 160), font=font)
    else:
        boxes = [box for box in broken if box is not None]
        rules = np.array([_RULE_NUMBERS[broken[box][0]] for box in boxes], np.int64)
        shown_boxes = _detections(part.boxes.xywh[boxes], rules, image)
        drawn = _around(draw(image, shown_boxes, tuple(RULES), scores=False), shown_boxes)
        shown = Image.fromarray(np.ascontiguousarray(drawn[..., ::-1]))
        shown.thumbnail((width - 8, height - 8))
        sheet.paste(shown, (corner[0] + 4, corner[1] + 4))
    counts = Counter(itertools.chain(*broken.values()))
    rules_text = ", ".join(rule if count == 1 else f"{rule} x {count}" for rule, count in counts.most_common())
    caption = f"{part.name}: {part.images.names[row][-56:]}\n{rules_text[:64]}"
    pen.multiline_text((corner[0] + 6, corner[1] + height), caption, fill=(235, 235, 235), font=font)


def _around(image: NDArray[np.uint8], boxes: Detections) -> NDArray[np.uint8]:
    """Cut a picture down to its boxes and what is near them; whole where it has none."""
    if not len(boxes):
        return image
    low, high = boxes.boxes[:, :2].min(axis=0), boxes.boxes[:, 2:].max(axis=0)
    half = np.maximum((high - low) / 2 + MARGIN, np.array(CELL) / 2)
    x0, y0 = np.maximum((low + high) / 2 - half, 0).astype(int)
    x1, y1 = np.ceil((low + high) / 2 + half).astype(int)
    return image[y0:y1, x0:x1]


def _detections(xywh: NDArray[np.float64], cls_ids: NDArray[np.int64], image: NDArray[np.uint8]) -> Detections:
    """Make what can be drawn of boxes: finite ones, moved to the picture's edge where they leave it."""
    height, width = image.shape[:2]
    finite = np.isfinite(xywh).all(axis=1)
    corners = np.concatenate([xywh[finite, :2], xywh[finite, :2] + xywh[finite, 2:]], axis=1)
    corners = np.clip(corners, -2, [width + 2, height + 2, width + 2, height + 2])
    low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    return Detections(cls_ids[finite].astype(np.int32), np.ones(len(boxes), np.float32), boxes)


def _encode(name: str, image: NDArray[np.uint8]) -> tuple[str, bytes]:
    """Encode a picture as its name says, or as JPEG under a longer name."""
    suffix = "." + name.rpartition(".")[2].lower()
    if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp") and cv2.haveImageWriter(suffix):
        return name, cv2.imencode(suffix, image)[1].tobytes()
    return f"{name}.jpg", cv2.imencode(".jpg", image)[1].tobytes()


def _wrapped(text: str, width: int = 60) -> str:
    return "\n".join(text[start : start + width] for start in range(0, min(len(text), 6 * width), width))
