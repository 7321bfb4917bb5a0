"""From a part of a data set and the tables of a run to what is compared: classes matched, pictures matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sodbatch.dataset.coco import Part
from sodbatch.dataset.pictures import picture_url
from sodbatch.dataset.records import rows_of
from sodbatch.errors import UsageError
from sodbatch.evaluate.figures import Found, GroundTruth
from sodbatch.storage import display_uri, local_path, local_source


def truth_of(part: Part) -> GroundTruth:
    """Take a checked part's boxes; classes are in the order of its categories, crowds are kept as such."""
    boxes = part.boxes
    rows = rows_of(part.images.ids, boxes.image_ids)
    place = {identity: index for index, (identity, _) in enumerate(part.categories)}
    labels = np.array([place[identity] for identity in boxes.category_ids.tolist()], np.int64)
    names = tuple(name for _, name in part.categories)
    return GroundTruth(len(part.images.ids), rows, labels, boxes.xywh, boxes.areas, boxes.crowd, names)


def match_classes(names: Sequence[str], labels: Mapping[int, str], how: str) -> dict[int, int]:
    """Match a model's classes with a data set's.

    Args:
        names: The data set's categories.
        labels: The model's by class id; of a finished run those that stand in its tables.
        how: ``name``: each label is one of the names; ``order``: class id 0 is the first category, and so on.

    Returns:
        The data set's index by the model's class id.

    Raises:
        UsageError: They do not match; lists both.
    """
    place = {name: index for index, name in enumerate(names)}
    if how == "name" and len(place) == len(names) and set(labels.values()) <= set(place):
        return {identity: place[label] for identity, label in labels.items()}
    if how == "order" and all(identity < len(names) for identity in labels):
        return {identity: identity for identity in labels}
    raise UsageError(
        f"the classes do not match by {how}; the data set has {len(names)}: {', '.join(names)}; the model has, or has "
        f"found, {len(labels)}: {', '.join(labels.values())}. With Evaluate.match=order the first is taken for the "
        "first, and so on"
    )


def labels_in(images: pa.Table) -> dict[int, str]:
    """Return the labels that stand in a run's tables, by class id."""
    boxes = images["detections"].combine_chunks().flatten()
    pairs = pa.table({"cls_id": boxes.field("cls_id"), "label": boxes.field("label")})
    return {row["cls_id"]: row["label"] for row in pairs.group_by(["cls_id", "label"]).aggregate([]).to_pylist()}


def rows_in(images: pa.Table, part: Part, folder: str) -> NDArray[np.int64]:
    """Return which picture of a part each row of a run's images table is, -1 where it is none.

    Args:
        images: Columns ``uri``, and ``coco_image_id`` where the run's input was a COCO file. An id counts where the
            path ends as that of the picture does: the other part, or another data set, may have the same ids.
        part: The data set's part.
        folder: The data set.
    """
    if "coco_image_id" in images.column_names and images["coco_image_id"].null_count == 0:
        rows = rows_of(part.images.ids, images["coco_image_id"].to_numpy())
        root = picture_uri(folder, "x")[: -len("/x")]
        ends = [picture_uri(folder, name)[len(root) :] for name in part.images.names]
        same = [row >= 0 and uri.endswith(ends[row]) for row, uri in zip(rows.tolist(), images["uri"].to_pylist())]
        return np.where(same, rows, -1)
    place = {picture_uri(folder, name): row for row, name in enumerate(part.images.names)}
    return np.array([place.get(uri, -1) for uri in images["uri"].to_pylist()], np.int64)


def picture_uri(folder: str, name: str) -> str:
    """Return what the main job's tables call a picture of a data set."""
    url = picture_url(folder, name)
    path = local_path(url)
    return display_uri(url if path is None else local_source(path))


def found_in(images: pa.Table, rows: NDArray[np.int64], classes: dict[int, int]) -> Found:
    """Take the detections of a run's images table.

    Args:
        images: Its column ``detections``, of pictures that are ok.
        rows: As of :func:`rows_in`; detections of other pictures are left out.
        classes: As of :func:`match_classes`.
    """
    lists = images["detections"].combine_chunks()
    counts = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    boxes = lists.flatten()
    owner = np.repeat(rows, counts)
    corners = np.stack([_column(boxes, name) for name in ("xmin", "ymin", "xmax", "ymax")], axis=1)
    lookup = np.full(max(classes, default=0) + 1, -1)
    lookup[list(classes)] = list(classes.values())
    labels = lookup[boxes.field("cls_id").to_numpy(zero_copy_only=False).astype(np.int64)]
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    here = owner >= 0
    return Found(owner[here], labels[here], xywh[here], _column(boxes, "score")[here])


def _column(boxes: pa.StructArray, name: str) -> NDArray[np.float64]:
    return boxes.field(name).to_numpy(zero_copy_only=False).astype(np.float64)
