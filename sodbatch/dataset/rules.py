"""The rules that a data set is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "off"]


@dataclass(frozen=True)
class Rule:
    """What is looked for.

    Attributes:
        severity: By default; an error makes the check fail.
        meaning: In words, for documentation.
    """

    severity: Severity
    meaning: str


RULES: Mapping[str, Rule] = {
    "json_invalid": Rule("error", "the annotation file is missing, or not JSON of COCO's shape"),
    "key_missing": Rule("error", "a record lacks a key that training needs"),
    "type_wrong": Rule("error", "a value has another type than COCO's"),
    "image_id_duplicate": Rule("error", "two images have one id"),
    "annotation_id_duplicate": Rule("error", "two annotations have one id"),
    "category_id_duplicate": Rule("error", "two categories have one id"),
    "category_name": Rule("error", "a category's name is blank, or that of another category"),
    "image_size": Rule("error", "the width or height of an image is not over 0"),
    "file_name_duplicate": Rule("error", "two images of a part have one file name"),
    "image_unknown": Rule("error", "an annotation's image_id is that of no image"),
    "category_unknown": Rule("error", "an annotation's category_id is that of no category"),
    "categories_differ": Rule("error", "train and val have other categories"),
    "name_in_both_parts": Rule("error", "the same file name stands in train and in val"),
    "content_in_both_parts": Rule("error", "files of the same bytes stand in train and in val"),
    "part_empty": Rule("error", "a part has no images, or no annotations"),
    "path_unsafe": Rule("error", "a file name is absolute, leaves the images folder, or is blank"),
    "picture_missing": Rule("error", "the picture of an image is not there"),
    "picture_unreadable": Rule("error", "the picture cannot be read or decoded, or its end is missing"),
    "size_mismatch": Rule("error", "width and height are not those of the picture, turned by its EXIF orientation"),
    "box_side": Rule("error", "a box has a side that is zero, negative, NaN or infinite"),
    "box_outside": Rule("error", "a box lies outside its picture"),
    "box_over_edge": Rule("warning", "a box reaches over the edge of its picture by more than a pixel"),
    "box_tiny": Rule("warning", "a box has a side under one pixel"),
    "box_duplicate": Rule("warning", "a picture has the same box of the same category twice"),
    "area_mismatch": Rule("warning", "the area of a box without a segmentation is not width times height, within 1 %"),
    "image_without_boxes": Rule("warning", "an image has no annotations; it is kept"),
    "picture_unlisted": Rule("warning", "a picture in images/ stands in no part"),
}
"""By id. ``CheckDataset.rules`` changes their severity."""
