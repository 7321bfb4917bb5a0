"""The inline engine: the stages one after another on this machine, without Ray.

Load and Infer have a process each, so that one reads ahead while the other predicts.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from queue import SimpleQueue

import pyarrow as pa

from sodbatch.config import Config
from sodbatch.engine.pipeline import Listener, Loads, Pipeline
from sodbatch.engine.resources import ActorPlan
from sodbatch.errors import UsageError
from sodbatch.predictor.base import default_device, usable_cpus
from sodbatch.quarantine import IsolatedInfer, IsolatedLoad


class InlineEngine:
    """Runs a pipeline on this machine; satisfies :class:`sodbatch.engine.pipeline.Engine`."""

    def __init__(self, config: Config) -> None:
        device, _, gpu_ids = config.Global.device.partition(":")
        if device == "auto":
            device = default_device()
        if device == "gpu" and config.Predict.backend != "onnxruntime" and default_device() != "gpu":
            raise UsageError(
                "Global.device is gpu, but Paddle sees none; install paddlepaddle-gpu on a machine with an NVIDIA GPU, "
                "or use Global.device=cpu"
            )
        if gpu_ids:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu_ids.split(",")[0]
        named = config.Resources.threads_per_actor
        threads = usable_cpus() if named == "auto" else named
        self.actors = ActorPlan(1, 1, float(threads), 1.0 if device == "gpu" else 0.0, threads)
        self.description = f"inline on {device}, {threads} threads"

    def __enter__(self) -> InlineEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, stage: Loads, stall_s: float, pending: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """See :meth:`sodbatch.engine.pipeline.Engine.read`."""
        free: SimpleQueue[IsolatedLoad] = SimpleQueue()

        def read(rows: pa.Table) -> list[pa.Table]:
            isolated = free.get()
            try:
                return list(isolated(rows))
            finally:
                free.put(isolated)

        with ExitStack() as held, ThreadPoolExecutor(self.actors.threads) as pool:
            for _ in range(self.actors.threads):
                isolated = IsolatedLoad(stage, stall_s)
                held.callback(isolated.close)
                free.put(isolated)
            for tables in pool.map(read, pending):
                yield from tables

    def run(self, pipeline: Pipeline, pending: Iterable[pa.Table], listener: Listener) -> None:
        """See :meth:`sodbatch.engine.pipeline.Engine.run`."""
        load = IsolatedLoad(pipeline.load, pipeline.load_stall_s)
        infer = IsolatedInfer(pipeline.infer, pipeline.infer_stall_s)
        shard: list[pa.Table] = []
        with closing(load), closing(infer):
            load.start()
            listener.loaded(infer.reason())
            for loaded in itertools.chain.from_iterable(map(load, pending)):
                shard.append(infer(loaded))
                if sum(map(len, shard)) >= pipeline.shard_size:
                    listener.written(pipeline.write(pa.concat_tables(shard)))
                    shard = []
                listener.check()
        if shard:
            listener.written(pipeline.write(pa.concat_tables(shard)))
