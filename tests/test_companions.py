from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from fakes import LABELS, inferred_rows
from fixtures_lease import claim
from PIL import Image

from sodbatch import companions
from sodbatch.companions import DrawPictures, companion_name, write_coco
from sodbatch.config import FetchSection, LimitsSection
from sodbatch.fetch import Fetcher
from sodbatch.ids import digest
from sodbatch.storage import Storage
from sodbatch.write import Write

A, B = digest("a"), digest("b")


def drawing(output: Path, min_boxes: int = 0) -> DrawPictures:
    fetcher = Fetcher(Storage(), FetchSection(), LimitsSection())
    return DrawPictures(str(output), Storage(), fetcher, LimitsSection(), LABELS, min_boxes)


def rows(paths: list[Path], ids: list[str], **options: object) -> pa.Table:
    names = [str(path) for path in paths]
    return inferred_rows(ids, source=names, uri=names, **options)  # type: ignore[arg-type]


def test_a_picture_that_cannot_be_drawn_is_a_note_and_the_others_are_drawn(tmp_path: Path) -> None:
    good, wide = tmp_path / "good.png", tmp_path / "wide.png"
    cv2.imwrite(str(good), np.zeros((40, 60, 3), np.uint8))
    cv2.imwrite(str(wide), np.zeros((2, 66_000, 3), np.uint8))
    notes = drawing(tmp_path)(rows([wide, tmp_path / "gone.png", good], [A, digest("c"), B]))
    assert len(notes) == 2 and "wide.png" in notes[0] and "65,500" in notes[0] and "gone.png" in notes[1]
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == [f"good_{B[:12]}.jpg"]


def test_a_page_that_has_gone_is_a_note(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "pages.tif")
    lost = rows([tmp_path / "pages.tif"], [A], pages=[1], page_count=2)
    [note] = drawing(tmp_path)(lost)
    assert "pages.tif" in note and "no longer there" in note


def test_failed_pictures_and_those_with_fewer_boxes_are_not_drawn(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    assert drawing(tmp_path)(rows([tmp_path / "a.png"], [A], failed=True)) == []
    assert drawing(tmp_path, min_boxes=3)(rows([tmp_path / "a.png"], [A], boxes=2)) == []
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(
    ("uri", "page", "name"),
    [
        ("/data/a b.jpg", None, "a b"),
        ("s3://bucket/x/y.tif", 3, "y_3"),
        ("https://host/p%20q.png", None, "p q"),
        ("/data/a%00b.jpg", None, "a%00b"),
        ("https://host/a%00%2Fb.jpg", None, "b"),
        ("/data/" + "x" * 300 + ".jpg", None, "x" * 200),
        ("/data/" + "漢" * 82 + ".jpg", None, "漢" * 66),
    ],
)
def test_companions_are_named_after_their_picture(uri: str, page: int | None, name: str) -> None:
    assert companion_name({"uri": uri, "page_index": page, "image_id": A}) == f"{name}_{A[:12]}"


class Killed(BaseException):
    """What no handler of errors catches."""


@pytest.fixture(params=["local", "s3"])
def finished(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Storage]:
    """An output with the rows of one picture, and a ``coco.json`` of an earlier run."""
    output, storage = str(tmp_path), Storage()
    if request.param == "s3":
        bucket = request.getfixturevalue("s3_bucket")
        output, storage = f"{bucket.url}/out", Storage(bucket.section)
    run = claim(tmp_path)
    storage.write_atomic(f"{output}/run.json", (tmp_path / "run.json").read_bytes())
    Write(output, storage, run, pa.schema([]))(inferred_rows([A], boxes=2))
    storage.write_atomic(f"{output}/coco.json", b"[]")
    return output, storage


def names(output: str, storage: Storage) -> list[str]:
    return sorted(info.url.removeprefix(f"{output}/").partition("/")[0] for info in storage.list_files(output))


def test_coco_is_replaced_whole(finished: tuple[str, Storage]) -> None:
    output, storage = finished
    write_coco(output, storage)
    boxes = json.loads(storage.read_bytes(f"{output}/coco.json"))
    assert boxes == [{"image_id": A, "category_id": 2, "bbox": [1.0, 2.0, 2.0, 2.0], "score": 0.75}] * 2
    assert names(output, storage) == ["coco.json", "detections", "images", "run.json"]


@pytest.mark.parametrize("size", [10, 60 * 2**20])  # s3fs uploads in pieces of 50 MiB
def test_coco_that_breaks_off_leaves_the_old_one_and_nothing_else(
    finished: tuple[str, Storage], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def break_off(*_: object) -> Iterator[str]:
        yield "x" * size
        raise Killed

    output, storage = finished
    monkeypatch.setattr(companions, "_coco_results", break_off)
    with pytest.raises(Killed):
        write_coco(output, storage)
    gc.collect()
    assert storage.read_bytes(f"{output}/coco.json") == b"[]"
    assert names(output, storage) == ["coco.json", "detections", "images", "run.json"]
