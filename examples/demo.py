"""What ``make demo`` runs: a few drawn pictures, a small untrained model, the main job on local Ray.

The model's weights come from a seed, so its boxes mean nothing; everything else is as in earnest.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from sodbatch.cli import main

MODEL = "PP-YOLOE_plus_SOD-tiny"
PICTURES = 8
THRESHOLD = 0.3
ASPHALT, CARS = (95, 95, 90), ((40, 40, 200), (220, 220, 220), (150, 60, 20), (30, 30, 30))


def draw_picture(rng: np.random.Generator, height: int = 540, width: int = 960) -> np.ndarray:
    """Draw an aerial-like BGR picture: ground, two roads, and cars of some 20 pixels."""
    ground = rng.normal((70, 110, 90), 12, (height, width, 3)).clip(0, 255).astype(np.uint8)
    picture = cv2.GaussianBlur(ground, (5, 5), 0)
    row, column = int(rng.integers(80, height - 80)), int(rng.integers(80, width - 80))
    cv2.rectangle(picture, (0, row - 30), (width, row + 30), ASPHALT, -1)
    cv2.rectangle(picture, (column - 30, 0), (column + 30, height), ASPHALT, -1)
    for x in rng.integers(0, width - 24, 12):
        lane = row + int(rng.choice([-20, 8]))
        cv2.rectangle(picture, (int(x), lane), (int(x) + 22, lane + 11), CARS[rng.integers(len(CARS))], -1)
    return picture


def demo(folder: Path) -> int:
    """Make pictures and model under ``folder``, run the job, print its first rows; returns the exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    pictures, model, tables = (folder / name for name in ("pictures", "model", "tables"))
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        cv2.imwrite(str(pictures / f"{number:02}.jpg"), draw_picture(rng))
    code = main(["export", "-o", f"Global.model={MODEL}", "-o", f"Global.output={model}"])
    if code == 0:
        settings = [f"Global.model={MODEL}", f"Predict.threshold={THRESHOLD}", "Visualize.pictures=all"]
        options = [word for setting in settings for word in ("-o", setting)]
        code = main(["predict", "--input", str(pictures), "--output", str(tables), "--model-dir", str(model), *options])
    if code == 0:
        print_rows(tables)
    return code


def print_rows(tables: Path, rows: int = 5) -> None:
    """Print where everything lies and the first rows of the detections."""
    boxes = pq.read_table(tables / "detections").slice(0, rows)
    shown = boxes.select(["uri", "label", "score", "xmin", "ymin", "xmax", "ymax"]).to_pylist()
    print(f"\npictures with boxes  {(tables / 'pictures').resolve()}")
    print(f"one row a picture    {(tables / 'images').resolve()}")
    print(f"one row a box        {(tables / 'detections').resolve()}, beginning with")
    for row in shown:
        corners = " ".join(f"{row[name]:7.1f}" for name in ("xmin", "ymin", "xmax", "ymax"))
        print(f"  {Path(row['uri']).name}  {row['label']:<16} {row['score']:.3f}  {corners}")


if __name__ == "__main__":
    sys.exit(demo(Path(sys.argv[1] if len(sys.argv) > 1 else "output/demo")))
