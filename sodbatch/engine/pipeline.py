"""The stages of one job, put together: what an engine runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from sodbatch.engine.resources import ActorPlan
from sodbatch.errors import PictureError, UsageError
from sodbatch.model.folder import ModelFolder
from sodbatch.stages import Infer, InHand, Load
from sodbatch.threshold import Threshold
from sodbatch.write import Write, Written


class Loads(Protocol):
    """A stage that reads pictures: :class:`sodbatch.stages.Load`, or one that is called as it is."""

    def __call__(self, pending: pa.Table, in_hand: InHand, /) -> Iterator[pa.Table]:
        """Yield tables with ``input_id``, ``page_index`` and ``page_count`` of what has been read."""

    def failed(self, row: pa.Table, page_index: int | None, page_count: int, error: PictureError) -> pa.Table:
        """Return what is yielded for a pending row, or one of its pages, that cannot be read."""


@dataclass(frozen=True)
class InferSpec:
    """What it takes to make the Infer stage in the process that runs it.

    Attributes:
        folder: The model.
        threshold: Scores that count, by class.
        backend, precision, tensorrt, batch_size: As in the configuration's ``Predict`` section.
        device: ``cpu`` or ``gpu``.
        threads: CPU threads of the predictor.
        passthrough: The manifest's own columns.
    """

    folder: ModelFolder
    threshold: Threshold
    backend: str
    precision: str
    tensorrt: bool
    batch_size: int
    device: str
    threads: int
    passthrough: pa.Schema

    def create(self) -> tuple[Infer, str]:
        """Load the model; return the stage and which backend was chosen, and why.

        Raises:
            UsageError: The model cannot be loaded.
        """
        from sodbatch.predictor import create_predictor

        try:
            predictor, reason = create_predictor(
                self.folder,
                backend=self.backend,
                device=self.device,
                threads=self.threads,
                score_floor=self.threshold.floor,
                precision=self.precision,
                tensorrt=self.tensorrt,
                batch_size=self.batch_size,
            )
        except UsageError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"the model in {self.folder.path} cannot be loaded, is it whole? {lines[0]}") from error
        folder = self.folder
        stage = Infer(
            predictor, self.threshold, folder.labels, folder.keep_top_k, folder.preprocess.shape, self.passthrough
        )
        return stage, reason


@dataclass(frozen=True)
class Pipeline:
    """The three stages, how rows are grouped before the last, and when a stage is taken for stuck.

    Attributes:
        load: Pending rows to pixels.
        infer: How to make the stage from pixels to boxes.
        write: Boxes to parts.
        shard_size: Rows of one part.
        load_stall_s: The longest that Load may be busy with one picture or page.
        infer_stall_s: The longest that Infer may take for one picture.
    """

    load: Load
    infer: InferSpec
    write: Write
    shard_size: int
    load_stall_s: float
    infer_stall_s: float


class Listener(Protocol):
    """Whom an engine tells how it goes, in the thread that called :meth:`Engine.run`.

    What one of these methods raises ends the run at once.
    """

    def check(self) -> None:
        """Called about twice a second, or after each block: the moment to end the run."""

    def written(self, written: Written) -> None:
        """A part has been committed."""

    def loaded(self, backend: str) -> None:
        """A model has been loaded: which backend was chosen, and why."""


class Engine(Protocol):
    """What runs a pipeline; entered before use, so that it can start and stop what it needs.

    Attributes:
        actors: The pool that holds the detector; known once entered.
        description: The same in words.
    """

    actors: ActorPlan
    description: str

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def read(self, stage: Loads, stall_s: float, pending: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Run one stage that reads pictures, on CPUs alone; yield what it yields, in any order.

        Args:
            stage: What is done.
            stall_s: The longest that it may be busy with one picture.
            pending: Tables of :data:`sodbatch.tables.PENDING` and the passed-through columns.

        Raises:
            JobError: The work could not go on.
        """

    def run(self, pipeline: Pipeline, pending: Iterable[pa.Table], listener: Listener) -> None:
        """Run the pipeline over pending rows; parts are committed as they fill.

        Args:
            pipeline: The stages.
            pending: Tables of :data:`sodbatch.tables.PENDING` and the passed-through columns.
            listener: Told of the backend and of each part.

        Raises:
            JobError: The engine gave up; what is committed stays.
        """
