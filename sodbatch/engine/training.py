"""Ray Train with Paddle: workers that form one group, on CPUs through gloo, on GPUs through NCCL.

On GPUs untested on hardware; the environment variables and calls are those that Paddle documents.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.queue import Queue

from sodbatch.config import Config
from sodbatch.engine.connect import connect
from sodbatch.engine.ray import as_ours
from sodbatch.engine.resources import Node, Workers, plan_workers
from sodbatch.errors import JobError, UsageError

POLL_S = 0.5
"""How often the lines of the first worker are looked for."""


@dataclass
class PaddleConfig(BackendConfig):
    """Tells Ray Train to join its workers with Paddle."""

    gpu: bool = False

    @property
    def backend_cls(self) -> type[Backend]:
        return _PaddleBackend


class _PaddleBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Join the workers; each gets the addresses of all."""
        gpu = isinstance(backend_config, PaddleConfig) and backend_config.gpu
        endpoints = [f"{host}:{port}" for host, port in worker_group.execute(_address)]
        ray.get(
            [worker_group.execute_single_async(rank, _join, rank, endpoints, gpu) for rank in range(len(endpoints))]
        )


def _address() -> tuple[str, int]:
    from ray.train._internal.utils import get_address_and_port

    return get_address_and_port()


def _join(rank: int, endpoints: list[str], gpu: bool) -> None:
    os.environ.update(
        PADDLE_TRAINER_ID=str(rank),
        PADDLE_TRAINERS_NUM=str(len(endpoints)),
        PADDLE_CURRENT_ENDPOINT=endpoints[rank],
        PADDLE_TRAINER_ENDPOINTS=",".join(endpoints),
        PADDLE_MASTER=endpoints[0],
        PADDLE_DISTRI_BACKEND="nccl" if gpu else "gloo",
        FLAGS_selected_gpus="0",  # Ray shows each worker its own GPU only
    )
    import paddle
    import paddle.distributed

    paddle.device.set_device("gpu:0" if gpu else "cpu")
    if len(endpoints) > 1:
        paddle.distributed.init_parallel_env()


def train_on_ray(
    config: Config, make_loop: Callable[[Workers], Callable[[Callable[[str], None]], None]], say: Callable[[str], None]
) -> None:
    """Run a training on Ray until it is done; workers that die are started anew, ``Train.max_failures`` times.

    Args:
        config: Of the job.
        make_loop: Returns, for the workers there will be, what each of them runs; it is given what says a line.
        say: Takes the lines of the first worker.

    Raises:
        JobError: The training failed.
        UsageError: No cluster answers, or it has no room for the workers.
    """
    address = config.Resources.ray_address or os.environ.get("RAY_ADDRESS")
    gpu_ids = config.Global.device.partition(":")[2]
    if gpu_ids and address is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_ids
    connect(address)
    try:
        nodes = [
            Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]
        workers = plan_workers(nodes, config.Resources, config.Global.device, config.Train.batch_size)
        say(f"Ray Train: {workers}")
        lines = Queue(actor_options={"num_cpus": 0})
        listener = _Listener(lines, say)
        on_interrupt = signal.getsignal(signal.SIGINT)
        try:
            with tempfile.TemporaryDirectory(prefix="sodbatch-train-") as scratch:
                _fit(config, workers, _Told(make_loop(workers), lines), scratch)
        except (SystemExit, KeyboardInterrupt) as error:  # Ray exits after a Ctrl-C; the listener sends one too
            raise listener.error or KeyboardInterrupt from error
        except Exception as error:
            raise listener.error or as_ours(error) from error
        finally:
            if threading.current_thread() is threading.main_thread():  # in which Ray has set its own
                signal.signal(signal.SIGINT, on_interrupt)
            listener.close()
    finally:
        ray.shutdown()


class _Told:
    """A loop that tells the driver what it says, and of an error that trying again cannot help."""

    def __init__(self, loop: Callable[[Callable[[str], None]], None], lines: Queue) -> None:
        self._loop = loop
        self._lines = lines

    def __call__(self) -> None:
        try:
            self._loop(self._lines.put)
        except (JobError, UsageError) as error:
            self._lines.put(error)
            raise


class _Listener:
    """Says the lines of the workers, in a thread of its own; ends the training when one of them, or that, fails.

    Attributes:
        error: For which it has ended it.
    """

    def __init__(self, lines: Queue, say: Callable[[str], None]) -> None:
        self.error: JobError | UsageError | None = None
        self._lines = lines
        self._say = say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say what is left."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            last = self._ended.is_set()
            try:
                item = self._lines.get(timeout=POLL_S)
                if not isinstance(item, str):
                    raise item
                self._say(item)
            except Empty:
                if last:
                    return
            except (JobError, UsageError) as error:
                self.error = error
                if not last:
                    signal.raise_signal(signal.SIGINT)
                return
            except Exception:
                return  # Ray is going down


def _fit(config: Config, workers: Workers, loop: _Told, scratch: str) -> None:
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    trainer = DataParallelTrainer(
        loop,
        backend_config=PaddleConfig(gpu=workers.gpus > 0),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count, use_gpu=workers.gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            storage_path=scratch,
            failure_config=ray.train.FailureConfig(max_failures=config.Train.max_failures),
        ),
    )
    trainer.fit()
