"""Charts of a data set: how classes, sizes and places of its boxes are distributed."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from sodbatch.dataset.coco import Part
from sodbatch.dataset.records import rows_of
from sodbatch.fonts import plain, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL, MEDIUM = 32.0, 96.0
"""Sides in pixels of the squares at which COCO's small and medium boxes end."""

HIGHEST = 1e9
"""What is more than this, which no picture has, is shown as this."""

WIDEST = 60.0
"""Of the histogram, in inches."""

_COLORS = {"train": "#3b6fb6", "val": "#e08a2e"}
_HEAT_CELLS = 40


def histogram(parts: list[Part]) -> bytes:
    """Draw the annotations of each class, train beside val, most frequent first; a PNG, as PaddleX's."""
    figure, axes = _figure(1, 1, min(WIDEST, max(8.0, len(_names(parts)) / 5)), 5.0)
    _class_bars(axes[0], parts)
    return _png(figure)


def overview(parts: list[Part]) -> bytes:
    """Draw box areas, aspects, boxes a picture, where boxes sit, and sizes of pictures; a PNG."""
    figure, axes = _figure(2, 3, 18.0, 10.0)
    draws = (_class_bars, _areas, _aspects, _boxes_a_picture, _places, _picture_sizes)
    with np.errstate(all="ignore"):  # boxes may have any numbers
        for each, drawing in zip(axes, draws):
            drawing(each, parts)
    return _png(figure)


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel().tolist()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _names(parts: list[Part]) -> dict[int, str]:
    return {identity: name for part in parts for identity, name in part.categories}


def class_counts(part: Part) -> Counter[int]:
    """Return the annotations of each category id."""
    values, counts = np.unique(part.boxes.category_ids, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist())))


def _class_bars(axes: Axes, parts: list[Part]) -> None:
    from matplotlib.font_manager import FontProperties

    names, counts = _names(parts), [class_counts(part) for part in parts]
    ids = sorted(names, key=lambda identity: -counts[0][identity])
    for i, (part, count) in enumerate(zip(parts, counts)):
        places = np.arange(len(ids)) + (i - 0.5) * 0.4
        axes.bar(places, [count[identity] for identity in ids], 0.4, label=part.name, color=_COLORS[part.name])
    texts, font = readable(names)
    shown = [plain(texts[identity]) for identity in ids]
    axes.set_xticks(np.arange(len(ids)), shown, rotation=90, font=FontProperties(fname=font))
    axes.set_ylabel("annotations")
    axes.set_title("annotations by class")
    axes.legend(frameon=False, loc="upper right")


def _areas(axes: Axes, parts: list[Part]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        areas = [_positive(part.boxes.xywh[:, 2] * part.boxes.xywh[:, 3]) for part in parts]
    _log_histogram(axes, parts, areas, low=1.0)
    for side, label in ((SMALL, "32 x 32"), (MEDIUM, "96 x 96")):
        axes.axvline(side * side, color="0.3", linestyle="--", linewidth=1)
        axes.text(side * side * 1.05, 0.98, label, transform=axes.get_xaxis_transform(), va="top", fontsize=8)
    axes.set_xlabel("box area (pixels)")
    everything = np.concatenate(areas)
    small = np.mean(everything < SMALL * SMALL) if len(everything) else 0.0
    axes.set_title(f"box area: {small:.0%} are small (under 32 x 32)")


def _aspects(axes: Axes, parts: list[Part]) -> None:
    ratios = [_positive(part.boxes.xywh[:, 2] / part.boxes.xywh[:, 3]) for part in parts]
    _log_histogram(axes, parts, ratios, low=0.05)
    axes.set_xlabel("width / height")
    axes.set_title("aspect of boxes")


def _boxes_a_picture(axes: Axes, parts: list[Part]) -> None:
    counts = [np.bincount(_owners(part), minlength=len(part.images.ids)) for part in parts]
    most = max((int(count.max()) for count in counts if len(count)), default=1)
    bins = np.linspace(0, most + 1, min(40, most + 2))
    for part, count in zip(parts, counts):
        axes.hist(count, bins.tolist(), alpha=0.7, label=part.name, color=_COLORS[part.name])
    axes.set_xlabel("boxes")
    axes.set_ylabel("pictures")
    axes.set_title("boxes a picture")
    axes.legend(frameon=False, loc="upper right")


def _places(axes: Axes, parts: list[Part]) -> None:
    """Centres of boxes, as shares of the sides of their pictures."""
    heat = np.zeros((_HEAT_CELLS, _HEAT_CELLS))
    for part in parts:
        owner = rows_of(part.images.ids, part.boxes.image_ids)
        known = owner >= 0
        size = part.images.sizes[owner[known]]
        centres = (part.boxes.xywh[known, :2] + part.boxes.xywh[known, 2:] / 2) / size
        cells = [np.linspace(0, 1, _HEAT_CELLS + 1)] * 2
        heat += np.histogram2d(centres[:, 1], centres[:, 0], bins=cells)[0]
    shown = axes.imshow(heat, extent=(0, 1, 1, 0), aspect="auto", cmap="viridis")
    axes.figure.colorbar(shown, ax=axes, label="boxes")
    axes.set_xlabel("from left to right")
    axes.set_ylabel("from top to bottom")
    axes.set_title("where the centres of boxes lie in their pictures")


def _picture_sizes(axes: Axes, parts: list[Part]) -> None:
    for part in parts:
        sizes, counts = np.unique(part.images.sizes, axis=0, return_counts=True)
        area = 20 + 200 * counts / max(1, counts.max(initial=1))
        axes.scatter(sizes[:, 0], sizes[:, 1], area, alpha=0.6, label=part.name, color=_COLORS[part.name])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("width (pixels)")
    axes.set_ylabel("height (pixels)")
    axes.set_title("sizes of pictures (larger: more of them)")
    axes.legend(frameon=False, loc="lower left")


def _log_histogram(axes: Axes, parts: list[Part], values: list[np.ndarray], low: float) -> None:
    most = min(HIGHEST, max((float(value.max()) for value in values if len(value)), default=low))
    bins = np.geomspace(low, max(most, low * 10) * 1.01, 50)
    for part, value in zip(parts, values):
        axes.hist(np.clip(value, low, most), bins.tolist(), alpha=0.7, label=part.name, color=_COLORS[part.name])
    axes.set_xscale("log")
    axes.set_ylabel("boxes")
    axes.legend(frameon=False, loc="center right")


def _owners(part: Part) -> np.ndarray:
    owner = rows_of(part.images.ids, part.boxes.image_ids)
    return owner[owner >= 0]


def _positive(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values) & (values > 0)]
