"""Connect: to a Ray cluster, or to one that is started here; what keeps Ray from working is said at once."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray.util.annotations import RayDeprecationWarning

from sodbatch.errors import UsageError
from sodbatch.predictor.base import usable_cpus
from sodbatch.storage import redact

CONNECT_TIMEOUT_S = 10.0

LEAST_FREE = 100 * 2**20
"""Bytes that Ray needs in its temporary folder: it writes its logs there, and objects in files of about this size."""


IDLE_WORKERS_STAY_MS = 600_000
"""How long a worker of a Ray that is started here may be idle before Ray ends it, in milliseconds. Ray's own second
would start workers, and the processes of their stages, again and again: each costs seconds."""


def connect(address: str | None) -> str:
    """Connect this process to a cluster; without an address to one that is started on this machine.

    Returns:
        Ray's folder on this machine, which holds its logs and the objects that do not fit into memory.

    Raises:
        UsageError: No cluster answers, or there is no room for Ray on the disk.
    """
    if address is not None:
        if "://" in address:
            raise UsageError(
                f"the Ray address {redact(address)} is a URL; run on a machine of the cluster with host:port or auto, "
                "or submit the job with ray job submit"
            )
        _check_answers(address)
    else:
        _check_room()
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(IDLE_WORKERS_STAY_MS))
    with _quiet():
        try:
            context = ray.init(
                address=address or "local",
                num_cpus=None if address else max(2, usable_cpus()),
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except ConnectionError as error:
            raise UsageError(f"no Ray cluster answers at {redact(address or '')}: {redact(str(error))}") from error
    return str(context.address_info["session_dir"])  # type: ignore[attr-defined] # known of its subclass only


def lack_of_room(folder: str) -> str | None:
    """Say that the disk of Ray's temporary folder is full; None while it is not."""
    free = shutil.disk_usage(folder).free
    if free >= LEAST_FREE:
        return None
    return (
        f"Ray's temporary folder {folder} is on a full disk ({free >> 20} MiB are left of the {LEAST_FREE >> 20} that "
        "Ray needs); make room there"
    )


def _check_room() -> None:
    folder = get_default_ray_temp_dir()
    os.makedirs(folder, exist_ok=True)
    if reason := lack_of_room(folder):
        raise UsageError(f"{reason}, or set RAY_TMPDIR to a folder on another disk")


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
