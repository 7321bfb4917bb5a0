"""``sodbatch predict`` with a predictor that does nothing, and blocks as a GPU has them: what the CPUs do beside it.

Takes the options of ``sodbatch predict``. The model folder gives the input's size and is not loaded.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace

import numpy as np

from sodbatch import cli, predict_job
from sodbatch.engine.pipeline import InferSpec, Pipeline
from sodbatch.engine.resources import ActorPlan
from sodbatch.job import Job
from sodbatch.job import build_pipeline as usual_pipeline
from sodbatch.stages import Infer, pictures_per_block
from sodbatch.write import Run


class NoopPredictor:
    """Finds nothing, at once."""

    name = "no-op"

    def predict(self, images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        """See :meth:`sodbatch.predictor.base.Predictor.predict`."""
        return [np.empty((0, 6), np.float32)] * len(images)


class NoopSpec(InferSpec):
    """Makes an Infer stage around a predictor that does nothing."""

    def create(self) -> tuple[Infer, str]:
        """See :meth:`sodbatch.engine.pipeline.InferSpec.create`."""
        folder = self.folder
        shape = folder.preprocess.shape
        infer = Infer(NoopPredictor(), self.threshold, folder.labels, folder.keep_top_k, shape, self.passthrough)
        return infer, "no-op"


def build_pipeline(job: Job, run: Run, actors: ActorPlan) -> Pipeline:
    """Build a job's pipeline, with the predictor and the blocks exchanged."""
    pipeline = usual_pipeline(job, run, actors)
    spec = NoopSpec(**{field.name: getattr(pipeline.infer, field.name) for field in fields(InferSpec)})
    load = replace(pipeline.load, block_rows=min(pipeline.shard_size, pictures_per_block(job.folder.preprocess)))
    return replace(pipeline, infer=spec, load=load)


if __name__ == "__main__":
    from benchmarks import noop  # this module by its name, under which other processes find its classes

    predict_job.build_pipeline = noop.build_pipeline  # type: ignore[attr-defined]
    sys.exit(cli.main(["predict", *sys.argv[1:]]))
