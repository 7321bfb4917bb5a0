"""PaddleX beside sodbatch: which of its CPU modes work here, and which is fastest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import NAMES, ROOT, THRESHOLD, Setup, Table, in_turn, run
from sodbatch.model.folder import open_model_folder
from sodbatch.predictor.conversion import convert
from sodbatch.predictor.onnxruntime import ONNXRuntimePredictor
from sodbatch.predictor.paddle import PaddlePredictor

MODES = (("paddle", 1), ("mkldnn", 1), ("mkldnn", 4))
"""Run modes and batch sizes for a model folder as it is. Its high-performance plugin, whose wheel is on Paddle's own
server only, is another."""

LENT = ("onnxruntime", 1)
"""A mode that needs a converted graph in the folder: it is lent the one that sodbatch has converted, repaired and
checked."""


@dataclass(frozen=True)
class PaddleX:
    """One way to run PaddleX."""

    setup: Setup
    model: Path
    mode: str
    batch: int

    @property
    def name(self) -> str:
        """What tables call it."""
        lent = " on the graph converted by sodbatch" if self.mode == LENT[0] else ""
        return f"PaddleX, {self.mode}{lent}" + (f", batch {self.batch}" if self.batch > 1 else "")

    def seconds(self, count: int, boxes: Path | None = None, threshold: float = THRESHOLD) -> float:
        """Run it over so many pictures; return what the whole process took."""
        python, script = str(self.setup.paddlex_python), str(ROOT / "benchmarks" / "paddlex_predict.py")
        words = [NAMES["S"], str(self.model), str(self.setup.listing(count)), self.mode, str(self.batch)]
        words += [str(threshold), str(self.setup.threads), *([str(boxes)] if boxes else [])]
        return run([python, script, *words])[0]


def fastest(setup: Setup, model: Path) -> tuple[list[PaddleX], Table]:
    """Try every mode on a few pictures.

    Returns:
        The one that took least on the folder as it is and the one with a lent graph, if they work; and what all took.
    """
    if setup.paddlex_python is None:
        return [], Table("PaddleX was left out: no --paddlex-python", ["mode"], [])
    with_graph = _with_onnx_graph(setup, model)
    short, long = setup.size(4, 2), setup.size(16, 8)
    tried: dict[str, PaddleX] = {}
    failed: dict[str, str] = {}
    for mode, batch in (*MODES, LENT):
        paddlex = PaddleX(setup, with_graph if (mode, batch) == LENT else model, mode, batch)
        try:
            paddlex.seconds(short)
            tried[paddlex.name] = paddlex
        except SystemExit as error:
            failed[paddlex.name] = str(error).strip().splitlines()[-1]

    def taking(paddlex: PaddleX) -> Callable[[], float]:
        return lambda: (paddlex.seconds(long) - paddlex.seconds(short)) / (long - short)

    measured = in_turn(1, {name: taking(paddlex) for name, paddlex in tried.items()})
    seconds = {name: each for name, [each] in measured.items()}
    rows = [*seconds.items(), *((name, f"does not work: {why}") for name, why in failed.items())]
    title = f"PaddleX's CPU modes, tried once on {long} pictures (seconds a picture, from files to boxes)"
    ranked = sorted(tried.values(), key=lambda paddlex: seconds[paddlex.name])
    chosen = [paddlex for paddlex in ranked if paddlex.mode != LENT[0]][:1]
    chosen += [paddlex for paddlex in ranked if paddlex.mode == LENT[0]]
    return chosen, Table(title, ["mode", "s/picture"], rows)


def _with_onnx_graph(setup: Setup, model: Path) -> Path:
    """Return a folder like a model's, with the checked ONNX graph too, which PaddleX's own engine for it takes."""
    folder = setup.work / f"{model.name}-onnx"
    if folder.exists():
        return folder
    opened = open_model_folder(str(model))
    conversion = convert(
        opened,
        "onnxruntime",
        lambda graph: ONNXRuntimePredictor(graph, opened.preprocess),
        lambda: PaddlePredictor(opened),
    )
    folder.mkdir()
    for file in model.iterdir():
        os.symlink(file.resolve(), folder / file.name)
    if conversion.graph is not None:
        os.symlink(conversion.graph, folder / "inference.onnx")
    return folder
