"""A job resolved: a configuration checked against the world, and the pipeline made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from sodbatch.companions import DrawPictures, WriteJson
from sodbatch.config import Config
from sodbatch.engine.pipeline import InferSpec, Pipeline
from sodbatch.engine.resources import ActorPlan
from sodbatch.errors import UsageError
from sodbatch.fetch import Fetcher
from sodbatch.manifest import Manifest, open_manifest
from sodbatch.manifest.pictures import literal_folder
from sodbatch.model.find import find_model
from sodbatch.model.folder import ModelFolder
from sodbatch.output import choose_output
from sodbatch.predictor import check_choice
from sodbatch.stages import Load, pictures_per_block
from sodbatch.storage import Storage, display_uri, local_path, redact
from sodbatch.storage.retry import longest_s
from sodbatch.tables import SCHEMA_VERSION
from sodbatch.threshold import Threshold, resolve_threshold
from sodbatch.write import Run, Write

CPU_BLOCK_ROWS = 16
"""Pictures that a CPU actor takes at a time for each of its threads: some seconds of work, so that actors end together.
At the end of each such block threads wait for the last picture: of 16 that costs 3 %."""

CPU_SHARD_ROWS = 64
"""Rows of one part for each thread of the CPU actors: half a minute of work, which is what a kill costs at most."""

GPU_SHARD_ROWS = 1024
"""Rows of one part for each GPU actor."""

MAX_SHARD_ROWS = 4096
"""Most rows of one part."""


@dataclass(frozen=True)
class Job:
    """What a configuration resolves to, before anything is written.

    Attributes:
        config: The configuration.
        storage: For inputs and output.
        folder: The model.
        threshold: Scores that count, by class.
        manifest: The inputs.
        output: Folder of the tables.
        fields: The fingerprint: all that decides what a row says.
    """

    config: Config
    storage: Storage
    folder: ModelFolder
    threshold: Threshold
    manifest: Manifest
    output: str
    fields: dict[str, Any]


def resolve(config: Config) -> Job:
    """Check a configuration against the world: model, threshold, inputs, output.

    Raises:
        UsageError: Whatever does not hold, in one line.
    """
    predict = config.Predict
    if not predict.input:
        raise UsageError(
            "Predict.input is not set; name a picture, a folder, a glob, a URL or a manifest (-o Predict.input=...)"
        )
    storage = Storage(config.S3, config.Fetch)
    folder = find_model(config.Global.model, predict.model_dir, storage)
    device = config.Global.device.partition(":")[0]
    if device != "auto":
        check_choice(
            backend=predict.backend,
            device=device,
            threads=None,
            precision=predict.precision,
            tensorrt=predict.tensorrt,
        )
    threshold = resolve_threshold(predict.threshold, folder.draw_threshold, len(folder.labels))
    partition = config.Output.partition_by
    manifest = open_manifest(
        predict.input,
        storage,
        path_column=predict.path_column,
        with_etag=predict.id_from_etag,
        partition_by=partition,
    )
    if partition is not None and partition not in manifest.passthrough.names:
        raise UsageError(
            f"Output.partition_by is {partition!r}, but the columns that the manifest passes through are "
            f"{', '.join(manifest.passthrough.names) or 'none'}"
        )
    if partition is not None:
        _check_partition(manifest.passthrough.field(partition))
    fields: dict[str, Any] = {
        "model": folder.model_name,
        "model_fingerprint": folder.fingerprint,
        "threshold": threshold.per_class[0] if len(set(threshold.per_class)) == 1 else list(threshold.per_class),
        "preprocess": json.loads(json.dumps(asdict(folder.preprocess))),
        "id_from_etag": predict.id_from_etag,
        "columns": {field.name: str(field.type) for field in manifest.passthrough},
        "partition_by": partition,
        "schema": SCHEMA_VERSION,
    }
    if predict.precision != "fp32":  # lower precision gives other boxes
        fields["precision"] = predict.precision
    path = local_path(config.Global.output)
    output = config.Global.output if path is None else os.path.abspath(path)
    try:
        output = choose_output(output, fields, config.Output.on_mismatch, storage)
    except OSError as error:
        raise UsageError(f"Global.output {display_uri(output)} cannot be used: {redact(str(error))}") from error
    _check_apart(config, output)
    return Job(config, storage, folder, threshold, manifest, output, fields)


def _check_partition(field: pa.Field) -> None:
    """Refuse columns whose values do not make folder names that read back as they were."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date)
    if not any(check(kind) for check in checks):
        raise UsageError(
            f"Output.partition_by: column {field.name!r} is {field.type}; expected text, whole numbers, booleans "
            "or dates"
        )


def _check_apart(config: Config, output: str) -> None:
    """Refuse inputs that the job itself writes, or that its drawn pictures would become at the next run."""
    inputs = config.Predict.input
    drawn = f"{display_uri(output)}/pictures/"
    for source in inputs if isinstance(inputs, list) else [inputs or ""]:
        folder = display_uri(literal_folder(source)).rstrip("/") + "/"
        if folder.startswith(drawn) or (drawn.startswith(folder) and config.Visualize.pictures != "none"):
            raise UsageError(
                f"the drawn pictures in {drawn} would be inputs, since Predict.input is {folder}; choose another "
                "Global.output, or Visualize.pictures=none"
            )


def build_pipeline(job: Job, run: Run, actors: ActorPlan) -> Pipeline:
    """Make the stages of a job for a pool of actors."""
    device = "gpu" if actors.gpus else "cpu"
    config, preprocess = job.config, job.folder.preprocess
    fetcher = Fetcher(job.storage, config.Fetch, config.Limits)
    companions: list[Callable[[pa.Table], list[str]]] = []
    if config.Visualize.pictures == "all":
        companions.append(drawing(job))
    if config.Output.paddlex_json:
        companions.append(WriteJson(job.output, job.storage))
    passthrough = job.manifest.passthrough
    infer = InferSpec(
        folder=job.folder,
        threshold=job.threshold,
        backend=config.Predict.backend,
        precision=config.Predict.precision,
        tensorrt=config.Predict.tensorrt,
        batch_size=config.Predict.batch_size,
        device=device,
        threads=actors.threads,
        passthrough=passthrough,
    )
    write = Write(job.output, job.storage, run, passthrough, config.Output.partition_by, tuple(companions))
    rows = shard_size(config.Output.shard_size, job.folder, actors)
    block_rows = min(rows, pictures_per_block(preprocess))
    if not actors.gpus:
        block_rows = min(block_rows, CPU_BLOCK_ROWS * actors.threads)
    load = Load(fetcher, config.Limits, preprocess, passthrough, block_rows)
    limit = config.Limits.max_seconds
    return Pipeline(load, infer, write, rows, load_stall_s=longest_s(config.Fetch) + limit, infer_stall_s=limit)


def shard_size(configured: int | str, folder: ModelFolder, actors: ActorPlan) -> int:
    """Return the rows of one part; ``auto`` aims at a part every few seconds to a minute.

    A 640 x 640 model makes some 2.5 pictures a second on a CPU thread and hundreds on a GPU; larger inputs take longer.
    """
    if isinstance(configured, int):
        return configured
    area = folder.preprocess.height * folder.preprocess.width / 640**2
    rows = GPU_SHARD_ROWS if actors.gpus else CPU_SHARD_ROWS * actors.threads
    return int(min(MAX_SHARD_ROWS, max(1, rows / max(1.0, area) * actors.min_actors)))


def drawing(job: Job) -> DrawPictures:
    """Make what draws a job's pictures."""
    fetcher = Fetcher(job.storage, job.config.Fetch, job.config.Limits)
    limits, min_boxes = job.config.Limits, job.config.Visualize.min_boxes
    return DrawPictures(job.output, job.storage, fetcher, limits, job.folder.labels, min_boxes)
