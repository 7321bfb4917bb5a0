"""An inference model folder: its files, what its yml says, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sodbatch.errors import UsageError
from sodbatch.model.untrusted import read_json, read_yaml
from sodbatch.preprocess import Preprocess, parse_preprocess

CONFIG_NAMES = ("inference.yml", "infer_cfg.yml")
STEMS = ("inference", "model")
PROGRAM_SUFFIXES = (".json", ".pdmodel")
GRAPH_INPUTS = {"image", "scale_factor"}
DEFAULT_KEEP_TOP_K = 500
DEFAULT_DRAW_THRESHOLD = 0.5
NO_CAP = 2**31 - 1
CHUNK_BYTES = 2**20
MAX_SIDE = 8192
"""Of a model's input; the largest official one is 1920."""


@dataclass(frozen=True)
class ModelFolder:
    """A detector as PaddleX and PaddleDetection export it.

    Attributes:
        path: The folder, absolute, so that a process elsewhere finds it.
        model_name: ``Global.model_name``, or the folder's name where the yml has none.
        labels: Class names in the order of the class ids.
        draw_threshold: Score threshold used when the user names none, 0 to 1.
        preprocess: What happens to a picture before the graph.
        keep_top_k: The most boxes that the graph returns per picture.
        config: The yml.
        params: The parameters' file.
        program: The graph's file, ``.json`` (Paddle 3) or ``.pdmodel`` (older).
        fingerprint: sha256 over the content of program, parameters and yml.
    """

    path: Path
    model_name: str
    labels: tuple[str, ...]
    draw_threshold: float
    preprocess: Preprocess
    keep_top_k: int
    config: Path
    params: Path
    program: Path
    fingerprint: str


@dataclass(frozen=True)
class GraphFacts:
    """What the folder needs to know about the graph: its inputs' shapes (-1 where free), and the cap on boxes."""

    inputs: dict[str, list[int]]
    keep_top_k: int


def open_model_folder(path: str | Path) -> ModelFolder:
    """Read and check an inference model folder.

    Raises:
        UsageError: A file is missing or unreadable, the model is of another kind, or a preprocessing step is unknown.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise UsageError(f"model folder {folder} does not exist or is not a folder")
    config_path, program, params = _find_files(folder)
    try:
        config = _read_config(config_path)
        preprocess = parse_preprocess(config.get("Preprocess"))
        graph = _read_graph(program)
        _check_inputs(graph, preprocess)
        return ModelFolder(
            path=folder,
            model_name=_model_name(config, folder),
            labels=_labels(config),
            draw_threshold=_draw_threshold(config),
            preprocess=preprocess,
            keep_top_k=graph.keep_top_k,
            config=config_path,
            params=params,
            program=program,
            fingerprint=_fingerprint(program, params, config_path),
        )
    except UsageError as error:
        raise UsageError(f"model folder {folder}: {error}") from error
    except OSError as error:
        raise UsageError(f"model folder {folder}: cannot read {error.filename}: {error.strerror}") from error


def _find_files(folder: Path) -> tuple[Path, Path, Path]:
    """Return the yml, the program and the parameters."""
    config = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), None)
    programs = [folder / (stem + suffix) for stem in STEMS for suffix in PROGRAM_SUFFIXES]
    program = next((file for file in programs if file.is_file()), None)
    params = [folder / f"{stem}.pdiparams" for stem in STEMS if program is None or stem == program.stem]
    found_params = next((file for file in params if file.is_file()), None)
    if config is None or program is None or found_params is None:
        missing = [
            " or ".join(file.name for file in candidates)
            for found, candidates in (
                (config, [Path(name) for name in CONFIG_NAMES]),
                (program, programs),
                (found_params, params),
            )
            if found is None
        ]
        present = sorted(file.name for file in folder.iterdir())[:20]
        raise UsageError(
            f"model folder {folder} lacks {'; '.join(missing)}; it holds {', '.join(present) or 'nothing'}"
        )
    for file in (config, program, found_params):
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"model folder {folder}: {file.name} is a link out of the folder")
    return config, program, found_params


def _read_config(path: Path) -> dict[str, Any]:
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise UsageError(f"{path.name} holds no sections")
    return config


def _model_name(config: dict[str, Any], folder: Path) -> str:
    section = config.get("Global")
    name = section.get("model_name") if isinstance(section, dict) else None
    return str(name or folder.resolve().name)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    labels = config.get("label_list")
    if not isinstance(labels, list) or not labels:
        raise UsageError(f"label_list is {labels!r}, expected a list of class names")
    names = tuple(str(label) for label in labels)
    for name in names:
        if not name.isprintable():
            raise UsageError(f"label_list has {name!r}, expected names without line breaks and control characters")
    return names


def _draw_threshold(config: dict[str, Any]) -> float:
    value = config.get("draw_threshold", DEFAULT_DRAW_THRESHOLD)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"draw_threshold is {value!r}, expected a number from 0 to 1")
    return float(value)


def _read_graph(program: Path) -> GraphFacts:
    if program.suffix == ".pdmodel":  # protobuf; the names stand in it as plain bytes
        content = program.read_bytes()
        return GraphFacts({name: [] for name in GRAPH_INPUTS if name.encode() in content}, DEFAULT_KEEP_TOP_K)
    content = read_json(program)
    inputs: dict[str, list[int]] = {}
    keep_top_k = DEFAULT_KEEP_TOP_K
    try:
        for kind, attributes in _attributes(content["program"]["regions"][0]["blocks"][0]["ops"]):
            if kind == "data":
                inputs[str(attributes["name"])] = [int(side) for side in attributes["shape"]]
            elif kind == "multiclass_nms3":
                cap = int(attributes["keep_top_k"])
                keep_top_k = cap if 0 <= cap < NO_CAP else NO_CAP
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(f"{program.name} is not a Paddle 3 program ({error!r:.200})") from error
    return GraphFacts(inputs, keep_top_k)


def _attributes(operations: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and attributes of the operations that matter here, out of Paddle's abbreviated JSON."""
    for operation in operations:
        kind = operation["#"].rpartition(".")[2]
        if kind in ("data", "multiclass_nms3"):
            yield kind, {attribute["N"]: attribute["AT"].get("D") for attribute in operation["A"]}


def _check_inputs(graph: GraphFacts, preprocess: Preprocess) -> None:
    if max(preprocess.height, preprocess.width) > MAX_SIDE:
        raise UsageError(
            f"Preprocess makes pictures of {preprocess.height} x {preprocess.width} pixels; expected sides of at most "
            f"{MAX_SIDE}"
        )
    if set(graph.inputs) != GRAPH_INPUTS:
        raise UsageError(
            f"the graph takes {', '.join(sorted(graph.inputs))[:200] or 'nothing known'}; "
            "expected a PP-YOLOE detector, which takes image and scale_factor"
        )
    size, expected = graph.inputs["image"][2:], (preprocess.height, preprocess.width)
    if any(side not in (-1, wanted) for side, wanted in zip(size, expected, strict=False)):
        raise UsageError(f"the graph takes pictures of {size} pixels, Preprocess makes them {list(expected)}")


def _fingerprint(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                content.update(chunk)
        digest.update(content.digest())
    return digest.hexdigest()
