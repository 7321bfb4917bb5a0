"""The data set job: its annotations beside pycocotools, and its pictures beside a plain loop that reads and decodes.

Targets: 100,000 pictures with 3,000,000 boxes under 4 GiB and faster than pycocotools loads them; 0.6 of the loop.
pycocotools is that of the environment with PaddleX.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import PREDICT, Result, Setup, Table, Tool, in_turn, ratio, run, script, steady
from sodbatch.decode.headers import read_header

CLASSES = 10
SHARES = {"train": 0.9, "val": 0.1}
PYCOCOTOOLS = """
import json, re, sys, time
from pycocotools.coco import COCO
started = time.perf_counter()
kept = [COCO(name) for name in sys.argv[1:]]
peak = int(re.findall(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[0]) / 1024
print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak}))
"""


def measure(setup: Setup) -> Result:
    """Run the benchmark."""
    annotations, pictures = _annotations(setup), _pictures(setup)
    return Result([*annotations.tables, *pictures.tables], [annotations.raw, pictures.raw])


def _annotations(setup: Setup) -> Result:
    count, boxes = setup.size(100_000, 1_000), setup.size(3_000_000, 30_000)
    folder = setup.work / "annotated"
    files = make_annotations(folder, count, boxes)
    tools: dict[str, Callable[[], Any]] = {"sodbatch: read and checked": lambda: script("annotations", *files)}
    if setup.paddlex_python:
        command = [setup.paddlex_python, "-c", PYCOCOTOOLS, *map(str, files)]
        tools["pycocotools: loaded and indexed"] = lambda: json.loads(run(command)[1].splitlines()[-1])
    measured = in_turn(setup.rounds, tools)
    rows = [
        [name, *(statistics.median(each[key] for each in values) for key in ("seconds", "peak"))]
        for name, values in measured.items()
    ]
    size = sum(file.stat().st_size for file in files) / 1e6
    title = f"Annotations of {count:,} pictures, {boxes:,} boxes, {size:,.0f} MB, medians of {setup.rounds} rounds"
    return Result([Table(title, ["", "s", "peak memory (MiB)"], rows)], measured)


def _pictures(setup: Setup) -> Result:
    short, long = setup.size(1_000, 40), setup.size(5_000, 200)

    def check(engine: str) -> Callable[[int], float]:
        def seconds(count: int) -> float:
            keys: dict[str, Any] = {"Global.dataset_dir": make_dataset(setup, count), "Global.output": setup.output()}
            keys |= {"Predict.engine": engine, "CheckDataset.rules": "{content_in_both_parts: off}"}
            words = [word for key, value in keys.items() for word in ("-o", f"{key}={value}")]
            return run([*PREDICT[:-1], "check_dataset", *words])[0]

        return seconds

    def loop(count: int) -> float:
        return float(script("plain_loop", setup.listing(count), 0, setup.threads, "processes")["seconds"])

    tools = {f"plain loop, {setup.threads} processes": Tool(loop, 0, long)}
    tools |= {f"sodbatch check_dataset, {engine}": Tool(check(engine), short, long) for engine in ("ray", "inline")}
    measured = steady(setup.rounds, tools)
    best = next(iter(measured.values()))
    title = f"Pictures decoded: steady rates from runs of {short:,} and {long:,}, medians of {setup.rounds} rounds"
    rows = [[name, value.rate, value.whole, ratio(value, best)] for name, value in measured.items()]
    table = Table(title, ["", "pictures/s, steady", "whole command (s)", "of the loop"], rows)
    return Result([table], {name: asdict(value) for name, value in measured.items()})


def make_annotations(folder: Path, count: int, boxes: int) -> list[Path]:
    """Write both annotation files of a made-up data set without pictures; return them."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    files = []
    first = 1
    for part, share in SHARES.items():
        images = [
            {"id": first + i, "file_name": f"{part}_{i:06d}.jpg", "width": 1920, "height": 1080}
            for i in range(round(count * share))
        ]
        number = round(boxes * share)
        owners = (first + rng.integers(0, len(images), number)).tolist()
        classes = rng.integers(1, CLASSES + 1, number).tolist()
        places = rng.integers([0, 0, 4, 4], [1800, 1000, 80, 80], (number, 4)).tolist()
        annotations = [
            {"id": i, "image_id": owner, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (owner, label, box) in enumerate(zip(owners, classes, places), 1)
        ]
        files.append(_write(folder, part, images, annotations))
        first += len(images)
    return files


def make_dataset(setup: Setup, count: int) -> Path:
    """Make a data set of ``count`` pictures, links to the given ones, with a box each."""
    folder = setup.work / f"dataset-{count}"
    if folder.exists():
        return folder
    (folder / "annotations").mkdir(parents=True)
    links = [Path(line) for line in setup.listing(count).read_text().split()]
    (folder / "images").symlink_to(links[0].parent)
    sizes = {picture: read_header(picture.read_bytes()) for picture in setup.pictures}
    border = round(count * SHARES["train"])
    for part, chosen in (("train", links[:border]), ("val", links[border:])):
        images, annotations = [], []
        for i, link in enumerate(chosen, 1):
            header = sizes[link.resolve()]
            images.append({"id": i, "file_name": link.name, "width": header.width, "height": header.height})
            box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
            annotations.append({"id": i, "image_id": i, "category_id": 1 + i % CLASSES, **box})
        _write(folder, part, images, annotations)
    return folder


def _write(folder: Path, part: str, images: list[Any], annotations: list[Any]) -> Path:
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    file = folder / "annotations" / f"instance_{part}.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file
