"""The inline engine: the stages one after another in this process, without Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pyarrow as pa

from sodbatch.config import Config
from sodbatch.engine.pipeline import Listener, Pipeline
from sodbatch.engine.resources import ActorPlan
from sodbatch.errors import UsageError
from sodbatch.predictor.base import default_device, usable_cpus


class InlineEngine:
    """Runs a pipeline in this process; satisfies :class:`sodbatch.engine.pipeline.Engine`."""

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

    def run(self, pipeline: Pipeline, pending: Iterable[pa.Table], listener: Listener) -> None:
        """See :meth:`sodbatch.engine.pipeline.Engine.run`."""
        infer = None
        shard: list[pa.Table] = []
        for rows in pending:
            if infer is None:
                infer, reason = pipeline.infer.create()
                listener.loaded(reason)
            for loaded in pipeline.load(rows):
                shard.append(infer(loaded))
                if sum(map(len, shard)) >= pipeline.shard_size:
                    listener.written(pipeline.write(pa.concat_tables(shard)))
                    shard = []
        if shard:
            listener.written(pipeline.write(pa.concat_tables(shard)))
