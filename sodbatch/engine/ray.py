"""The Ray engine: the same stages as a stream of Ray Data. The one module that imports ``ray.data``.

The manifest is listed in this process and handed over in waves: a wave is a finite Ray Data job of whole blocks,
so that every retry inside it works on the same rows, the driver's memory stays bounded however long the manifest
is, and what a wave could not finish is simply still pending. The next wave is listed while one runs.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockAccessor
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sodbatch.config import Config
from sodbatch.engine.pipeline import InferSpec, Listener, Pipeline
from sodbatch.engine.resources import ActorPlan, Node, plan_actors
from sodbatch.engine.waves import cut, task_rows, waves
from sodbatch.errors import JobError, UsageError
from sodbatch.model.transfer import install_model_files, read_model_files
from sodbatch.predictor.base import usable_cpus
from sodbatch.storage import redact
from sodbatch.write import Write, Written

CONNECT_TIMEOUT_S = 10.0

RETRIES = 3
"""Retries of a task and restarts of an actor that died. Finite, unlike Ray Data's default: a picture that kills its
process must not loop for ever."""


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
        if not local:
            _check_answers(resources.ray_address or os.environ["RAY_ADDRESS"])
        with _quiet():
            try:
                ray.init(
                    address="local" if local else resources.ray_address,
                    num_cpus=max(2, usable_cpus()) if local else None,
                    include_dashboard=False if local else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except ConnectionError as error:
                address = resources.ray_address or os.environ.get("RAY_ADDRESS", "")
                raise UsageError(f"no Ray cluster answers at {redact(address)}: {redact(str(error))}") from error
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

    def run(self, pipeline: Pipeline, pending: Iterable[pa.Table], listener: Listener) -> None:
        """See :meth:`sodbatch.engine.pipeline.Engine.run`."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = self._config.Resources.no_progress_timeout_s
        context.actor_task_retry_on_errors = False
        # Each table that Load yields is over this size, and under the half more at which Ray Data would cut it.
        context.target_max_block_size = max(1, int(0.9 * pipeline.load.block_bytes))
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        monitor = ray.remote(_Monitor).options(num_cpus=0, scheduling_strategy=here).remote()
        model = (pipeline.infer, ray.put(read_model_files(pipeline.infer.folder)), node)
        with _Relay(monitor, listener), closing(waves(pending)) as listed:
            for wave in listed:
                blocks = cut(wave, task_rows(len(wave), self._cpus, pipeline.load.block_rows))
                try:
                    self._run_wave(pipeline, blocks, (*model, monitor))
                except (ray.exceptions.RayError, ray.data.exceptions.RayDataUserCodeException) as error:
                    raise _as_ours(error) from error

    def _run_wave(self, pipeline: Pipeline, blocks: list[pa.Table], actor_args: tuple[Any, ...]) -> None:
        loaded = ray.data.from_arrow(blocks).map_batches(
            pipeline.load,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self._config.Resources.cpus_per_load_task,
            ray_remote_args_fn=lambda: {"max_retries": RETRIES},
        )
        inferred = loaded.map_batches(
            _InferActor,
            fn_constructor_args=actor_args,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=self.actors.min_actors, max_size=self.actors.max_actors),
            num_cpus=self.actors.cpus,
            num_gpus=self.actors.gpus,
            ray_remote_args_fn=lambda: {"max_restarts": RETRIES, "max_task_retries": RETRIES},
        )
        sink = _Sink(pipeline.write, pipeline.shard_size, actor_args[-1])
        # Writes are brief and reserve no CPU: on a small machine they would wait until everything has been loaded.
        inferred.write_datasink(sink, ray_remote_args={"max_retries": RETRIES, "num_cpus": 0})


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster answers at {redact(address)}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Ray says while it starts, and from then on; its log files keep it. ``RAY_BACKEND_LOG_LEVEL`` asks
    for more: then nothing is silenced."""
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # inherited by what Ray starts; this process forgets it again
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", RayDeprecationWarning)
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        del os.environ["RAY_BACKEND_LOG_LEVEL"]
        os.dup2(stderr, 2)
        os.close(stderr)


def _node(resources: dict[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


class _InferActor:
    """An actor of the pool: holds the loaded detector; on other machines than the driver's, its files come along."""

    def __init__(self, spec: InferSpec, files: Any, drivers_node: str, monitor: Any) -> None:
        here = ray.get_runtime_context().get_node_id() == drivers_node
        if not here:
            spec = replace(spec, folder=install_model_files(spec.folder, ray.get(files)))
        self._infer, reason = spec.create()
        monitor.loaded.remote(reason)

    def __call__(self, loaded: pa.Table) -> pa.Table:
        return self._infer(loaded)


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
            self._monitor.written.remote(self._write(pa.concat_tables(tables)))


class _Monitor:
    """Collects what the workers report until the driver asks."""

    def __init__(self) -> None:
        self._news: list[Written | str] = []

    def written(self, written: Written) -> None:
        self._news.append(written)

    def loaded(self, backend: str) -> None:
        self._news.append(backend)

    def news(self) -> list[Written | str]:
        news, self._news = self._news, []
        return news


class _Relay:
    """Passes the monitor's news to the listener twice a second, and once more at the end."""

    def __init__(self, monitor: Any, listener: Listener) -> None:
        self._monitor = monitor
        self._listener = listener
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._pass_on()

    def _loop(self) -> None:
        while not self._ended.wait(0.5):
            self._pass_on()

    def _pass_on(self) -> None:
        try:
            news = ray.get(self._monitor.news.remote(), timeout=30)
        except ray.exceptions.RayError:
            return
        for item in news:
            if isinstance(item, Written):
                self._listener.written(item)
            else:
                self._listener.loaded(item)


def _as_ours(error: BaseException) -> UsageError | JobError:
    """Turn what Ray raises into one line: a worker's UsageError stays one, since trying again cannot help."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UsageError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    if cause is not None:
        return UsageError(str(cause))
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()] or [""]
    return JobError(redact(f"{type(cause).__name__}: {lines[-1].strip()}"))
