"""Rules on records, held against plain loops over made-up data sets, and the reader against the json module."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sodbatch import json_stream
from sodbatch.dataset.coco import Part, read_part
from sodbatch.dataset.faults import Faults
from sodbatch.dataset.records import check_records
from sodbatch.storage import Storage

STORAGE = Storage()
SIDE = st.sampled_from([-3.0, 0.0, 0.5, 1.0, 7.0, 12.25, math.nan, math.inf])
PLACE = st.sampled_from([-20.0, -1.0, 0.0, 3.5, 19.0, 40.0])
SMALL = st.integers(1, 4)

IMAGE = st.builds(
    lambda i, w: {"id": i, "file_name": f"{i}_{w}.jpg", "width": w, "height": 20}, SMALL, st.integers(8, 30)
)
ANNOTATION = st.builds(
    lambda i, image, category, x, y, w, h: {
        "id": i,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
    },
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 3),
    PLACE,
    PLACE,
    SIDE,
    SIDE,
)
CATEGORIES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
CONTENT = st.builds(
    lambda images, annotations: {"images": images, "annotations": annotations, "categories": CATEGORIES},
    st.lists(IMAGE, max_size=5),
    st.lists(ANNOTATION, max_size=12),
)


def read(content: dict[str, Any], faults: Faults, name: str = "train") -> Part:
    url = f"memory://records/{name}.json"
    STORAGE.write_atomic(url, json.dumps(content).encode())
    return read_part(name, url, STORAGE, faults)


def by_hand(content: dict[str, Any]) -> Counter[str]:
    """Count the faults of one part, one record after another."""
    found: Counter[str] = Counter()
    sizes: dict[int, tuple[int, int]] = {}
    for image in content["images"]:
        sizes.setdefault(image["id"], (image["width"], image["height"]))
    seen = set()
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        found["image_unknown"] += annotation["image_id"] not in sizes
        found["category_unknown"] += annotation["category_id"] not in (1, 2)
        sound = all(map(math.isfinite, (x, y, w, h))) and w > 0 and h > 0
        found["box_side"] += not sound
        found["box_tiny"] += sound and min(w, h) < 1
        if sound and annotation["image_id"] in sizes:
            width, height = sizes[annotation["image_id"]]
            outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
            over = max(-x, -y, x + w - width, y + h - height) > 1
            found["box_outside"] += outside
            found["box_over_edge"] += over and not outside
        key = (annotation["image_id"], annotation["category_id"], repr(annotation["bbox"]))
        found["box_duplicate"] += key in seen
        seen.add(key)
    for rule, records in (("image_id_duplicate", "images"), ("annotation_id_duplicate", "annotations")):
        counts = Counter(record["id"] for record in content[records])
        found[rule] += sum(count > 1 for count in counts.values())
    owners = {annotation["image_id"] for annotation in content["annotations"]}
    first = {image["id"]: index for index, image in reversed(list(enumerate(content["images"])))}
    found["image_without_boxes"] += sum(
        image["id"] not in owners or first[image["id"]] != index for index, image in enumerate(content["images"])
    )
    return Counter({rule: count for rule, count in found.items() if count})


@given(CONTENT)
def test_the_faults_of_a_part_are_those_that_a_plain_loop_finds(content: dict[str, Any]) -> None:
    faults = Faults({})
    empty = {"images": [], "annotations": [], "categories": CATEGORIES}
    check_records([read(content, faults), read(empty, faults, "val")], faults)
    ignored = ("part_empty", "file_name_duplicate", "area_mismatch")
    assert {rule: n for rule, n in faults.counts.items() if rule not in ignored} == by_hand(content)


@given(CONTENT, st.integers(16, 400), st.sampled_from([None, 1, 4]))
def test_a_file_is_read_as_the_json_module_reads_it_whatever_its_windows(
    content: dict[str, Any], block: int, indent: int | None
) -> None:
    content = {"info": {"a": [{"b": 1}, {"c": "},{"}]}, "licenses": [1, [{}, {}]], **content}
    url = "memory://records/windows.json"
    STORAGE.write_atomic(url, json.dumps(content, indent=indent).encode())
    before = json_stream._BLOCK
    json_stream._BLOCK = block
    try:
        part = read_part("train", url, STORAGE, Faults({}))
    finally:
        json_stream._BLOCK = before
    assert part.whole
    assert part.images.names == [image["file_name"] for image in content["images"]]
    assert part.boxes.ids.tolist() == [annotation["id"] for annotation in content["annotations"]]
    expected = np.array([annotation["bbox"] for annotation in content["annotations"]], float).reshape(-1, 4)
    np.testing.assert_array_equal(part.boxes.xywh, expected)


@given(st.integers(1, 400))
def test_of_a_file_that_breaks_off_what_stands_before_is_read(kept: int) -> None:
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0} for i in range(500)
    ]
    text = json.dumps({"annotations": annotations, "images": []})
    end = text.index(json.dumps(annotations[kept])) + 5
    url = "memory://records/broken.json"
    STORAGE.write_atomic(url, text[:end].encode())
    faults = Faults({})
    part = read_part("train", url, STORAGE, faults)
    assert part.boxes.ids.tolist() == list(range(kept))
    assert not part.whole and faults.counts == {"json_invalid": 1}
