"""Scenes written as a data set: ``images/`` and ``annotations/instance_{train,val}.json`` in COCO's format."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import orjson

from sodbatch.errors import UsageError
from sodbatch.scenes.scene import make_scene
from sodbatch.scenes.things import LABELS

JPEG_QUALITY = 90
LEAST_SIDE, MOST_SIDE = 64, 8192


def write_scenes(
    folder: str | Path,
    train: int,
    val: int,
    *,
    size: tuple[int, int] = (640, 640),
    seed: int = 0,
    processes: int | None = None,
    on_made: Callable[[int], None] = lambda number: None,
) -> Path:
    """Write a data set of made scenes; the same arguments give the same files.

    Args:
        folder: Where to; created, must not hold ``images`` or ``annotations`` yet.
        train: Pictures in the part train, at least 1.
        val: Pictures in the part val, at least 1.
        size: (height, width) of every picture in pixels.
        seed: Of everything; pictures of one seed are those of no other.
        processes: That draw; default: as many as there are CPUs.
        on_made: Called with the number of pictures as they are written.

    Returns:
        ``folder``.

    Raises:
        UsageError: A size or number out of range, or a folder that cannot be written or holds a data set.
    """
    target = Path(folder)
    if train < 1 or val < 1:
        raise UsageError(f"{train} pictures in train, {val} in val: expected at least 1 in each")
    if not all(LEAST_SIDE <= side <= MOST_SIDE for side in size):
        raise UsageError(f"pictures of {size[1]} x {size[0]}: expected sides of {LEAST_SIDE} to {MOST_SIDE} pixels")
    if any((target / name).exists() for name in ("images", "annotations")):
        raise UsageError(f"{target} holds a data set already; choose another folder")
    try:
        (target / "images").mkdir(parents=True)
        (target / "annotations").mkdir()
        parts = (("train", train), ("val", val))
        context = multiprocessing.get_context("spawn")
        with context.Pool(
            processes or len(os.sched_getaffinity(0)), initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            for index, (part, count) in enumerate(parts):
                draw = partial(_write_picture, target / "images", part, (seed, index), size)
                made = _counted(pool.imap(draw, range(count), chunksize=8), on_made)
                content = orjson.dumps(_coco(part, size, made))
                (target / "annotations" / f"instance_{part}.json").write_bytes(content)
    except OSError as error:
        raise UsageError(f"cannot write to {target}: {error}") from error
    return target


def _counted(made: Iterator[Any], on_made: Callable[[int], None]) -> Iterator[Any]:
    for one in made:
        on_made(1)
        yield one


def _name(part: str, number: int) -> str:
    return f"{part}_{number:06}.jpg"


def _write_picture(
    folder: Path, part: str, seed: tuple[int, int], size: tuple[int, int], number: int
) -> tuple[list[list[float]], list[int]]:
    """Write one picture; returns its boxes (x, y, width, height), to a hundredth of a pixel, and labels."""
    scene = make_scene((*seed, number), *size)
    done, data = cv2.imencode(".jpg", scene.picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise OSError(f"{_name(part, number)} could not be encoded")
    (folder / _name(part, number)).write_bytes(data.tobytes())
    boxes = scene.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.round(2).tolist(), scene.labels.tolist()


def _coco(part: str, size: tuple[int, int], made: Iterator[tuple[list[list[float]], list[int]]]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (boxes, labels) in enumerate(made):
        height, width = size
        images.append({"id": number + 1, "file_name": _name(part, number), "width": width, "height": height})
        for box, label in zip(boxes, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": round(box[2] * box[3], 4),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(LABELS)]
    return {"images": images, "annotations": annotations, "categories": categories}
