"""Made scenes: the same from the same seed, boxes that hold what they say, data sets that pass the check."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sodbatch.errors import UsageError
from sodbatch.scenes import LABELS, make_scene, write_scenes
from sodbatch.scenes.things import PEDESTRIAN, make_thing, paint_thing


def test_a_seed_makes_one_scene() -> None:
    one, same, other = make_scene((1, 2), 200, 300), make_scene((1, 2), 200, 300), make_scene((1, 3), 200, 300)
    assert (one.picture == same.picture).all() and (one.boxes == same.boxes).all()
    assert one.picture.shape == (200, 300, 3) and not (one.picture == other.picture).all()


def test_scenes_hold_many_small_things_of_all_kinds() -> None:
    scenes = [make_scene(seed, 640, 960) for seed in range(6)]
    labels = np.concatenate([scene.labels for scene in scenes])
    boxes = np.concatenate([scene.boxes for scene in scenes])
    assert len(labels) > 300 and set(labels) == set(range(len(LABELS)))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert (boxes >= 0).all() and (boxes[:, 2] <= 960).all() and (boxes[:, 3] <= 640).all()
    assert (areas < 32**2).mean() > 0.5 and areas.min() > 10


@pytest.mark.parametrize("label", range(len(LABELS)))
@pytest.mark.parametrize("heading", [0.0, 0.4, 1.2, np.pi / 2])
def test_a_box_is_what_was_painted(label: int, heading: float) -> None:
    rng = np.random.default_rng(label)
    for scale in (6.0, 8.3, 11.0):
        thing = make_thing(rng, label, 100.3, 90.6, heading, scale)
        canvas = np.full((200, 200, 3), 255, np.uint8)
        thing = type(thing)(label, thing.x, thing.y, thing.length, thing.width, heading, (0, 0, 0))
        paint_thing(canvas, thing)
        rows, columns = np.nonzero((canvas < 200).any(axis=2))
        painted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(painted) - thing.box()).max() <= (1.2 if label == PEDESTRIAN else 1.0)


def test_a_written_data_set_is_what_coco_has(tmp_path: Path) -> None:
    made: list[int] = []
    folder = write_scenes(tmp_path / "set", 3, 2, size=(128, 192), seed=4, processes=1, on_made=made.append)
    assert sum(made) == 5
    for part, count in (("train", 3), ("val", 2)):
        content = json.loads((folder / f"annotations/instance_{part}.json").read_text())
        assert [category["name"] for category in content["categories"]] == list(LABELS)
        assert len(content["images"]) == count
        for image in content["images"]:
            picture = cv2.imread(str(folder / "images" / image["file_name"]))
            assert picture.shape[:2] == (image["height"], image["width"]) == (128, 192)
    again = write_scenes(tmp_path / "again", 3, 2, size=(128, 192), seed=4, processes=2)
    for file in sorted(folder.rglob("*.*")):
        assert file.read_bytes() == (again / file.relative_to(folder)).read_bytes()


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 pictures in train"):
        write_scenes(tmp_path / "set", 0, 1)
    with pytest.raises(UsageError, match="64 to 8192"):
        write_scenes(tmp_path / "set", 1, 1, size=(10, 640))
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="holds a data set already"):
        write_scenes(tmp_path, 1, 1)
