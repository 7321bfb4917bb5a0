"""COCO's figures of made-up detections, by one library, in a process of its own.

    python -m benchmarks.figures sodbatch|pycocotools PICTURES BOXES

Prints JSON: seconds for the figures at 500 and at 100 boxes a picture, peak memory in MiB, and AP.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time

import numpy as np

from sodbatch.evaluate.figures import Found, GroundTruth, figures_of

CLASSES = 10
TRUE_BOXES = 30
"""Boxes of each picture; detections lie near one of them."""


def main() -> None:
    """Measure and print."""
    tool, pictures, boxes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    truth, found = make(pictures, boxes)
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        average = figures_of(truth, found).coco["AP"] if tool == "sodbatch" else by_pycocotools(truth, found)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "AP": average}))


def make(pictures: int, boxes: int) -> tuple[GroundTruth, Found]:
    """Make ``TRUE_BOXES`` boxes and so many detections of each picture."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(pictures), TRUE_BOXES)
    xywh = np.concatenate([rng.uniform(0, 600, (len(rows), 2)), rng.uniform(4, 60, (len(rows), 2))], axis=1)
    labels = rng.integers(0, CLASSES, len(rows))
    names = tuple(str(label) for label in range(CLASSES))
    truth = GroundTruth(pictures, rows, labels, xywh, xywh[:, 2] * xywh[:, 3], np.zeros(len(rows), bool), names)
    owners = np.repeat(np.arange(pictures), boxes)
    near = owners * TRUE_BOXES + rng.integers(0, TRUE_BOXES, len(owners))
    moved = xywh[near] + rng.normal(0, 3, (len(owners), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], 1)
    taken = np.where(rng.random(len(owners)) < 0.9, labels[near], rng.integers(0, CLASSES, len(owners)))
    return truth, Found(owners, taken, moved, rng.random(len(owners)))


def by_pycocotools(truth: GroundTruth, found: Found) -> float:
    """Return AP at 500 boxes a picture, after what is done for it and for 100."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": row + 1} for row in range(truth.pictures)],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(truth.names)],
        "annotations": [
            {"id": i, "image_id": row + 1, "category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (row, label, box) in enumerate(
                zip(truth.rows.tolist(), truth.labels.tolist(), truth.xywh.tolist()), 1
            )
        ],
    }
    coco.createIndex()
    results = coco.loadRes(np.column_stack([found.rows + 1, found.xywh, found.scores, found.labels + 1]))
    average = 0.0
    for most in (100, 500):
        evaluated = COCOeval(coco, results, "bbox")
        evaluated.params.maxDets = [1, 10, most]
        evaluated.evaluate()
        evaluated.accumulate()
        precision = evaluated.eval["precision"][:, :, :, 0, 2]
        average = float(precision[precision > -1].mean())
    return average


if __name__ == "__main__":
    main()
