"""The pipeline around a predictor that does nothing, beside a plain loop that reads, decodes and resizes.

That is what a GPU needs from the CPUs, so actors reserve hardly any CPU here. Target: 0.6 of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from benchmarks.measure import NOOP, Result, Setup, Table, Tool, predict_command, ratio, run, script, steady

LOOPS = ("threads", "processes")
LIKE_A_GPU = {
    "Output__shard_size": 1024,
    "Resources__actors": 1,
    "Resources__cpus_per_actor": 0.1,
    "Resources__cpus_per_load_task": 0.9,
}


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    short, long = setup.size(1500, 200), setup.size(6000, 1000)
    model = setup.model("S")

    def pipeline(engine: str) -> Callable[[int], float]:
        keys = {"Predict__engine": engine, **LIKE_A_GPU}
        return lambda count: run(predict_command(NOOP, model, setup.listing(count), setup.output(), **keys))[0]

    def loop(kind: str) -> Callable[[int], float]:
        return lambda count: script("plain_loop", setup.listing(count), 640, setup.threads, kind)["seconds"]

    tools = {f"plain loop, {setup.threads} {kind}": Tool(loop(kind), 0, long) for kind in LOOPS}
    loops = list(tools)
    tools |= {
        f"sodbatch, {engine}, no-op predictor": Tool(pipeline(engine), short, long) for engine in ("ray", "inline")
    }
    measured = steady(setup.rounds, tools)
    best = max((measured[name] for name in loops), key=lambda value: value.rate)
    title = (
        f"No-op predictor, 640 x 640, {setup.threads} cores: steady rates from runs of {short} and {long} pictures, "
        f"medians of {setup.rounds} rounds in turn"
    )
    rows = [[name, value.rate, ratio(value, best)] for name, value in measured.items()]
    table = Table(title, ["", "pictures/s, steady", "of the faster loop"], rows)
    return Result([table], {name: asdict(value) for name, value in measured.items()})
