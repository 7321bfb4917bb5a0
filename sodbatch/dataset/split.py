"""Split: a new division of the pictures into train and val, written beside the old files and then swapped in.

At any moment either the old division or the new one is whole (see :mod:`sodbatch.dataset.swap`). The originals become
``.bak``, as in PaddleX.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sodbatch.dataset.swap import new_name, swap
from sodbatch.errors import UsageError
from sodbatch.json_stream import JsonStream

TARGETS = ("annotations/instance_train.json", "annotations/instance_val.json")


@dataclass(frozen=True)
class Division:
    """How pictures are divided.

    Attributes:
        train_percent: Of the pictures that go to train, 1 to 99; the others go to val.
        seed: Of the choice; the same seed on the same files gives the same division.
        balance: Keep the share of every class in both parts (iterative stratification, Sechidis et al. 2011).
        group_pattern: A regular expression; pictures in whose file names it finds the same text, that of its first
            group where it has one, stay together.
    """

    train_percent: int
    seed: int
    balance: bool
    group_pattern: str | None


def split(folder: str, division: Division) -> tuple[int, int]:
    """Divide a local data set anew.

    As in PaddleX, ids of images of val are raised by the highest of train, and by one more where they count from 0, so
    that none is there twice; annotations are numbered from 1.

    Args:
        folder: Holds ``annotations/``.
        division: How.

    Returns:
        Pictures in train and in val.

    Raises:
        UsageError: The annotation files cannot be divided; nothing has been changed.
    """
    annotations = Path(folder) / "annotations"
    sources = [path for path in (Path(folder) / target for target in TARGETS) if path.exists()]
    if not sources:
        raise UsageError(f"{annotations}: expected instance_train.json or instance_val.json, found neither")
    try:
        contents = _contents(sources)
        chosen = assign(contents.names, contents.labels, division)
        _write(sources, contents, chosen, [Path(folder) / new_name(target) for target in TARGETS])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"there is no key {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{annotations}: cannot be divided before it passes the check: {reason}") from error
    swap(folder, "split", dict.fromkeys(TARGETS, True))
    return int(chosen.sum()), int((~chosen).sum())


def assign(names: Sequence[str], labels: Sequence[Sequence[int]], division: Division) -> NDArray[np.bool_]:
    """Choose the pictures of train.

    Args:
        names: File names.
        labels: Category ids of the boxes of each picture.
        division: How.

    Returns:
        bool [n], true for train.

    Raises:
        UsageError: A part would be empty.
    """
    groups = _groups(names, division.group_pattern)
    order = np.random.default_rng(division.seed).permutation(len(groups))
    share = division.train_percent / 100
    shuffled = [groups[i] for i in order]
    train = _balanced(shuffled, labels, share) if division.balance else _filled(shuffled, round(len(names) * share))
    chosen = np.zeros(len(names), bool)
    chosen[[row for group in train for row in group]] = True
    if not chosen.any() or chosen.all():
        raise UsageError(
            f"a part would be empty: {len(names)} pictures in {len(groups)} groups, "
            f"{division.train_percent} % for train"
        )
    return chosen


def _groups(names: Sequence[str], pattern: str | None) -> list[list[int]]:
    if pattern is None:
        return [[row] for row in range(len(names))]
    expression = re.compile(pattern)
    if not any(map(expression.search, names)):
        raise UsageError(
            f"CheckDataset.split.group_pattern = {pattern}: found in none of {len(names):,} names, such as {names[0]!r}"
        )
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        found = expression.search(name)
        text = None if found is None else found.group(1) if found.groups() else found.group()
        key = f"alone {name}" if text is None else f"group {text}"
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _filled(groups: list[list[int]], wanted: int) -> list[list[int]]:
    """Take groups as long as each brings the number of pictures nearer to what is wanted."""
    train, size = [], 0
    for group in groups:
        if abs(size + len(group) - wanted) < abs(size - wanted):
            train.append(group)
            size += len(group)
    return train


def _balanced(groups: list[list[int]], labels: Sequence[Sequence[int]], share: float) -> list[list[int]]:
    """Divide the groups of the rarest class first, each to the part that lacks most of it."""
    classes, codes = np.unique([label for of in labels for label in of], return_inverse=True)
    counts = np.zeros((len(groups), len(classes) + 1))
    counts[:, -1] = [len(group) for group in groups]  # the pictures themselves, as one more class
    owner = {row: number for number, group in enumerate(groups) for row in group}
    rows = np.repeat(np.arange(len(labels)), [len(of) for of in labels])
    np.add.at(counts, (np.array([owner[row] for row in rows.tolist()], int), codes), 1)
    lacking = np.stack([counts.sum(0) * share, counts.sum(0) * (1 - share)])
    left, train = np.ones(len(groups), bool), []
    while left.any():
        holders = (counts[left] > 0).sum(0)
        rarest = int(np.argmin(np.where(holders > 0, holders, np.inf)))
        for number in np.flatnonzero(left & (counts[:, rarest] > 0)):
            part = max((0, 1), key=lambda side: (lacking[side, rarest], lacking[side, -1]))
            lacking[part] -= counts[number]
            left[number] = False
            if part == 0:
                train.append(groups[number])
    return train


@dataclass(frozen=True)
class _Contents:
    """What of the old files decides: records of images and their new ids, categories, and other members."""

    images: list[dict[str, Any]]
    places: list[dict[int, int]]
    labels: list[list[int]]
    categories: list[dict[str, Any]]
    others: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return [image["file_name"] for image in self.images]


def _contents(sources: Sequence[Path]) -> _Contents:
    images: list[dict[str, Any]] = []
    places: list[dict[int, int]] = []
    labels: list[list[int]] = []
    categories: dict[int, dict[str, Any]] = {}
    others: dict[str, Any] = {}
    for source in sources:
        highest = max((image["id"] for image in images), default=0)
        new: list[dict[str, Any]] = []
        loose: list[tuple[int, int]] = []
        for name, value in _members(source):
            if name == "images":
                new += _items(value)
            elif name == "annotations":
                loose += [(each["image_id"], each["category_id"]) for each in _items(value)]
            elif name == "categories":
                for category in _items(value):
                    known = categories.setdefault(category["id"], category)
                    if known["name"] != category["name"]:
                        raise ValueError(f"category {category['id']} is {known['name']!r} and {category['name']!r}")
            else:
                others.setdefault(name, list(_items(value)) if isinstance(value, Iterator) else value)
        own = {image["id"]: place for place, image in enumerate(new, len(images))}
        if len(own) < len(new):
            raise ValueError(f"{source.name}: two images have one id")
        base = highest + max(0, 1 - min(own, default=1)) if images else 0  # also over ids that count from 0
        images += [image | {"id": image["id"] + base} for image in new]
        labels += [[] for _ in own]
        for image_id, category_id in loose:
            if image_id not in own:
                raise ValueError(f"{source.name}: an annotation has image_id {image_id}, and there is no such image")
            labels[own[image_id]].append(category_id)
        places.append(own)
    return _Contents(images, places, labels, list(categories.values()), others)


def _write(sources: Sequence[Path], contents: _Contents, chosen: NDArray[np.bool_], targets: Sequence[Path]) -> None:
    """Write the new files: annotations are streamed from the old ones."""
    with contextlib.ExitStack() as held:
        files = [held.enter_context(_new(target)) for target in targets]
        numbers = [0, 0]
        for side, file in enumerate(files):
            file.write(b"{")
            for name, value in (contents.others | {"categories": contents.categories}).items():
                file.write(_json(name) + b": " + _json(value) + b", ")
            file.write(b'"images": ' + _json(_of_side(contents.images, chosen, side)) + b', "annotations": [')
        for source, own in zip(sources, contents.places):
            for name, value in _members(source):
                if name == "annotations":
                    for record in _items(value):
                        place = own[record["image_id"]]
                        side = 0 if chosen[place] else 1
                        numbers[side] += 1
                        changed = record | {"id": numbers[side], "image_id": contents.images[place]["id"]}
                        files[side].write((b",\n" if numbers[side] > 1 else b"\n") + _json(changed))
        for file in files:
            file.write(b"]}")
            file.flush()
            os.fsync(file.fileno())


def _new(path: Path) -> IO[bytes]:
    """Open a new file for writing: what lies there goes, and a link is not followed."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def _of_side(images: list[dict[str, Any]], chosen: NDArray[np.bool_], side: int) -> list[dict[str, Any]]:
    return [image for image, train in zip(images, chosen.tolist()) if train == (side == 0)]


def _json(value: Any) -> bytes:
    """Encode a value as it was read: orjson would make null of NaN, and refuse half of a surrogate pair."""
    return json.dumps(value).encode()


def _members(source: Path) -> Iterator[tuple[str, Any]]:
    file: IO[bytes]
    with open(source, "rb") as file:
        yield from JsonStream(file).members()


def _items(value: Any) -> Iterator[Any]:
    for chunk in value:
        yield from chunk
