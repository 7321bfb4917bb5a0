"""Export of a network into an inference folder in PaddleX's format."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sodbatch.errors import JobError, UsageError
from sodbatch.model.spec import NetworkSpec, find_spec
from sodbatch.model.weights import State, load_state, read_pdparams, read_saved
from sodbatch.storage import Storage, display_uri, redact

if TYPE_CHECKING:
    from paddle import nn

    from sodbatch.model.network import SODNetwork

log = logging.getLogger(__name__)

CUBIC = 2
DRAW_THRESHOLD = 0.5
NMS_SCORE_THRESHOLD = 0.01
NMS_IOU_THRESHOLD = 0.6
NMS_TOP_K = 10_000
KEEP_TOP_K = 500


def export(
    model: str | NetworkSpec,
    output_dir: str | Path,
    weight_path: str | None = None,
    *,
    seed: int = 0,
    storage: Storage | None = None,
) -> Path:
    """Write an inference folder: ``inference.json``, ``inference.pdiparams`` and ``inference.yml``.

    The folder is made beside ``output_dir`` and moved there when it is complete.

    Args:
        model: A model's name, whose classes those weights that name others replace; or the specification of one.
        output_dir: Where the folder's files go; created if absent, an older export in it is replaced.
        weight_path: A ``.pdparams`` file, or the URL of one; without it the weights come from ``seed``.
        seed: Seed of the weights, used when ``weight_path`` is not given.
        storage: Reads ``weight_path``; default: from the environment.

    Returns:
        ``output_dir``.

    Raises:
        UsageError: Unknown model, weights that cannot be read or do not fit, output that cannot be written.
        JobError: The graph could not be written.
    """
    spec = find_spec(model) if isinstance(model, str) else model
    if weight_path is None:
        from sodbatch.model.seeded import seeded_state

        log.warning("%s: no weights given; exporting untrained weights made from seed %d", spec.name, seed)
        state = seeded_state(spec, seed)
    else:
        storage = storage or Storage()
        state = read_weights(weight_path, storage)
        if isinstance(model, str) and (labels := labels_beside(weight_path, storage)) is not None:
            spec = replace(spec, labels=labels)
    return export_state(spec, state, output_dir)


def export_state(spec: NetworkSpec, state: State, output_dir: str | Path) -> Path:
    """:func:`export` with the weights in memory; equal weights give an equal ``inference.pdiparams``."""
    from paddle.utils import unique_name

    from sodbatch.model.network import SODNetwork

    with unique_name.guard():  # the file is ordered by names, which start anew here
        network = SODNetwork(spec)
        load_state(network, state)
        network.eval()
        network.fuse()
        return _write_folder(network, Path(output_dir))


def _write_folder(network: SODNetwork, target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UsageError(f"cannot write an inference folder to {target}: {error}") from error
    try:
        complete = workspace / target.name
        complete.mkdir()
        save_graph(network, complete / "inference")
        (complete / "inference.yml").write_text(yaml.safe_dump(inference_config(network.spec), sort_keys=False))
        _move_into(complete, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return target


def inference_config(spec: NetworkSpec) -> dict[str, Any]:
    """Content of ``inference.yml``, as PaddleDetection writes it for PaddleX (normalisation is in the graph)."""
    return {
        "mode": "paddle",
        "draw_threshold": DRAW_THRESHOLD,
        "metric": "COCO",
        "use_dynamic_shape": False,
        "Global": {"model_name": spec.name},
        "arch": "YOLO",
        "min_subgraph_size": 3,
        "Preprocess": [
            {"type": "Resize", "target_size": list(spec.input_size), "keep_ratio": False, "interp": CUBIC},
            {"type": "Permute"},
        ],
        "label_list": list(spec.labels),
    }


def inference_graph(network: SODNetwork) -> nn.Layer:
    """The exported computation: ``image`` (RGB, 0 to 255) and ``scale_factor`` to suppressed boxes and their counts."""
    import paddle
    from paddle import Tensor, nn

    class InferenceGraph(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor, scale_factor: Tensor) -> tuple[Tensor, Tensor]:
            boxes, scores = self.network(image * (1.0 / 255.0))
            scale_y, scale_x = scale_factor[:, 0:1], scale_factor[:, 1:2]
            scale = paddle.concat([scale_x, scale_y, scale_x, scale_y], axis=-1).unsqueeze(1)
            kept, _, counts = paddle._C_ops.multiclass_nms3(
                boxes / scale,
                scores,
                None,  # type: ignore[arg-type]  # optional: boxes per picture, when they differ
                NMS_SCORE_THRESHOLD,
                NMS_TOP_K,
                KEEP_TOP_K,
                NMS_IOU_THRESHOLD,
                True,  # IoU without the +1 of pixel counts
                1.0,  # the IoU threshold does not decay
                -1,  # no background class
            )
            return kept, counts

    return InferenceGraph()


def save_graph(network: SODNetwork, prefix: Path) -> None:
    """Write ``prefix.json`` and ``prefix.pdiparams``: fixed input size, any batch.

    Raises:
        JobError: Paddle could not trace or write the graph.
    """
    import paddle
    from paddle.static import InputSpec

    height, width = network.spec.input_size
    inputs = [
        InputSpec([None, 3, height, width], "float32", name="image"),
        InputSpec([None, 2], "float32", name="scale_factor"),
    ]
    try:
        graph = inference_graph(network)
        graph.eval()
        static = paddle.jit.to_static(graph, input_spec=inputs, full_graph=True)
        paddle.jit.save(static, str(prefix))
    except Exception as error:
        raise JobError(f"Paddle {paddle.version.full_version} could not write the graph: {error}") from error
    if not prefix.with_suffix(".json").exists():
        raise JobError(f"Paddle {paddle.version.full_version} wrote no inference.json; Paddle 3.0 or later is needed")


def read_weights(weight_path: str, storage: Storage) -> State:
    """Read a file of weights, a path or URL, as :func:`sodbatch.model.weights.read_pdparams` does.

    Raises:
        UsageError: It cannot be read, or is no such file.
    """
    try:
        return read_pdparams(storage.read_bytes(weight_path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot read the weights {display_uri(weight_path)}: {redact(reason)}") from error
    except UsageError as error:
        raise UsageError(f"{display_uri(weight_path)}: {error}") from error


def labels_beside(weight_path: str, storage: Storage) -> tuple[str, ...] | None:
    """Return the class names that ``sodbatch train`` has written beside weights, in ``.pdstates``; None if it has not.

    Other trainers write files of that name too, which may hold what :func:`read_saved` refuses.
    """
    states = f"{weight_path.removesuffix('.pdparams')}.pdstates"
    try:
        labels = read_saved(storage.read_bytes(states)).get("labels") if storage.exists(states) else None
    except UsageError:
        return None
    return tuple(map(str, labels)) if isinstance(labels, (list, tuple)) else None


def _move_into(complete: Path, target: Path) -> None:
    """Move a complete folder to ``target``; in an existing one, the yml goes first and comes last."""
    try:
        if not target.exists():
            os.replace(complete, target)
            return
        (target / "inference.yml").unlink(missing_ok=True)
        for name in ("inference.pdiparams", "inference.json", "inference.yml"):
            os.replace(complete / name, target / name)
    except OSError as error:
        raise UsageError(f"cannot write an inference folder to {target}: {error}") from error
