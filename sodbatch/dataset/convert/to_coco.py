"""From annotation lists of other formats to COCO, as PaddleX's conversion does it for VOC and LabelMe.

``train_anno_list.txt`` and ``val_anno_list.txt`` name the annotation files. Nothing is written before everything has
been read; then the new files are swapped in together.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from sodbatch.config import LimitsSection
from sodbatch.dataset.convert.labelme import read_labelme
from sodbatch.dataset.convert.scene import MOST, Scene, SceneError, forward
from sodbatch.dataset.convert.visdrone import read_visdrone
from sodbatch.dataset.convert.voc import read_voc
from sodbatch.dataset.convert.yolo import read_yolo
from sodbatch.dataset.records import unsafe
from sodbatch.dataset.swap import new_name, swap
from sodbatch.decode import FailedPage, decode_pages
from sodbatch.errors import UsageError
from sodbatch.manifest.pictures import SUFFIXES
from sodbatch.model.spec import VISDRONE_LABELS
from sodbatch.storage.local import read, write_atomic

NAMES_ITS_PICTURE: Mapping[str, tuple[str, Callable[[bytes], Scene]]] = {
    "VOC": (".xml", read_voc),
    "VOCWithUnlabeled": (".xml", read_voc),
    "LabelMe": (".json", read_labelme),
    "LabelMeWithUnlabeled": (".json", read_labelme),
}
"""By ``src_dataset_type``: suffix of the annotation files, and what reads one."""

IS_CALLED_AS_ITS_PICTURE: Mapping[str, Callable[[bytes, str, tuple[int, int], Sequence[str]], Scene]] = {
    "YOLO": read_yolo,
    "VisDrone": read_visdrone,
}
"""Formats of ``.txt`` files, which name neither their picture nor its size: it is decoded for that, as EXIF may turn
it."""

PARTS = ("train", "val")
TRAIN_SHARE = 0.8
ENDS = ("", *(f".{end}" for suffix in sorted(SUFFIXES) for end in (suffix, suffix.upper())))
"""What a picture's name may end in where an annotation calls it without."""

MAX_BYTES = 64 * 2**20
"""Of one annotation file."""

NAMED = 10
"""Faults that an error names."""


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        pictures: By part.
        notes: What was changed in reading, by its number of cases.
    """

    pictures: Mapping[str, int]
    notes: Mapping[str, int]


def convert(folder: str, kind: str, seed: int, limits: LimitsSection | None = None) -> Converted:
    """Convert a local data set.

    Ids of images and categories count from 1 in order of appearance over both parts, those of annotations in each. Both
    files get all categories. Without a list for val, the list is divided 80 to 20 and the original becomes ``.bak``.

    Args:
        folder: Holds ``images/`` and the lists.
        kind: The format, as ``CheckDataset.convert.src_dataset_type`` names it.
        seed: Of the division.
        limits: Of pictures whose size is looked up; the section's defaults where not given.

    Raises:
        UsageError: Something cannot be converted: files and lines are named, and nothing has been changed.
    """
    root = Path(folder)
    faults: list[str] = []
    lists = _lists(root, kind, seed, faults)
    source = _Source(root, kind, _labels(root, kind), limits or LimitsSection())
    scenes = {part: [source.scene(where, line, faults) for where, line in lists[part]] for part in PARTS}
    _check_twins(lists, scenes, faults)
    if faults:
        more = f"\n... and {len(faults) - NAMED:,} more" if len(faults) > NAMED else ""
        raise UsageError(
            f"{root}: cannot be converted from {kind}, nothing has been changed:\n" + "\n".join(faults[:NAMED]) + more
        )
    made = {part: [(name, scene) for name, scene in filter(None, scenes[part])] for part in PARTS}
    targets = {}
    for part, content in _contents(made, source.labels).items():
        targets[f"annotations/instance_{part}.json"] = True
        write_atomic(str(root / new_name(f"annotations/instance_{part}.json")), content)
    if not (root / "val_anno_list.txt").exists():
        for part in PARTS:
            name = f"{part}_anno_list.txt"
            targets[name] = True
            write_atomic(str(root / new_name(name)), "".join(f"{line}\n" for _, line in lists[part]).encode())
    unlabeled = root / "unlabeled.txt"
    if kind.endswith("WithUnlabeled") and unlabeled.exists():
        targets["annotations/unlabeled.txt"] = True
        write_atomic(str(root / new_name("annotations/unlabeled.txt")), unlabeled.read_bytes())
    swap(folder, "convert", targets)
    notes: Counter[str] = Counter()
    for of_part in made.values():
        for _, scene in of_part:
            notes.update(scene.notes)
    return Converted({part: len(made[part]) for part in PARTS}, notes)


Lines = dict[str, list[tuple[str, str]]]
"""For each part the lines of its list: where they stand, and their texts."""


def _check_twins(lists: Lines, scenes: Mapping[str, Sequence[tuple[str, Scene] | None]], faults: list[str]) -> None:
    """A picture that two lines name would be two images of one id."""
    first: dict[str, str] = {}
    for part in PARTS:
        for (where, _), made in zip(lists[part], scenes[part], strict=True):
            if made is not None and (other := first.setdefault(made[0], where)) != where:
                faults.append(f"{where}: its picture images/{made[0]} is that of {other} too")


def _lists(root: Path, kind: str, seed: int, faults: list[str]) -> Lines:
    """Read the lists; without one for val, that of train is divided."""
    found: Lines = {}
    for part in PARTS:
        path = root / f"{part}_anno_list.txt"
        if not path.exists():
            if part == "train":
                raise UsageError(f"{path}: there is no such file; a {kind} data set has one, with a path a line")
            break
        try:
            lines = read(str(path)).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: expected UTF-8, found other bytes") from error
        numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        found[part] = [(f"line {number} of {path.name}", line) for number, line in numbered]
    if "val" not in found:
        lines_of_all = found["train"]
        order = np.random.default_rng(seed).permutation(len(lines_of_all)).tolist()
        border = int(len(order) * TRAIN_SHARE)
        found = {
            "train": [lines_of_all[i] for i in order[:border]],
            "val": [lines_of_all[i] for i in order[border:]],
        }
        for part in PARTS:
            if not found[part]:
                faults.append(f"{root / 'train_anno_list.txt'}: too few lines to divide into train and val")
    return found


@dataclass(frozen=True)
class _Source:
    """A data set in another format.

    Attributes:
        root: Its folder.
        kind: The format.
        labels: Names of the classes, where annotations have but numbers.
        limits: Of pictures whose size is looked up.
    """

    root: Path
    kind: str
    labels: Sequence[str]
    limits: LimitsSection

    def scene(self, where: str, line: str, faults: list[str]) -> tuple[str, Scene] | None:
        """Read what one line of a list names; return the file name of its picture, and the scene."""
        suffix = NAMES_ITS_PICTURE[self.kind][0] if self.kind in NAMES_ITS_PICTURE else ".txt"
        names = [posixpath.normpath(forward(words)) for words in (line, line.split(" ")[-1])]
        named = next((name for name in names if not unsafe(name) and _is_file(self.root / name)), None)
        if named is None or not named.endswith(suffix):
            expected = f"expected the path of a {suffix} file that is there, below {self.root}"
            faults.append(f"{where}, {line[:200]!r}: {expected}")
            return None
        try:
            name, scene = self._read(named, read(str(self.root / named), MAX_BYTES))
            _check_values(scene)
            return name, scene
        except SceneError as error:
            at = "" if error.line is None else f", line {error.line}"
            faults.append(f"{self.root / named}{at}: {error}")
        except OSError as error:
            faults.append(f"{self.root / named}: {error.strerror or error}")
        return None

    def _read(self, named: str, data: bytes) -> tuple[str, Scene]:
        """Read an annotation, and find its picture.

        Raises:
            SceneError: The one cannot be read, or the other not be found.
        """
        if self.kind in NAMES_ITS_PICTURE:
            scene = NAMES_ITS_PICTURE[self.kind][1](data)
            base = posixpath.basename(scene.picture)
            alike = (base.partition(".")[0], posixpath.basename(named).partition(".")[0])
            names = (scene.picture, scene.picture.removeprefix("images/"), base, *alike)
            return self._picture(*map(posixpath.normpath, names)), scene
        picture = self._picture(posixpath.splitext(named.partition("/")[2] or named)[0])
        page = next(decode_pages(read(str(self.root / "images" / picture), self.limits.max_bytes), self.limits))
        if isinstance(page, FailedPage):
            raise SceneError(f"images/{picture}: {page.error}")
        height, width = page.image.shape[:2]
        return picture, IS_CALLED_AS_ITS_PICTURE[self.kind](data, picture, (width, height), self.labels)

    def _picture(self, *names: str) -> str:
        """Return the first name below ``images/`` that a picture has, as it stands or with an end.

        Raises:
            SceneError: There is no such picture.
        """
        for name in (name + end for name in names for end in ENDS):
            if not unsafe(name) and _is_file(self.root / "images" / name):
                return name
        raise SceneError(f"its picture {names[0][:200]!r} is not in images/")


def _labels(root: Path, kind: str) -> tuple[str, ...]:
    """Return the names of the classes where the annotations have but numbers; nothing where they have names."""
    if kind in NAMES_ITS_PICTURE:
        return ()
    if kind == "VisDrone":
        return VISDRONE_LABELS
    path = root / "classes.txt"
    try:
        lines = read(str(path)).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a text file with the name of a class a line: {error}") from error
    names = tuple(line.strip() for line in "\n".join(lines).rstrip().split("\n"))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"{path}: expected a name a line, none blank or twice; found {', '.join(map(repr, names))[:200]}"
        )
    return names


def _is_file(path: Path) -> bool:
    """Tell whether a file is there; a name that is too long or odd for the system is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_values(scene: Scene) -> None:
    """Refuse what COCO's file could not hold.

    Raises:
        SceneError: A number beyond ``MOST``, or a name that is no text.
    """
    if max(scene.width, scene.height) > MOST:
        raise SceneError(f"a picture of {scene.width:g} x {scene.height:g}: expected sides up to {MOST:,}")
    for each in scene.objects:
        if max(map(abs, each.box)) > MOST or any(abs(value) > MOST for value in each.extra.values()):
            raise SceneError(f"{each.label!r} at {', '.join(f'{side:g}' for side in each.box)}: numbers over {MOST:,}")
        if each.label != each.label.encode("utf-8", "ignore").decode():
            raise SceneError(f"the label {each.label!r} is no text")


def _contents(made: Mapping[str, list[tuple[str, Scene]]], labels: Sequence[str]) -> dict[str, bytes]:
    """Return the annotation file of each part; categories that are known beforehand keep their order."""
    image_ids: dict[str, int] = {}
    category_ids = {label: number for number, label in enumerate(labels, 1)}
    contents: dict[str, dict[str, list[object]]] = {}
    for part, scenes in made.items():
        images: list[object] = []
        annotations: list[object] = []
        for name, scene in scenes:
            image = image_ids.setdefault(name, len(image_ids) + 1)
            images.append({"id": image, "file_name": name, "width": scene.width, "height": scene.height})
            for each in scene.objects:
                left, top, right, bottom = each.box
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category_ids.setdefault(each.label, len(category_ids) + 1),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "ignore": 0,
                }
                annotations.append({**annotation, **each.extra})
        contents[part] = {"images": images, "annotations": annotations}
    categories = [{"id": identity, "name": name} for name, identity in category_ids.items()]
    return {part: orjson.dumps(content | {"categories": categories}) for part, content in contents.items()}
