"""A training learns eight pictures by heart: assigners, losses, schedule, average, export and evaluation together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("paddle")

from sodbatch.cli import main
from sodbatch.model.spec import SPECS
from sodbatch.scenes import write_scenes
from sodbatch.train.augment import Sample

TINY = "PP-YOLOE_plus_SOD-tiny"


def as_it_is(rng: np.random.Generator, sample: Sample, side: int, interpolation: int, most: float) -> Sample:
    """Stand in for the augmentation, which would make new pictures of the eight again and again."""
    height, width = sample.image.shape[:2]
    factors = np.array([side / width, side / height] * 2, np.float32)
    return Sample(np.asarray(cv2.resize(sample.image, (side, side)), np.uint8), sample.boxes * factors, sample.labels)


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sodbatch.train.batches.augment", as_it_is)
    monkeypatch.setitem(SPECS, TINY, replace(SPECS[TINY], train_sides=(320,), reference_batch=8))
    dataset = write_scenes(tmp_path / "eight", 8, 1, size=(256, 256), seed=5, processes=1)
    settings = {
        "Global.model": TINY,
        "Train.epochs_iters": 250,
        "Train.batch_size": 8,
        "Train.learning_rate": 0.025,
        "Train.warmup_steps": 40,
        "Train.static_assigner_epochs": 60,
        "Train.eval_interval": 250,
        "Evaluate.part": "train",
        "Evaluate.weight_path": tmp_path / "out" / "best_model" / "best_model.pdparams",
    }
    options = ["--dataset-dir", str(dataset), "--engine", "inline"]
    options += [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    assert main(["train", "--output", str(tmp_path / "out"), *options]) == 0
    assert main(["evaluate", "--output", str(tmp_path / "figures"), *options]) == 0
    result = json.loads((tmp_path / "figures" / "evaluate_result.json").read_text())
    assert result["metrics"]["AP50"] >= 0.8
