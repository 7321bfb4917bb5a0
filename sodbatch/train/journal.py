"""What a training says and keeps of its course: ``train.log``, the table and the picture of its losses."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sodbatch.storage import Storage
from sodbatch.tables import to_parquet

LOSSES = pa.schema(
    [
        pa.field("step", pa.int64(), metadata={"doc": "from 0"}),
        pa.field("epoch", pa.int32(), metadata={"doc": "from 0"}),
        pa.field("learning_rate", pa.float64()),
        pa.field("loss", pa.float64()),
        pa.field("loss_cls", pa.float64()),
        pa.field("loss_iou", pa.float64()),
        pa.field("loss_dfl", pa.float64()),
    ]
)
EVALUATIONS = pa.schema(
    [
        pa.field("epoch", pa.int32(), metadata={"doc": "epochs done"}),
        pa.field("step", pa.int64(), metadata={"doc": "steps done"}),
        pa.field("AP", pa.float64()),
        pa.field("AP50", pa.float64()),
    ]
)
SMOOTHED_OVER = 20
"""Most steps that the bold line of the picture is the mean of, of short trainings fewer."""


class Journal:
    """Written by one worker, at every epoch's end; a training that goes on goes on in it.

    Args:
        output: Folder of the training.
        storage: Reads and writes it.
        say: Shows a line to the user.
        epoch: Epochs that are done: what an earlier process did after them, which was lost, is taken out.
    """

    def __init__(self, output: str, storage: Storage, say: Callable[[str], None], epoch: int) -> None:
        self._output = output
        self._storage = storage
        self._say = say
        self._lines: list[str] = []
        self._losses: list[dict[str, Any]] = []
        self._evaluations: list[dict[str, Any]] = []
        if epoch:
            self._lines = self._old("train.log").decode(errors="replace").splitlines()
            self._losses = [row for row in self._old_rows("losses.parquet") if row["epoch"] < epoch]
            self._evaluations = [row for row in self._old_rows("evaluations.parquet") if row["epoch"] <= epoch]

    def say(self, line: str) -> None:
        """Show a line and keep it for ``train.log``."""
        self._say(line)
        self._lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def add_loss(self, **row: Any) -> None:
        """Keep the losses of one step, by the names of :data:`LOSSES`."""
        self._losses.append(row)

    def add_evaluation(self, **row: Any) -> None:
        """Keep one evaluation, by the names of :data:`EVALUATIONS`."""
        self._evaluations.append(row)

    def write(self) -> None:
        """Write everything."""
        losses = pa.Table.from_pylist(self._losses, schema=LOSSES)
        evaluations = pa.Table.from_pylist(self._evaluations, schema=EVALUATIONS)
        for name, data in (
            ("train.log", ("\n".join(self._lines) + "\n").encode()),
            ("losses.parquet", to_parquet(losses)),
            ("evaluations.parquet", to_parquet(evaluations)),
            ("losses.png", draw_losses(losses, evaluations)),
        ):
            self._storage.write_atomic(f"{self._output}/{name}", data)

    def _old(self, name: str) -> bytes:
        url = f"{self._output}/{name}"
        return self._storage.read_bytes(url) if self._storage.exists(url) else b""

    def _old_rows(self, name: str) -> list[dict[str, Any]]:
        data = self._old(name)
        return pq.read_table(pa.BufferReader(data)).to_pylist() if data else []


def draw_losses(losses: pa.Table, evaluations: pa.Table) -> bytes:
    """Draw losses by step, and AP by step below them, as a PNG."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps = losses["step"].to_numpy()
    for name, colour in (
        ("loss", "black"),
        ("loss_cls", "tab:blue"),
        ("loss_iou", "tab:orange"),
        ("loss_dfl", "tab:green"),
    ):
        values = losses[name].to_numpy()
        above.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        if len(values):
            width = min(SMOOTHED_OVER, 1 + len(values) // SMOOTHED_OVER)
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            above.plot(steps[width - 1 :], smooth, color=colour, linewidth=1.5, label=name)
    above.set_ylabel("loss")
    above.set_ylim(bottom=0)
    if len(steps):
        above.legend()
    for name, marker in (("AP", "o"), ("AP50", "s")):
        below.plot(
            evaluations["step"].to_numpy(), evaluations[name].to_numpy(), marker=marker, markersize=3, label=name
        )
    below.set_xlabel("step")
    below.set_ylabel("on val")
    below.set_ylim(0, max([0.1, *evaluations["AP50"].to_pylist()]) * 1.1)
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
