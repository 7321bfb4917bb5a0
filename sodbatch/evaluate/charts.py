"""Charts of an evaluation: precision by recall of every class, and which class is taken for which."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from sodbatch.evaluate.figures import IOU_OF_PICTURES, MAX_DETECTIONS, Figures
from sodbatch.fonts import plain, readable

SHOWN_CLASSES = 20
"""Classes that have a line or a row of their own."""


def precision_recall(figures: Figures, names: tuple[str, ...]) -> bytes:
    """Draw precision by recall at an IoU of 0.5, a line a class and their mean, as a PNG."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    there = [label for label in range(len(names)) if figures.precisions[0, label] > -1]
    texts, font = readable(dict(enumerate(names)))
    best = sorted(there, key=lambda label: -figures.by_class[names[label]]["AP50"])[:SHOWN_CLASSES]
    colours = [f"C{index}" for index in range(10)]
    for index, label in enumerate(best):
        style = "-" if index < len(colours) else "--"
        text = f"{plain(texts[label])}  {figures.by_class[names[label]]['AP50']:.3f}"
        axes.plot(
            figures.recalls, figures.precisions[:, label], style, color=colours[index % 10], linewidth=1.2, label=text
        )
    if there:
        mean = figures.precisions[:, there].mean(axis=1)
        axes.plot(figures.recalls, mean, color="black", linewidth=2.5, label=f"all  {figures.coco['AP50']:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"IoU {IOU_OF_PICTURES:g}, at most {MAX_DETECTIONS} boxes a picture")
    axes.grid(alpha=0.3)
    if there:
        figure.legend(loc="outside right upper", prop=FontProperties(fname=font, size="small"), title="AP50")
    return _png(figure)


def confusion(matrix: np.ndarray, names: tuple[str, ...], threshold: float) -> bytes:
    """Draw a confusion matrix as a PNG.

    Args:
        matrix: int [classes + 1, classes + 1], rows what there is, columns what was found; the last of both is nothing.
        names: Of the classes.
        threshold: Scores that count are at least this.
    """
    shown = [*range(min(len(names), SHOWN_CLASSES)), len(names)]
    counts = matrix[np.ix_(shown, shown)]
    texts, font = readable(dict(enumerate(names[:SHOWN_CLASSES])))
    labels = [*map(plain, texts.values()), "nothing"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3 + 0.55 * len(labels)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", font=FontProperties(fname=font))
    axes.set_yticks(range(len(labels)), labels, font=FontProperties(fname=font))
    axes.set(xlabel="found", ylabel="there is", title=f"boxes at IoU {IOU_OF_PICTURES:g}, scores from {threshold:g}")
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
