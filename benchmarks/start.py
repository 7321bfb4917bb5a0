"""From the command to the boxes of one picture, beside what it takes to import the backend and load the model.

Target: with the inline engine, under twice the bare load. With Ray: what of it is Ray's own.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from benchmarks.measure import PREDICT, Result, Setup, Table, in_turn, predict_command, run
from sodbatch.model.folder import open_model_folder
from sodbatch.predictor.conversion import convert
from sodbatch.predictor.openvino import OpenVINOPredictor
from sodbatch.predictor.paddle import PaddlePredictor

BARE = """
import sys
import openvino
threads = int(sys.argv[2])
core = openvino.Core()
core.compile_model(core.read_model(sys.argv[1]), "CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads})
"""


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    model, listing = setup.model("S"), setup.listing(1)
    folder = open_model_folder(str(model))
    graph = convert(
        folder,
        "openvino",
        lambda path: OpenVINOPredictor(path, folder.preprocess),
        lambda: PaddlePredictor(folder),
    ).graph
    bare = "import OpenVINO and load the model, no more"
    bare_ray = "Ray alone: a job of the same shape that does nothing"

    def predict(engine: str) -> Callable[[], float]:
        return lambda: run(predict_command(PREDICT, model, listing, setup.output(), Predict__engine=engine))[0]

    tools: dict[str, Callable[[], float]] = {
        bare: lambda: run([sys.executable, "-c", BARE, str(graph), str(setup.threads)])[0],
        bare_ray: lambda: run([sys.executable, "-m", "benchmarks.bare_ray", "1", "1228800", "16"])[0],
        "sodbatch predict, inline": predict("inline"),
        "sodbatch predict, Ray": predict("ray"),
    }
    measured = in_turn(setup.size(5, 1), tools)
    seconds = {name: statistics.median(each) for name, each in measured.items()}
    rows = [[name, value, value / seconds[bare], value / seconds[bare_ray]] for name, value in seconds.items()]
    title = f"Start: one picture, S at 640, medians of {setup.size(5, 1)} rounds in turn"
    header = ["whole command", "s", "of the bare load", "of Ray alone"]
    return Result([Table(title, header, rows)], measured)
