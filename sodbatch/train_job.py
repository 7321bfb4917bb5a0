"""The training job: from a configuration to weights, an inference folder and ``train_result.json``."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from rich.console import Console

from sodbatch.check_job import dataset_root, examine, first_faults
from sodbatch.config import Config
from sodbatch.dataset.coco import Part
from sodbatch.dataset.faults import Faults
from sodbatch.errors import UsageError
from sodbatch.evaluate.truth import truth_of
from sodbatch.lease import USUAL_PACE, Lease, Pace, this_process, wait_until_free
from sodbatch.model.export import read_weights
from sodbatch.model.spec import NetworkSpec, find_spec
from sodbatch.predictor.base import usable_cpus
from sodbatch.progress import ProgressBar
from sodbatch.record import Rank
from sodbatch.storage import Storage, absolute, display_uri
from sodbatch.train.examples import examples_of

if TYPE_CHECKING:
    from sodbatch.train.loop import Plan

log = logging.getLogger(__name__)

SHOWN_FAULTS = 10


def run(config: Config, *, console: Console | None = None, pace: Pace = USUAL_PACE) -> int:
    """Train a model; the same command goes on from the last checkpoint in ``Global.output``.

    Args:
        config: ``Global.dataset_dir`` names the data set, ``Train`` says how.
        console: Where to print; standard error by default.
        pace: Of the lease on the output.

    Returns:
        0.

    Raises:
        UsageError: The request cannot be carried out as given, or the data set has errors; no work was started.
        JobError: The training could not finish; its checkpoints stay.
    """
    storage = Storage(config.S3, config.Fetch)
    spec = find_spec(config.Global.model)
    config = _with_absolute_paths(config)
    output = config.Global.output
    folder = absolute(dataset_root(config.Global.dataset_dir, storage))
    storage.check_writable(output)
    with ProgressBar(console or Console(stderr=True)) as bar:
        dead = wait_until_free(output, storage, pace, bar.say)
        bar.say(f"model {spec.name}, data set {display_uri(folder)}, output {display_uri(output)}")
        bar.say("checking the data set")
        train, val = _checked(config, folder, storage, bar)
    bar.say(f"the data set has no errors: {len(train.images.ids):,} pictures in train, {len(val.images.ids):,} in val")
    spec = _with_classes(spec, train, config)
    settings = _settings(config, spec, folder, train, val)
    attempt = dead.attempt + 1 if dead else 1
    with Lease(output, storage, this_process(Rank(attempt, uuid.uuid4().hex)), pace) as lease:
        resume = _resume_point(config, settings, storage)
        if resume is None and config.Train.pretrain_weight_path is not None:
            read_weights(config.Train.pretrain_weight_path, storage)  # or say so before any work
        storage.delete(f"{output}/train_result.json")  # until it is so again
        storage.write_atomic(f"{output}/config.yaml", _as_yaml(config))

        def say(line: str) -> None:
            lease.check()
            bar.say(line)

        _train(config, spec, folder, train, val, settings, resume, say)
        lease.check()
        result = _finish(config, spec, storage)
    best = result["models"]["best"]
    bar.say(f"best AP {best['score']:.4f}; ready for predict: {display_uri(output)}/best_model/inference")
    return 0


def _with_absolute_paths(config: Config) -> Config:
    """Ray's workers run in folders of their own."""
    named = {key: getattr(config.Train, key) for key in ("pretrain_weight_path", "resume_path")}
    paths = {key: absolute(path) for key, path in named.items() if path is not None}
    return config.model_copy(
        update={
            "Global": config.Global.model_copy(update={"output": absolute(config.Global.output)}),
            "Train": config.Train.model_copy(update=paths),
        }
    )


def _checked(config: Config, folder: str, storage: Storage, bar: ProgressBar) -> tuple[Part, Part]:
    """Read the data set and refuse what the check job would."""
    faults = Faults(config.CheckDataset.rules)
    any_actors = config.model_copy(update={"Resources": config.Resources.model_copy(update={"actors": "auto"})})
    (train, val), _ = examine(any_actors, folder, storage, faults, bar)
    if faults.errors:
        shown = "\n".join(first_faults(faults.table(), SHOWN_FAULTS))
        raise UsageError(
            f"the data set has {faults.errors:,} errors, and is not trained on; sodbatch check_dataset lists all. "
            f"The first:\n{shown}"
        )
    if sorted(train.categories) != sorted(val.categories):
        raise UsageError("the categories of train and val differ in ids or names; both files need the same")
    if val.boxes.crowd.all():
        raise UsageError("the part val has no boxes but crowds (iscrowd): nothing to evaluate by")
    return train, replace(val, categories=train.categories)


def _with_classes(spec: NetworkSpec, train: Part, config: Config) -> NetworkSpec:
    names = tuple(name for _, name in train.categories)
    asked = config.Train.num_classes
    if asked is not None and asked != len(names):
        raise UsageError(
            f"Train.num_classes = {asked}, but the data set has {len(names)} categories: {', '.join(names)}"
        )
    batch = config.Train.batch_size
    if len(train.images.ids) < batch:
        raise UsageError(f"Train.batch_size = {batch}, but the part train has {len(train.images.ids)} pictures")
    if config.Train.amp != "OFF" and config.Global.device == "cpu":
        raise UsageError(f"Train.amp = {config.Train.amp}: mixed precision needs a GPU; expected OFF on a CPU")
    return replace(spec, labels=names)


def _settings(config: Config, spec: NetworkSpec, folder: str, train: Part, val: Part) -> str:
    """Fingerprint of what must not change in a training that goes on."""
    section = config.Train.model_dump(exclude={"resume_path", "log_interval", "eval_interval", "max_failures"})
    digest = hashlib.blake2b(json.dumps([repr(spec), section, folder], sort_keys=True).encode(), digest_size=8)
    for part in (train, val):
        digest.update(json.dumps([list(part.images.names), part.categories]).encode())
        boxes = part.boxes
        for column in (part.images.ids, boxes.image_ids, boxes.category_ids, boxes.xywh, boxes.crowd):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _resume_point(config: Config, settings: str, storage: Storage) -> str | None:
    """Return the checkpoint to go on from: the last of this training in the output, else the one named.

    Raises:
        UsageError: It is of a training with other settings.
    """
    from sodbatch.train.checkpoint import find_last, read_standing

    last = find_last(config.Global.output, storage)
    named = config.Train.resume_path
    if last is not None and last[1].settings != settings:
        raise UsageError(
            f"{display_uri(config.Global.output)} holds a training with other settings or another data set"
            f"{_differences(config, storage)}; choose another Global.output; to go on from that one's weights add "
            f"Train.resume_path={display_uri(last[0])}.pdparams"
        )
    if last is not None or named is None:
        return last[0] if last is not None else None
    prefix = re.sub(r"\.pd(params|ema|opt|states)$", "", named)
    if not storage.exists(f"{prefix}.pdparams"):
        raise UsageError(f"Train.resume_path = {display_uri(named)}: there is no such checkpoint")
    standing = read_standing(f"{prefix}.pdstates", storage)
    if standing.epoch >= config.Train.epochs_iters:
        raise UsageError(
            f"{display_uri(prefix)} has done {standing.epoch} epochs; to go on, Train.epochs_iters must be more"
        )
    if standing.settings != settings:
        log.warning("%s is of a training with other settings, which goes on with these", display_uri(prefix))
    return prefix


def _differences(config: Config, storage: Storage) -> str:
    """Say which settings differ from those in the output's ``config.yaml``; empty where none of the file's do."""
    url = f"{config.Global.output}/config.yaml"
    old = yaml.safe_load(storage.read_bytes(url)) if storage.exists(url) else {}
    new = config.model_dump(mode="json")
    keys = [("Global", "model"), ("Global", "dataset_dir"), *(("Train", key) for key in new["Train"])]
    found = [
        f"{section}.{key} = {old[section][key]} there, {new[section][key]} here"
        for section, key in keys
        if key in old.get(section, {}) and old[section][key] != new[section][key] and key != "resume_path"
    ]
    return f" ({'; '.join(found)})" if found else ""


def _as_yaml(config: Config) -> bytes:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode()


def _train(
    config: Config,
    spec: NetworkSpec,
    folder: str,
    train: Part,
    val: Part,
    settings: str,
    resume: str | None,
    say: Callable[[str], None],
) -> None:
    from sodbatch.train.loop import Plan

    def plan(batch_size: int, threads: int) -> Plan:
        return Plan(
            config=config,
            spec=spec,
            train=examples_of(train, folder),
            val=examples_of(val, folder),
            truth=truth_of(val),
            settings=settings,
            resume=resume,
            batch_size=batch_size,
            threads=threads,
        )

    if config.Predict.engine == "inline":
        from sodbatch.train.loop import train as train_alone

        train_alone(plan(config.Train.batch_size, usable_cpus()), say)
        return
    from sodbatch.engine.training import train_on_ray

    train_on_ray(config, lambda workers: _Loop(plan(workers.batch_size, workers.threads), workers.count), say)


class _Loop:
    """What a worker of Ray runs; a worker started anew goes on from the last checkpoint."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self.plan = plan
        if len(plan.train) < workers * plan.batch_size:
            raise UsageError(
                f"{workers} workers with {plan.batch_size} pictures a step each need more than the {len(plan.train)} "
                "pictures of the part train"
            )

    def __call__(self, say: Callable[[str], None]) -> None:
        from sodbatch.train.checkpoint import find_last
        from sodbatch.train.loop import train

        storage = Storage(self.plan.config.S3, self.plan.config.Fetch)
        last = find_last(self.plan.config.Global.output, storage)
        train(replace(self.plan, resume=last[0] if last else self.plan.resume), say)


def _finish(config: Config, spec: NetworkSpec, storage: Storage) -> dict[str, Any]:
    """Export the best weights and write the result."""
    from sodbatch.model.export import export_state
    from sodbatch.train.checkpoint import BEST, list_states, read, read_standing

    output = config.Global.output
    best = read(f"{output}/{BEST}/{BEST}", storage)
    with TemporaryDirectory(prefix="sodbatch-export-") as scratch:
        for file in sorted(Path(export_state(spec, best.averaged, Path(scratch) / "inference")).iterdir()):
            storage.write_atomic(f"{output}/{BEST}/inference/{file.name}", file.read_bytes())
    states = {url: read_standing(url, storage) for url in list_states(output, storage)}
    models = {}
    for number, url in enumerate(sorted(states, key=lambda url: -states[url].epoch), 1):
        models[f"last_{number}"] = _described(url.removesuffix(".pdstates"), states[url].metric, states[url].epoch)
    models["best"] = _described(f"{BEST}/{BEST}", best.standing.metric, best.standing.epoch) | {
        "inference_config": f"{BEST}/inference/inference.yml",
        "pdmodel": f"{BEST}/inference/inference.json",
        "pdiparams": f"{BEST}/inference/inference.pdiparams",
    }
    result = {
        "done_flag": True,
        "model_name": spec.name,
        "label_dict": "",
        "visualdl_log": "",
        "train_log": "train.log",
        "config": "config.yaml",
        "models": models,
    }
    storage.write_atomic(f"{output}/train_result.json", json.dumps(result, indent=2).encode())
    return result


def _described(prefix: str, score: float, epoch: int) -> dict[str, Any]:
    name = "/".join(prefix.split("/")[-2:])
    files = {tag: f"{name}.{tag}" for tag in ("pdparams", "pdema", "pdopt", "pdstates")}
    return {"score": score, "epoch": epoch, **files}
