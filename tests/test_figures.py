"""COCO's figures against pycocotools, on random boxes and on made scenes; what a perfect and a useless detector get."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sodbatch.evaluate.compare import compare, worst
from sodbatch.evaluate.figures import Found, GroundTruth, confusion_matrix, figures_of
from sodbatch.scenes import LABELS, make_scene

NAMES = ("a", "b", "c")


def random_boxes(seed: int, pictures: int = 12) -> tuple[GroundTruth, Found]:
    """Boxes of all sizes, some of them crowds, and detections near and far."""
    rng = np.random.default_rng(seed)
    count = pictures * 9
    xywh = np.concatenate([rng.uniform(0, 300, (count, 2)), np.exp(rng.uniform(1, 5.5, (count, 2)))], axis=1)
    truth = GroundTruth(
        pictures,
        rng.integers(0, pictures, count),
        rng.integers(0, len(NAMES), count),
        xywh,
        xywh[:, 2] * xywh[:, 3],
        rng.random(count) < 0.1,
        NAMES,
    )
    chosen = rng.integers(0, count, count * 3)
    moved = xywh[chosen] * rng.normal(1, 0.15, (len(chosen), 4))
    labels = np.where(rng.random(len(chosen)) < 0.8, truth.labels[chosen], rng.integers(0, len(NAMES), len(chosen)))
    return truth, Found(truth.rows[chosen], labels, np.abs(moved), rng.random(len(chosen)))


def by_pycocotools(truth: GroundTruth, found: Found, most: int) -> tuple[list[float], np.ndarray]:
    """The twelve figures, and AP by class."""
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": row + 1} for row in range(truth.pictures)],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(truth.names)],
        "annotations": [
            {
                "id": index + 1,
                "image_id": int(truth.rows[index]) + 1,
                "category_id": int(truth.labels[index]) + 1,
                "bbox": truth.xywh[index].tolist(),
                "area": float(truth.areas[index]),
                "iscrowd": int(truth.crowd[index]),
            }
            for index in range(len(truth.rows))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        results = np.column_stack([found.rows + 1, found.xywh, found.scores, found.labels + 1])
        evaluated = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluated.params.maxDets = [1, 10, most]
        evaluated.evaluate()
        evaluated.accumulate()
    precision, recall = evaluated.eval["precision"], evaluated.eval["recall"]

    def mean(values: np.ndarray) -> float:
        there = values[values > -1]
        return float(there.mean()) if there.size else -1.0

    figures = [mean(precision[:, :, :, 0, 2]), mean(precision[0, :, :, 0, 2]), mean(precision[5, :, :, 0, 2])]
    figures += [mean(precision[:, :, :, area, 2]) for area in (1, 2, 3)]
    figures += [mean(recall[:, :, 0, 0]), mean(recall[:, :, 0, 1]), mean(recall[:, :, 0, 2])]
    figures += [mean(recall[:, :, area, 2]) for area in (1, 2, 3)]
    return figures, np.array([mean(precision[:, :, label, 0, 2]) for label in range(len(truth.names))])


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    truth, found = random_boxes(seed)
    figures = figures_of(truth, found)
    for most, ours in ((500, figures.coco), (100, figures.coco100)):
        theirs, by_class = by_pycocotools(truth, found, most)
        assert list(ours.values())[:12] == pytest.approx(theirs, abs=1e-6)
        if most == 500:
            assert [figures.by_class[name]["AP"] for name in NAMES] == pytest.approx(by_class, abs=1e-6)
    assert 0.001 < figures.coco["AP"] < 0.9


def scene_truth(pictures: int = 3) -> GroundTruth:
    scenes = [make_scene((7, number), 320, 400) for number in range(pictures)]
    rows = np.concatenate([np.full(len(scene.labels), row) for row, scene in enumerate(scenes)])
    corners = np.concatenate([scene.boxes for scene in scenes])
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    labels = np.concatenate([scene.labels for scene in scenes])
    return GroundTruth(pictures, rows, labels, xywh, xywh[:, 2] * xywh[:, 3], np.zeros(len(rows), bool), LABELS)


def test_the_truth_itself_scores_one_and_a_shuffled_one_does_not() -> None:
    truth = scene_truth()
    perfect = Found(truth.rows, truth.labels, truth.xywh, np.linspace(1, 0.5, len(truth.rows)))
    assert figures_of(truth, perfect).coco["AP"] == pytest.approx(1.0, abs=1e-12)
    shuffled = replace(perfect, xywh=np.random.default_rng(0).permutation(truth.xywh))
    assert figures_of(truth, shuffled).coco["AP"] < 0.2


def test_tiny_boxes_have_figures_of_their_own() -> None:
    xywh = np.array([[10.0, 10, 8, 8], [50, 50, 30, 30]])
    truth = GroundTruth(1, np.zeros(2, int), np.zeros(2, int), xywh, xywh[:, 2] * xywh[:, 3], np.zeros(2, bool), ("a",))
    figures = figures_of(truth, Found(np.zeros(1, int), np.zeros(1, int), xywh[:1], np.ones(1)))
    assert figures.coco["APt"] == pytest.approx(1.0) and figures.coco["ARt"] == 1.0
    assert figures.coco["APs"] == pytest.approx(0.505, abs=0.01)  # one of two, up to a recall of a half


def test_nothing_found_and_nothing_there() -> None:
    truth = scene_truth()
    none = Found(np.empty(0, int), np.empty(0, int), np.empty((0, 4)), np.empty(0))
    assert figures_of(truth, none).coco["AP"] == 0.0
    empty = replace(
        truth, rows=none.rows, labels=none.labels, xywh=none.xywh, areas=none.scores, crowd=np.empty(0, bool)
    )
    assert figures_of(empty, none).coco["AP"] == -1.0


def test_confusion_counts_hits_misses_and_what_is_not_there() -> None:
    xywh = np.array([[0.0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10]])
    truth = GroundTruth(
        1, np.zeros(3, int), np.array([0, 1, 1]), xywh, np.full(3, 100.0), np.zeros(3, bool), ("a", "b")
    )
    seen = np.array([[0.0, 0, 10, 10], [20, 0, 10, 10], [80, 0, 10, 10], [40, 0, 10, 10]])
    found = Found(np.zeros(4, int), np.array([0, 0, 1, 1]), seen, np.array([0.9, 0.8, 0.7, 0.1]))
    assert confusion_matrix(truth, found, 0.3).tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_detections_match_best_first_and_crowds_swallow() -> None:
    xywh = np.array([[0.0, 0, 10, 10], [100, 100, 50, 50]])
    truth = GroundTruth(1, np.zeros(2, int), np.zeros(2, int), xywh, np.full(2, 99.0), np.array([False, True]), ("a",))
    seen = np.array([[300.0, 0, 5, 5], [110, 110, 10, 10], [0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10]])
    found = Found(np.zeros(5, int), np.zeros(5, int), seen, np.array([0.6, 0.7, 0.8, 0.9, 0.1]))
    [one] = compare(truth, found, 0.3)
    assert one.hit.tolist() == [True] and one.boxes.tolist() == [[0, 0, 10, 10]]
    assert one.found.tolist() == [[1, 0, 10, 10], [0, 0, 10, 10], [300, 0, 5, 5]]
    assert one.true.tolist() == [True, False, False] and one.errors == 2


def test_worst_pictures_are_those_with_most_errors() -> None:
    truth = scene_truth()
    two = truth.rows != 1
    found = Found(truth.rows[two], truth.labels[two], truth.xywh[two], np.ones(int(two.sum())))
    found_wrongly = replace(
        found,
        rows=np.append(found.rows, 2),
        labels=np.append(found.labels, 0),
        xywh=np.append(found.xywh, [[1, 1, 2, 2]], 0),
        scores=np.append(found.scores, 0.9),
    )
    ranked = worst(compare(truth, found_wrongly, 0.3), 5)
    assert [(one.row, one.errors) for one in ranked] == [(1, int((~two).sum())), (2, 1)]
