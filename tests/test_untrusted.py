"""Model folders and weights of strangers: nothing runs, memory is bounded, and every flaw is one line."""

from __future__ import annotations

import json
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sodbatch.errors import UsageError
from sodbatch.model.folder import open_model_folder
from sodbatch.model.weights import MAX_MEMO, read_pdparams
from sodbatch.predictor import create_predictor


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        open_model_folder(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1_000
    return message


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)
MERGED = "a: &a {k: v}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 10)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (BOMB + "label_list: *i", "unfolds to more than"),
        (BOMB + "draw_threshold: *i", "unfolds to more than"),
        (MERGED, "unfolds to more than"),
        ("label_list: &a [*a]", "unfolds to more than"),
        ("label_list: " + "[" * 50_000, "nested too deeply"),
        ("label_list: " + "{a: " * 50_000, "nested too deeply"),
        ("label_list: !!python/object/apply:os.system [touch ran]", "not YAML: could not determine a constructor"),
        ("label_list: !!python/name:os.system", "not YAML: could not determine a constructor"),
        ("draw_threshold: 2026-99-99", "not YAML: month must be"),
        ("label_list: [a]\n#" + "x" * 2**20, "more than 1,048,576 bytes"),
        ("label_list: \0", "not YAML"),
        ("draw_threshold: .nan", "expected a number from 0 to 1"),
        ("Preprocess: [{type: Resize, target_size: [99999, 99999]}, {type: Permute}]", "sides of at most"),
        ("Preprocess: [{type: Resize, target_size: [9, 9], interp: [1]}, {type: Permute}]", "interp"),
        ("Preprocess: [{type: Resize, target_size: [9, 9], [1]: 2}, {type: Permute}]", "not YAML|keys"),
        ("Preprocess: [{type: Resize, target_size: [9, 9], 1: 2}, {type: Permute}]", "keys"),
        ("Preprocess: [{type: {}}, {type: []}]", "supported are"),
    ],
)
def test_a_hostile_yml_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str) -> None:
    monkeypatch.chdir(folder)
    path = folder / "inference.yml"
    config = yaml.safe_load(path.read_text())
    config.pop(change.splitlines()[-1].partition(":")[0], None)
    path.write_text(yaml.safe_dump(config) + change)
    assert re.search(message, refusal(folder))
    assert not (folder / "ran").exists()


def test_aliases_that_unfold_to_little_are_read(folder: Path) -> None:
    path = folder / "inference.yml"
    path.write_text(path.read_text() + "one: &one [0, 0, 0]\ntwo: *one\nthree: {<<: {a: 1}}\n")
    assert open_model_folder(folder).labels


def operation(kind: str, **attributes: Any) -> dict[str, Any]:
    return {"#": kind, "A": [{"N": name, "AT": {"D": value}} for name, value in attributes.items()]}


def program(*operations: Any) -> dict[str, Any]:
    return {"program": {"regions": [{"blocks": [{"ops": list(operations)}]}]}}


IMAGE, SCALE = (
    operation("1.data", name="image", shape=[-1, 3, 320, 320]),
    operation("1.data", name="scale_factor", shape=[1, 2]),
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"program": ' * 100_000, "nested too deeply"),
        ("{", "not JSON"),
        ("[]", "not a Paddle 3 program"),
        (program(1), "not a Paddle 3 program"),
        (program(operation("1.data", name="image", shape=None)), "not a Paddle 3 program"),
        (program(operation("1.data", name=[1], shape=[1]), operation("1.data", name=5, shape=[1])), "the graph takes"),
        (program(operation("1.data", name="x" * 10**6, shape=[1])), "the graph takes xxx"),
        (program(IMAGE), "expected a PP-YOLOE detector"),
        (program(IMAGE, SCALE, operation("1.multiclass_nms3", keep_top_k="all")), "not a Paddle 3 program"),
        (program(IMAGE, SCALE, operation("1.multiclass_nms3", keep_top_k=float("inf"))), "not a Paddle 3 program"),
        (program(operation("1.data", name="image", shape=[1, 3, 10**9, 10**9]), SCALE), "the graph takes pictures of"),
    ],
)  # fmt: skip
def test_a_hostile_graph_is_refused(folder: Path, content: Any, message: str) -> None:
    (folder / "inference.json").write_text(content if isinstance(content, str) else json.dumps(content))
    assert message in refusal(folder)


@pytest.mark.parametrize("name", ["inference.yml", "inference.json", "inference.pdiparams"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "/dev/zero", "inference.yml/../../outside", "itself"])
def test_no_file_is_read_through_a_link_out_of_the_folder(folder: Path, name: str, target: str) -> None:
    (folder.parent / "outside").write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(name if target == "itself" else target)
    assert "is a link out of the folder" in (message := refusal(folder)) or "lacks" in message


def bare(path: Path, outputs: int) -> None:
    """Export a graph that takes what a detector takes, and gives something else."""
    import paddle
    from paddle.static import InputSpec

    class Other(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.linear = paddle.nn.Linear(1, 4)

        def forward(self, image: Any, scale_factor: Any) -> Any:
            whole = self.linear(image.mean(axis=[1, 2, 3]).reshape([-1, 1]) + scale_factor.sum(axis=1, keepdim=True))
            return tuple(whole * i for i in range(outputs)) if outputs > 1 else whole

    specs = [InputSpec([None, 3, 320, 320], "float32", "image"), InputSpec([None, 2], "float32", "scale_factor")]
    paddle.jit.save(paddle.jit.to_static(Other().eval(), input_spec=specs, full_graph=True), str(path / "inference"))


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("backend", ["paddle", "openvino", "onnxruntime"])
def test_a_graph_of_another_kind_does_not_load(folder: Path, backend: str, outputs: int, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path / "cache"))
    bare(folder, outputs)
    with pytest.raises(UsageError) as caught:
        create_predictor(open_model_folder(folder), backend=backend)
    assert "\n" not in str(caught.value)


class _Memo:
    """Bytes of a pickle that says its only object has a very high number."""

    data = b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b"."


def test_a_pickle_cannot_claim_memory_by_numbers() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=f"at most {MAX_MEMO}"):
        read_pdparams(_Memo.data)
    with pytest.raises(UsageError):
        read_pdparams(b"}p2000000000\n.")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10
    assert read_pdparams(pickle.dumps({"w": np.ones(3, np.float32)}, 2))["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("key", ["Export.weight_path", "Predict.model_dir", "Global.output", "Predict.input"])
def test_a_hostile_configuration_runs_nothing(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    path = tmp_path / "config.yaml"
    for value in ("!!python/object/apply:os.system [touch ran]", "&a [*a]", "[" * 100_000):
        path.write_text(f"{section}:\n  {name}: {value}\n")
        done = subprocess.run(
            [sys.executable, "-m", "sodbatch", "run", "-c", str(path)], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and "not valid YAML" in done.stderr
    assert not (tmp_path / "ran").exists()
