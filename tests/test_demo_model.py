"""The packaged demonstration model: small, found by its name without a network, and it really detects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("paddle")

from sodbatch import create_model
from sodbatch.evaluate.figures import Found, GroundTruth, figures_of
from sodbatch.model.find import PACKAGED
from sodbatch.scenes import LABELS, make_scene

NAME = "PP-YOLOE_plus_SOD-demo"


def test_it_is_small_and_its_card_says_what_it_is() -> None:
    folder = PACKAGED / NAME
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6 * 2**20
    card = " ".join((folder / "README.md").read_text().split())
    assert "not a VisDrone model" in card and "make demo-model" in card


def test_it_finds_what_unseen_scenes_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("SODBATCH_MODEL_BASE_URL", "http://127.0.0.1:9")  # nothing is downloaded
    scenes = [make_scene((77, number), 640, 640) for number in range(6)]
    model = create_model(NAME, threshold=0.01, device="cpu", backend="paddle")
    assert tuple(model.labels) == LABELS
    results = list(model.predict([scene.picture for scene in scenes]))
    boxes = [(row, box) for row, result in enumerate(results) for box in result["boxes"]]
    corners = np.array([box["coordinate"] for _, box in boxes], np.float64)
    found = Found(
        np.array([row for row, _ in boxes]),
        np.array([box["cls_id"] for _, box in boxes]),
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        np.array([box["score"] for _, box in boxes], np.float64),
    )
    truth_corners = np.concatenate([scene.boxes for scene in scenes])
    xywh = np.concatenate([truth_corners[:, :2], truth_corners[:, 2:] - truth_corners[:, :2]], axis=1)
    labels = np.concatenate([scene.labels for scene in scenes])
    rows = np.concatenate([np.full(len(scene.labels), row) for row, scene in enumerate(scenes)])
    truth = GroundTruth(6, rows, labels, xywh, xywh[:, 2] * xywh[:, 3], np.zeros(len(rows), bool), LABELS)
    figures = figures_of(truth, found)
    assert figures.coco["AP50"] > 0.4
    assert figures.by_class["pedestrian"]["AP50"] > 0.7 and figures.by_class["car"]["AP50"] > 0.5
