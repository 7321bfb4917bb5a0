"""Checkpoints as PaddleX names them: ``OUT/NAME/NAME.pdparams``, ``.pdema``, ``.pdopt`` and ``.pdstates``.

``.pdparams`` has the averaged weights, which are evaluated and exported; ``.pdema`` the weights that learn, ``.pdopt``
the optimiser's velocities by parameter name, ``.pdstates`` where the training stands. The last is written last: a
checkpoint without it is none.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import paddle

from sodbatch.errors import UsageError
from sodbatch.model.weights import State, read_pdparams, read_saved
from sodbatch.storage import Storage, absolute, display_uri, local_path

KEPT = 5
"""Checkpoints of the last epochs that are kept, beside the best."""

BEST, FINAL = "best_model", "model_final"

EPOCH = re.compile(rf"/(\d+|{FINAL})/\1\.pdstates$")
"""How the path of a checkpoint of an epoch ends."""


@dataclass(frozen=True)
class Standing:
    """Where a training stands.

    Attributes:
        epoch: Epochs done.
        metric: AP of this checkpoint, -1 where it was not evaluated.
        best_metric: The best AP so far, -1 before the first.
        best_epoch: Epochs done at the best.
        average_steps: Steps that the moving average has seen.
        average_mass: Its weight.
        global_batch: Pictures of one step of all workers.
        labels: Class names, in the order of the class ids.
        settings: Fingerprint of what must not change in a training that goes on.
    """

    epoch: int
    metric: float
    best_metric: float
    best_epoch: int
    average_steps: int
    average_mass: float
    global_batch: int
    labels: tuple[str, ...]
    settings: str


@dataclass(frozen=True)
class Checkpoint:
    """A training that can go on.

    Attributes:
        averaged: Averaged weights by parameter name.
        live: The weights that learn.
        velocities: Of the optimiser, by parameter name.
        standing: Where it stands.
    """

    averaged: State
    live: State
    velocities: State
    standing: Standing


def save(checkpoint: Checkpoint, output: str, name: str, storage: Storage) -> None:
    """Write a checkpoint to ``output``/``name``."""
    prefix = f"{output}/{name}/{name}"
    storage.write_atomic(f"{prefix}.pdparams", _dumped(checkpoint.averaged))
    storage.write_atomic(f"{prefix}.pdema", _dumped(checkpoint.live))
    storage.write_atomic(f"{prefix}.pdopt", _dumped(checkpoint.velocities))
    storage.write_atomic(f"{prefix}.pdstates", _dumped(asdict(checkpoint.standing)))


def read(prefix: str, storage: Storage) -> Checkpoint:
    """Read a checkpoint, given its path without the suffix.

    Raises:
        UsageError: One of its files is missing or no such file.
    """
    return Checkpoint(
        averaged=read_pdparams(_bytes(f"{prefix}.pdparams", storage)),
        live=read_pdparams(_bytes(f"{prefix}.pdema", storage)),
        velocities=read_pdparams(_bytes(f"{prefix}.pdopt", storage)),
        standing=read_standing(f"{prefix}.pdstates", storage),
    )


def read_standing(url: str, storage: Storage) -> Standing:
    """Read where a checkpoint stands.

    Raises:
        UsageError: There is no such file, or it says something else.
    """
    content = read_saved(_bytes(url, storage))
    try:
        return Standing(**content)
    except TypeError as error:
        raise UsageError(
            f"{display_uri(url)} is no state of a training of sodbatch: it has {sorted(content)}"
        ) from error


def find_last(output: str, storage: Storage) -> tuple[str, Standing] | None:
    """Return the path without suffix, and the state, of the checkpoint in ``output`` that has come furthest."""
    found = []
    for url in list_states(output, storage):
        found.append((url.removesuffix(".pdstates"), read_standing(url, storage)))
    return max(found, key=lambda each: each[1].epoch, default=None)


def list_states(output: str, storage: Storage) -> list[str]:
    """Return the ``.pdstates`` of all epochs' checkpoints in ``output`` itself, not of trainings in folders of it."""
    if not storage.isdir(output):
        return []
    depth = absolute(output).rstrip("/").count("/") + 2
    urls = [info.url for info in storage.list_files(output) if EPOCH.search(info.url)]
    return [url for url in urls if url.count("/") == depth]


def prune(output: str, storage: Storage) -> None:
    """Delete the checkpoints of all but the last ``KEPT`` epochs."""
    states = [
        (read_standing(url, storage).epoch, url.removesuffix(".pdstates")) for url in list_states(output, storage)
    ]
    for _, prefix in sorted(states)[:-KEPT]:
        for suffix in ("pdstates", "pdparams", "pdema", "pdopt"):  # what declares it whole goes first
            storage.delete(f"{prefix}.{suffix}")
        folder = local_path(prefix.rpartition("/")[0])
        if folder is not None and not os.listdir(folder):
            os.rmdir(folder)


def _dumped(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    paddle.save(content, buffer)
    return buffer.getvalue()


def _bytes(url: str, storage: Storage) -> bytes:
    try:
        return storage.read_bytes(url)
    except OSError as error:
        raise UsageError(f"cannot read the checkpoint {display_uri(url)}: {error.strerror or error}") from error
