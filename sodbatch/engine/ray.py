"""The Ray engine: the same stages as a stream of Ray Data. The one module that imports ``ray.data``.

The manifest is listed in this process and handed over in waves: a wave is a finite Ray Data job of whole blocks,
so that every retry inside it works on the same rows, the driver's memory stays bounded however long the manifest
is, and what a wave could not finish is simply still pending. The next wave is listed while one runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockAccessor
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sodbatch.config import Config
from sodbatch.engine.connect import connect, lack_of_room
from sodbatch.engine.pipeline import InferSpec, Listener, Loads, Pipeline
from sodbatch.engine.resources import ActorPlan, Node, plan_actors
from sodbatch.engine.waves import bytes_ahead, cut, task_rows, wave_rows, waves
from sodbatch.errors import JobError, RunEndedError, UsageError
from sodbatch.model.transfer import install_model_files, read_model_files
from sodbatch.quarantine import IsolatedInfer, IsolatedLoad
from sodbatch.storage import redact
from sodbatch.write import Write, Written

FOREVER = -1
"""Retries of tasks and restarts of actors: what dies with a machine says nothing about the pictures."""

GIVE_UP_S = 60.0
"""The longest that Ray Data is waited for when a run is given up."""

FULL_DISK_S = 60.0
"""How long a run whose Ray has a full disk may stand still: Ray itself would try again for ever."""


class RayEngine:
    """Runs a pipeline on Ray; satisfies :class:`sodbatch.engine.pipeline.Engine`.

    Connects to ``Resources.ray_address``, else to ``RAY_ADDRESS`` (set in submitted jobs), else starts Ray on this
    machine and stops it at the end.
    """

    actors: ActorPlan
    description: str

    def __init__(self, config: Config) -> None:
        self._config = config

    def __enter__(self) -> RayEngine:
        resources = self._config.Resources
        local = resources.ray_address is None and "RAY_ADDRESS" not in os.environ
        device, _, gpu_ids = self._config.Global.device.partition(":")
        if gpu_ids and local:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu_ids
        self._folder = connect(None if local else resources.ray_address or os.environ["RAY_ADDRESS"])
        try:
            nodes = [_node(entry["Resources"]) for entry in ray.nodes() if entry["Alive"]]
            if device == "auto":
                device = "gpu" if any(node.gpus for node in nodes) else "cpu"
            self.actors = plan_actors(nodes, resources, device, max_gpus=len(gpu_ids.split(",")) if gpu_ids else None)
        except BaseException:
            ray.shutdown()
            raise
        self._cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        self.description = f"Ray: {self._cpus:g} CPUs and {gpus:g} GPUs, machines: {len(nodes)}; {self.actors}"
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def read(self, stage: Loads, stall_s: float, pending: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """See :meth:`sodbatch.engine.pipeline.Engine.read`."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = int(self._config.Resources.no_progress_timeout_s)
        isolated = IsolatedLoad(stage, stall_s)
        try:
            with closing(waves(pending, wave_rows(self.actors))) as listed:
                for wave in listed:
                    blocks = cut(wave, task_rows(len(wave), self._cpus, 1))
                    read = ray.data.from_arrow(blocks).map_batches(isolated, **self._on_cpus())
                    yield from read.iter_batches(batch_size=None, batch_format="pyarrow")
        except ray.exceptions.RayError as error:
            raise as_ours(error) from error

    def run(self, pipeline: Pipeline, pending: Iterable[pa.Table], listener: Listener) -> None:
        """See :meth:`sodbatch.engine.pipeline.Engine.run`."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = -1  # never: see _watch
        context.actor_task_retry_on_errors = False
        context.custom_execution_callback_classes = [_Brake]
        # Each table that Load yields is over this size, and under the half more at which Ray Data would cut it.
        context.target_max_block_size = max(1, int(0.9 * pipeline.load.block_bytes))
        ahead = bytes_ahead(self.actors, self._cpus, pipeline.load.block_bytes)
        context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=ahead)
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        monitor = ray.remote(_Monitor).options(num_cpus=0, max_restarts=FOREVER, scheduling_strategy=here).remote()
        model = (pipeline.infer, pipeline.infer_stall_s, ray.put(read_model_files(pipeline.infer.folder)), node)
        work = _Work(lambda: self._run_waves(pipeline, pending, (*model, monitor)))
        try:
            self._watch(work, monitor, listener)
        except BaseException:
            work.give_up()
            raise
        if work.error is not None:
            raise as_ours(work.error) from work.error

    def _watch(self, work: _Work, monitor: Any, listener: Listener) -> None:
        """Pass on the monitor's news while Ray works; end the run when there has been none for too long.

        Raises:
            RunEndedError: Nothing was heard for too long.
        """
        heard = time.monotonic()
        while True:
            ended = work.wait(0.5)
            news = _news(monitor)
            for item in news:
                if isinstance(item, Written):
                    listener.written(item)
                elif item is not None:
                    listener.loaded(item)
            listener.check()
            if ended:
                return
            if any(not isinstance(item, str) for item in news):  # a model that was loaded again is no progress
                heard = time.monotonic()
            self._check_progress(time.monotonic() - heard)

    def _check_progress(self, silent_s: float) -> None:
        """End a run that stands still. Restarts and retries are for ever, so that machines may come and go for days;
        this is their bound.

        Raises:
            RunEndedError: Nothing was heard for ``Resources.no_progress_timeout_s``, or less on a full disk.
        """
        timeout_s = self._config.Resources.no_progress_timeout_s
        if silent_s > min(timeout_s, FULL_DISK_S) and (reason := lack_of_room(self._folder)):
            raise RunEndedError(
                f"no picture was finished in {silent_s:.0f} s, and {reason}; what is committed stays, and the same "
                "command goes on"
            )
        if silent_s > timeout_s:
            raise RunEndedError(
                f"no picture was finished in {timeout_s:g} s (Resources.no_progress_timeout_s): the actors do not "
                "start, hang, or the cluster has not the resources they reserve; ray status shows which"
            )

    def _run_waves(self, pipeline: Pipeline, pending: Iterable[pa.Table], actor_args: tuple[Any, ...]) -> None:
        load = IsolatedLoad(pipeline.load, pipeline.load_stall_s)
        with closing(waves(pending, wave_rows(self.actors))) as listed:
            for wave in listed:
                if _Brake.pulled:
                    return
                blocks = cut(wave, task_rows(len(wave), self._cpus, pipeline.load.block_rows))
                self._run_wave(pipeline, load, blocks, actor_args)

    def _run_wave(
        self, pipeline: Pipeline, load: IsolatedLoad, blocks: list[pa.Table], actor_args: tuple[Any, ...]
    ) -> None:
        loaded = ray.data.from_arrow(blocks).map_batches(load, **self._on_cpus())
        inferred = loaded.map_batches(
            _InferActor,
            fn_constructor_args=actor_args,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=self.actors.min_actors, max_size=self.actors.max_actors),
            num_cpus=self.actors.cpus,
            num_gpus=self.actors.gpus,
            ray_remote_args_fn=lambda: {"max_restarts": FOREVER, "max_task_retries": FOREVER},
        )
        sink = _Sink(pipeline.write, pipeline.shard_size, actor_args[-1])
        # Writes are brief and reserve no CPU: on a small machine they would wait until everything has been loaded.
        inferred.write_datasink(sink, ray_remote_args={"max_retries": FOREVER, "num_cpus": 0})

    def _on_cpus(self) -> dict[str, Any]:
        """Return how a stage that reads pictures is run."""
        return {
            "batch_size": None,
            "batch_format": "pyarrow",
            "num_cpus": self._config.Resources.cpus_per_load_task,
            "ray_remote_args_fn": lambda: {"max_retries": FOREVER},
        }


def _node(resources: dict[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


class _InferActor:
    """An actor of the pool: its child holds the loaded detector; on other machines than the driver's, its files come
    along."""

    def __init__(self, spec: InferSpec, stall_s: float, files: Any, drivers_node: str, monitor: Any) -> None:
        here = ray.get_runtime_context().get_node_id() == drivers_node
        if not here:
            spec = replace(spec, folder=install_model_files(spec.folder, ray.get(files)))
        self._infer = IsolatedInfer(spec, stall_s)
        self._monitor = monitor
        monitor.say.remote(self._infer.reason())

    def __call__(self, loaded: pa.Table) -> pa.Table:
        inferred = self._infer(loaded)
        self._monitor.say.remote(None)
        return inferred


class _Sink(ray.data.Datasink[None]):
    """Hands blocks of about a shard to Write, which commits them itself."""

    def __init__(self, write: Write, shard_size: int, monitor: Any) -> None:
        self._write = write
        self._shard_size = shard_size
        self._monitor = monitor

    @property
    def min_rows_per_write(self) -> int:
        return self._shard_size

    def write(self, blocks: Iterable[Any], ctx: Any) -> None:
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        if any(map(len, tables)):
            self._monitor.say.remote(self._write(pa.concat_tables(tables)))


class _Monitor:
    """Collects what the workers report until the driver asks: parts written, backends loaded, None for a block done."""

    def __init__(self) -> None:
        self._news: list[Written | str | None] = []

    def say(self, item: Written | str | None) -> None:
        self._news.append(item)

    def news(self) -> list[Written | str | None]:
        news, self._news = self._news, []
        return news


def _news(monitor: Any) -> list[Written | str | None]:
    try:
        return list(ray.get(monitor.news.remote(), timeout=30))
    except ray.exceptions.RayError:  # it is being restarted; what it had heard is lost, and shown by no count
        return []


class _Brake(ExecutionCallback):
    """Ends Ray Data's work in the thread that does it, between two of its steps."""

    pulled = False

    def on_execution_step(self, executor: Any) -> None:
        if _Brake.pulled:
            raise RunEndedError("given up")


class _Work:
    """A call that works with Ray Data, in a thread of its own; its error is kept."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, name="ray data", daemon=True)
        _Brake.pulled = False
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; tell whether it is there."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """End it now. It must not outlive Ray: a thread that asks what has been shut down starts Ray anew, or ends this
        process without a word."""
        _Brake.pulled = True
        self._thread.join(GIVE_UP_S)

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.error = error


def as_ours(error: BaseException) -> UsageError | JobError:
    """Turn what Ray raises into one line: a worker's UsageError or RunEndedError stays one, since trying again cannot
    help."""
    cause: BaseException | None = error
    while cause is not None:
        twin = isinstance(cause, ray.exceptions.RayTaskError)  # of its cause's class too, but its text is a traceback
        if isinstance(cause, (UsageError, RunEndedError)) and not twin:
            return type(cause)(str(cause).partition("\n")[0])  # Ray Data adds advice on retries in further lines
        if isinstance(cause, (ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError)):
            return RunEndedError(
                "Ray's object store and the disk of its temporary folder are full; what is committed stays, and once "
                "there is room the same command goes on"
            )
        cause = getattr(cause, "cause", None) or cause.__cause__
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()] or [""]
    return JobError(redact(f"{type(cause).__name__}: {lines[-1].strip()}"))
