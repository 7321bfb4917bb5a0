"""The evaluation job: a model, or a finished run of predictions, against a data set's boxes."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from sodbatch import predict_job
from sodbatch.check_job import dataset_root, first_faults
from sodbatch.config import Config
from sodbatch.dataset.coco import Part, read_part
from sodbatch.dataset.demo import Pictures
from sodbatch.dataset.faults import Faults
from sodbatch.dataset.records import check_records
from sodbatch.errors import UsageError
from sodbatch.evaluate.charts import confusion, precision_recall
from sodbatch.evaluate.compare import compare, draw_compared, worst
from sodbatch.evaluate.figures import MAX_DETECTIONS, Figures, Found, GroundTruth, confusion_matrix, figures_of
from sodbatch.evaluate.truth import found_in, labels_in, match_classes, rows_in, truth_of
from sodbatch.fetch import Fetcher
from sodbatch.ledger import part_urls, read_parts
from sodbatch.model.export import export_state, labels_beside, read_weights
from sodbatch.model.find import find_model
from sodbatch.model.folder import ModelFolder, open_model_folder
from sodbatch.model.spec import find_spec
from sodbatch.record import read_record
from sodbatch.storage import Storage, display_uri
from sodbatch.tables import OK

DONE, DONE_WITH_FAILED = 0, 3
"""Exit codes."""

CLASS_BIAS = "yolo_head.pred_cls.0.bias"
"""Parameter whose length is the number of classes."""

EVERYTHING = 0.0
"""Threshold of the predictions: what the model's own score floor lets pass counts."""

SHOWN_FROM = 0.3
"""Scores from which on boxes count in the confusion matrix and the worst pictures."""

LOW_THRESHOLD = 0.05
"""Highest ``Predict.threshold`` of a run that hardly lowers the figures."""

SHOWN_FAULTS = 10


def run(config: Config, *, console: Console | None = None) -> int:
    """Evaluate a model, or the run of predictions that ``Evaluate.predictions`` names.

    Args:
        config: ``Global.dataset_dir`` names the data set, ``Evaluate`` says what is evaluated and how.
        console: Where to print; standard error by default.

    Returns:
        0, or 3 when pictures failed, which count as pictures without a box.

    Raises:
        UsageError: The request cannot be carried out as given.
        JobError: The job could not finish.
    """
    console = console or Console(stderr=True)
    storage = Storage(config.S3, config.Fetch)
    output, section = config.Global.output, config.Evaluate
    folder = dataset_root(config.Global.dataset_dir, storage)
    storage.check_writable(output)
    part = _part(config, folder, storage)
    names = [name for _, name in part.categories]
    if section.predictions is not None:
        tables, labels = section.predictions, None
    else:
        with tempfile.TemporaryDirectory(prefix="sodbatch-evaluate-") as scratch:
            model = _model(config, part, scratch, storage, console)
            labels = dict(enumerate(model.labels))
            match_classes(names, labels, section.match)
            tables = _predict(config, model, folder, console)
    run_of = read_record(tables, storage)
    if run_of is None:
        there = "no job has written here" if storage.isdir(tables) else "there is no such folder"
        raise UsageError(f"{display_uri(tables)}: {there}; give the Global.output of a sodbatch predict")
    if not storage.exists(f"{tables}/_SUCCESS"):
        raise UsageError(
            f"{display_uri(tables)}: the run has not finished; the same sodbatch predict goes on, and then it can be "
            "evaluated"
        )
    images = _read_tables(tables, storage)
    classes = match_classes(names, labels or labels_in(images), section.match)
    truth = truth_of(part)
    rows = rows_in(images, part, folder)
    ok = np.asarray(pc.equal(images["status"], OK))
    of_part = rows[rows >= 0]
    if len(np.unique(of_part)) < len(of_part):
        raise UsageError(
            f"{display_uri(tables)} has several rows of the same picture; expected one run over the pictures of the "
            "data set"
        )
    _say_lacking(names, classes, console)
    found = found_in(images.filter(pa.array(ok)), rows[ok], classes)
    figures = figures_of(truth, found)
    result = {
        "done_flag": True,
        "metrics": figures.coco,
        "max_detections": MAX_DETECTIONS,
        "metrics_at_100": figures.coco100,
        "by_class": figures.by_class,
        "pictures": {
            "in_data_set": truth.pictures,
            "predicted": len(np.unique(rows[ok & (rows >= 0)])),
            "failed": len(np.unique(rows[~ok & (rows >= 0)])),
            "not_in_data_set": int((rows < 0).sum()),
        },
        "boxes": {
            "in_data_set": int((~truth.crowd).sum()),
            "ignored_regions": int(truth.crowd.sum()),
            "found": len(found.scores),
        },
        "model_name": run_of["fingerprint"].get("model"),
        "threshold": run_of["fingerprint"].get("threshold"),
        "predictions": display_uri(tables),
        "dataset_path": display_uri(folder),
        "part": section.part,
    }
    if result["pictures"]["predicted"] == 0:
        raise UsageError(
            f"none of the pictures of {display_uri(tables)} is one of {display_uri(folder)}, part {part.name}: they "
            "are matched by their whole paths, or by ids and file names where the input was the data set's own file"
        )
    _draw(config, folder, part, truth, found, figures, storage)
    storage.write_atomic(f"{output}/evaluate_result.json", json.dumps(result, indent=4, ensure_ascii=False).encode())
    _say(console, "\n".join(_lines(result, output)))
    return DONE if result["pictures"]["predicted"] == truth.pictures else DONE_WITH_FAILED


def _part(config: Config, folder: str, storage: Storage) -> Part:
    """Read the part's annotations and refuse what the check job would of its records."""
    faults = Faults(config.CheckDataset.rules)
    part = read_part(
        config.Evaluate.part, f"{folder}/annotations/instance_{config.Evaluate.part}.json", storage, faults
    )
    check_records([part], faults)
    if faults.errors:
        shown = "\n".join(first_faults(faults.table(), SHOWN_FAULTS))
        raise UsageError(
            f"the data set has {faults.errors:,} errors; sodbatch check_dataset lists all. The first:\n{shown}"
        )
    return part


def _model(config: Config, part: Part, scratch: str, storage: Storage, console: Console) -> ModelFolder:
    """Return the model: ``Evaluate.weight_path`` exported to a folder for the while, or an inference folder."""
    weight_path = config.Evaluate.weight_path
    if weight_path is None:
        return find_model(config.Global.model, config.Predict.model_dir, storage)
    spec = find_spec(config.Global.model)
    state = read_weights(weight_path, storage)
    beside = f"{weight_path.rpartition('/')[0] or '.'}/inference"
    named = labels_beside(weight_path, storage)
    if named is not None:
        labels = named
    elif storage.exists(f"{beside}/inference.yml"):
        labels = find_model(spec.name, beside, storage).labels
    elif len(state.get(CLASS_BIAS, ())) == spec.num_classes:
        labels = spec.labels
        _say(console, f"the weights name no classes: they are taken to be those of {spec.name}: {', '.join(labels)}")
    else:
        labels = tuple(name for _, name in part.categories)
        _say(console, "the weights name no classes: they are taken to be the data set's, in its order")
    return open_model_folder(export_state(replace(spec, labels=labels), state, Path(scratch) / "inference"))


def _predict(config: Config, model: ModelFolder, folder: str, console: Console) -> str:
    """Run the main job over the part's pictures; returns where its tables are."""
    tables = f"{config.Global.output}/predictions"
    changed = {
        "Global": {"mode": "predict", "output": tables, "model": model.model_name},
        "Predict": {
            "input": f"{folder}/annotations/instance_{config.Evaluate.part}.json",
            "model_dir": str(model.path),
            "threshold": EVERYTHING,
        },
        "Output": {"on_mismatch": "overwrite"},
    }
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in changed.items()}
    predict_job.run(config.model_copy(update=sections), console=console)
    return tables


def _say_lacking(names: list[str], classes: dict[int, int], console: Console) -> None:
    lacking = [name for place, name in enumerate(names) if place not in classes.values()]
    if lacking:
        _say(console, f"the model has not, or has not found, {len(lacking)} categories: {', '.join(lacking)}")


def _read_tables(tables: str, storage: Storage) -> pa.Table:
    """Read what the evaluation needs of a run's images table; of a document its first page alone is the picture."""
    wanted = ["uri", "page_index", "status", "coco_image_id", "detections"]
    images = pa.concat_tables(
        read_parts(part_urls(tables, "images", storage), wanted, storage), promote_options="default"
    )
    return images.filter(pc.equal(pc.fill_null(images["page_index"], 0), 0))


def _draw(
    config: Config,
    folder: str,
    part: Part,
    truth: GroundTruth,
    found: Found,
    figures: Figures,
    storage: Storage,
) -> None:
    """Write charts and the worst pictures to ``Global.output``/evaluate."""
    target = f"{config.Global.output}/evaluate"
    storage.write_atomic(f"{target}/precision_recall.png", precision_recall(figures, truth.names))
    matrix = confusion_matrix(truth, found, SHOWN_FROM)
    storage.write_atomic(f"{target}/confusion.png", confusion(matrix, truth.names, SHOWN_FROM))
    for info in list(storage.list_files(f"{target}/worst")) if storage.isdir(f"{target}/worst") else ():
        storage.delete(info.url)
    pictures = Pictures(folder, Fetcher(storage, config.Fetch, config.Limits), config.Limits, {})
    compared = compare(truth, found, SHOWN_FROM)
    for place, one in enumerate(worst(compared, config.Evaluate.worst), 1):
        name = part.images.names[one.row]
        image = pictures.read(name)
        if not isinstance(image, str):
            stem = PurePosixPath(name).stem
            storage.write_atomic(f"{target}/worst/{place:03}_{stem}.jpg", draw_compared(image, one))


def _lines(result: dict[str, Any], output: str) -> list[str]:
    """Return what is printed."""
    pictures, boxes = result["pictures"], result["boxes"]
    lines = [
        f"{pictures['predicted']:,} of {pictures['in_data_set']:,} pictures predicted, {pictures['failed']:,} failed; "
        f"{boxes['found']:,} boxes found, {boxes['in_data_set']:,} there",
        f"at most {result['max_detections']} boxes a picture (and 100):",
    ]
    for name, value in result["metrics"].items():
        at_100 = result["metrics_at_100"].get(name.replace(str(MAX_DETECTIONS), "100"), -1.0)
        lines.append(f"  {name:<6} {_shown(value)}  ({_shown(at_100)})")
    width = max(len(name) for name in result["by_class"])
    lines += [
        f"  {name:<{width}}  AP {_shown(of['AP'])}  AP50 {_shown(of['AP50'])}  AR {_shown(of['AR'])}"
        for name, of in result["by_class"].items()
    ]
    threshold = result["threshold"]
    if max(threshold.values() if isinstance(threshold, dict) else [threshold]) > LOW_THRESHOLD:
        lines.append(
            f"the run's Predict.threshold is {threshold}: boxes that it left out do not count, which lowers AP and AR"
        )
    lines.append(f"written to {display_uri(output)}: evaluate_result.json, evaluate/")
    return lines


def _shown(value: float) -> str:
    return "   -  " if value < 0 else f"{value:.4f}"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
