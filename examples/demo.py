"""What ``make demo`` runs: made scenes, the demonstration model of the package, the main job on local Ray, its figures.

The model has learned from other scenes of the same kind, on CPUs in under an hour: it finds what the scenes hold, and
says nothing about real pictures.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq

from sodbatch.cli import main
from sodbatch.scenes import write_scenes

MODEL = "PP-YOLOE_plus_SOD-demo"
PICTURES = 8
SEED = 2026
"""Of scenes that the model has not seen."""

THRESHOLD = 0.4
"""Of what is drawn; the evaluation counts all boxes."""


def demo(folder: Path) -> int:
    """Make scenes under ``folder``, detect, evaluate, print the first rows; returns the exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    scenes = write_scenes(folder / "scenes", 1, PICTURES, seed=SEED)
    pictures, tables, figures = scenes / "annotations" / "instance_val.json", folder / "tables", folder / "figures"
    settings = [f"Global.model={MODEL}", f"Predict.threshold={THRESHOLD}", "Visualize.pictures=all"]
    drawn = [word for setting in settings for word in ("-o", setting)]
    code = main(["predict", "--input", str(pictures), "--output", str(tables), *drawn])
    if code == 0:
        options = ["--dataset-dir", str(scenes), "--output", str(figures), "--engine", "inline"]
        code = main(["evaluate", *options, "-o", f"Global.model={MODEL}"])
    if code == 0:
        print_rows(tables, figures)
    return code


def print_rows(tables: Path, figures: Path, rows: int = 5) -> None:
    """Print where everything lies and the first rows of the detections."""
    boxes = pq.read_table(tables / "detections").slice(0, rows)
    shown = boxes.select(["uri", "label", "score", "xmin", "ymin", "xmax", "ymax"]).to_pylist()
    print(f"\npictures with boxes  {(tables / 'pictures').resolve()}")
    print(f"figures and charts   {figures.resolve()}")
    print(f"one row a picture    {(tables / 'images').resolve()}")
    print(f"one row a box        {(tables / 'detections').resolve()}, beginning with")
    for row in shown:
        corners = " ".join(f"{row[name]:7.1f}" for name in ("xmin", "ymin", "xmax", "ymax"))
        print(f"  {Path(row['uri']).name}  {row['label']:<12} {row['score']:.3f}  {corners}")


if __name__ == "__main__":
    sys.exit(demo(Path(sys.argv[1] if len(sys.argv) > 1 else "output/demo")))
