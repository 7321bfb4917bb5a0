"""COCO's figures of detections against a data set's boxes; the arithmetic is that of hotcoco, a port of pycocotools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

MAX_DETECTIONS = 500
"""Boxes of a picture and class that count: the model's ``keep_top_k``. COCO's own 100 is given beside it."""

AREAS = {
    "all": (0.0, 1e10),
    "tiny": (0.0, 16.0**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Square pixels; tiny boxes are among the small ones too."""

IOU_OF_PICTURES = 0.5
"""IoU from which a box counts as found in curves, confusion matrix and worst pictures."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A part's boxes, as aligned columns.

    Attributes:
        pictures: Their number.
        rows: int64 [m], the picture of each box, from 0.
        labels: int64 [m], the class of each box, an index into ``names``.
        xywh: float64 [m, 4], left, top, width, height in pixels.
        areas: float64 [m], in square pixels.
        crowd: bool [m]; such a box is a region in which detections do not count.
        names: Of the classes.
    """

    pictures: int
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Found:
    """Detections, as aligned columns.

    Attributes:
        rows: int64 [k], the picture of each, from 0.
        labels: int64 [k], indices into the ground truth's names.
        xywh: float64 [k, 4], left, top, width, height in pixels.
        scores: float64 [k], 0 to 1.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    xywh: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Figures:
    """What came of an evaluation; figures are 0 to 1, or -1 where there is nothing to find.

    Attributes:
        coco: COCO's twelve, and AP and AR of tiny boxes (APt, ARt), at ``MAX_DETECTIONS``.
        coco100: The same at COCO's 100.
        by_class: AP, AP50 and AR of each class, at ``MAX_DETECTIONS``.
        recalls: float64 [101], the recalls at which ``precisions`` are given.
        precisions: float64 [101, classes] at an IoU of 0.5; -1 where a class has no boxes.
    """

    coco: dict[str, float]
    coco100: dict[str, float]
    by_class: dict[str, dict[str, float]]
    recalls: NDArray[np.float64]
    precisions: NDArray[np.float64]


def evaluated(truth: GroundTruth, found: Found, most: int) -> Any:
    """Return hotcoco's evaluator after matching, at most ``most`` boxes a picture; its ids are rows plus 1."""
    return _evaluated(_datasets(truth, found), most)


def figures_of(truth: GroundTruth, found: Found) -> Figures:
    """Compute the figures."""
    pair = _datasets(truth, found)
    coco100 = _Accumulated(_evaluated(pair, 100)).summary()
    at_most = _Accumulated(_evaluated(pair, MAX_DETECTIONS))
    by_class = {
        name: {"AP": at_most.ap(label=label), "AP50": at_most.ap(iou=0.5, label=label), "AR": at_most.ar(label=label)}
        for label, name in enumerate(truth.names)
    }
    return Figures(at_most.summary(), coco100, by_class, at_most.recalls, at_most.precision[0, :, :, 0, -1])


def confusion_matrix(truth: GroundTruth, found: Found, threshold: float) -> NDArray[np.int64]:
    """Count which class was taken for which at an IoU of 0.5.

    Args:
        truth: What there is.
        found: Detections; those with scores from ``threshold`` on count.
        threshold: 0 to 1.

    Returns:
        int64 [classes + 1, classes + 1], rows what there is, columns what was found; the last of both is nothing.
    """
    evaluator = hotcoco.COCOeval(*_datasets(truth, found), "bbox")
    return np.asarray(evaluator.confusion_matrix(IOU_OF_PICTURES, MAX_DETECTIONS, threshold)["matrix"], np.int64)


def _datasets(truth: GroundTruth, found: Found) -> tuple[Any, Any]:
    """Return hotcoco's data sets of what there is and of what was found; ids are rows and labels plus 1."""
    images = [{"id": row + 1, "width": 0, "height": 0, "file_name": ""} for row in range(truth.pictures)]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(truth.names)]
    there = hotcoco.COCO.from_arrays(
        images,
        categories,
        truth.rows + 1,
        truth.labels + 1,
        truth.xywh,
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
    )
    results = np.column_stack([found.rows + 1, found.xywh, found.scores, found.labels + 1]).astype(np.float64)
    return there, there.load_res(results.reshape(-1, 7))


def _evaluated(pair: tuple[Any, Any], most: int) -> Any:
    evaluator = hotcoco.COCOeval(*pair, "bbox")
    evaluator.params.max_dets = [1, 10, most]
    evaluator.params.area_rng = [list(bounds) for bounds in AREAS.values()]
    evaluator.params.area_rng_lbl = list(AREAS)
    evaluator.evaluate()
    return evaluator


class _Accumulated:
    """Means over what an evaluator has accumulated; as COCO has it, over what is there to find."""

    def __init__(self, evaluated: Any) -> None:
        evaluated.accumulate()
        content = evaluated.eval
        self.precision = np.asarray(content["precision"])  # [IoU, recall, class, area, detections]
        self.recall = np.asarray(content["recall"])  # [IoU, class, area, detections]
        self.recalls = np.asarray(evaluated.params.rec_thrs)
        self._ious = np.asarray(evaluated.params.iou_thrs)
        self._most = list(evaluated.params.max_dets)

    def ap(self, iou: float | None = None, area: str = "all", label: int | None = None) -> float:
        chosen = self.precision[:, :, :, list(AREAS).index(area), -1]
        if iou is not None:
            chosen = chosen[np.isclose(self._ious, iou)]
        return _mean(chosen if label is None else chosen[:, :, label])

    def ar(self, area: str = "all", most: int | None = None, label: int | None = None) -> float:
        chosen = self.recall[:, :, list(AREAS).index(area), -1 if most is None else self._most.index(most)]
        return _mean(chosen if label is None else chosen[:, label])

    def summary(self) -> dict[str, float]:
        most = self._most[-1]
        return {
            "AP": self.ap(),
            "AP50": self.ap(iou=0.5),
            "AP75": self.ap(iou=0.75),
            "APs": self.ap(area="small"),
            "APm": self.ap(area="medium"),
            "APl": self.ap(area="large"),
            "AR1": self.ar(most=1),
            "AR10": self.ar(most=10),
            f"AR{most}": self.ar(),
            "ARs": self.ar(area="small"),
            "ARm": self.ar(area="medium"),
            "ARl": self.ar(area="large"),
            "APt": self.ap(area="tiny"),
            "ARt": self.ar(area="tiny"),
        }


def _mean(values: NDArray[Any]) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0
