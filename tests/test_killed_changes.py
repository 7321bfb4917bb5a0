"""Whole commands that change a data set, killed by SIGKILL before one of their renames, and given again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KILLED = """
import os, signal, sys
left, folder, replace = int(sys.argv[1]), sys.argv[2], os.replace
def dying(source, target, **others):
    global left
    if str(target).startswith(folder):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    return replace(source, target, **others)
os.replace = dying
from sodbatch.cli import main
sys.exit(main(sys.argv[3:]))
"""


def command(dataset: Path, output: Path, change: str) -> list[str]:
    options = {
        "split": [
            "CheckDataset.split.enable=true",
            "CheckDataset.split.train_percent=50",
            "CheckDataset.split.val_percent=50",
        ],
        "convert": ["CheckDataset.convert.enable=true", "CheckDataset.convert.src_dataset_type=VOC"],
    }[change]
    words = ["check_dataset", "--dataset-dir", str(dataset), "--output", str(output), "--engine", "inline"]
    return words + [word for option in [*options, "CheckDataset.decode=false"] for word in ("-o", option)]


def run(dataset: Path, output: Path, change: str, killed_at: int | None = None) -> int:
    words = command(dataset, output, change)
    start = ["-m", "sodbatch"] if killed_at is None else ["-c", KILLED, str(killed_at), str(dataset)]
    return subprocess.run([sys.executable, *start, *words], capture_output=True).returncode


def voc(scenes: Path, target: Path) -> Path:
    """The scenes in VOC's format, by this project's own way out, with the lists that a conversion reads."""
    folder = shutil.copytree(scenes, target)
    out = target.parent / "converted"
    words = ["check_dataset", "--dataset-dir", str(folder), "--output", str(out), "--engine", "inline"]
    options = [
        "CheckDataset.decode=false",
        "CheckDataset.convert.enable=true",
        "CheckDataset.convert.dst_dataset_type=VOC",
    ]
    words += [word for option in options for word in ("-o", option)]
    subprocess.run([sys.executable, "-m", "sodbatch", *words], check=True, capture_output=True)
    shutil.rmtree(folder / "annotations")
    return Path(shutil.copytree(out / "VOC", folder, dirs_exist_ok=True))


def files(dataset: Path) -> dict[str, bytes]:
    """What a data set holds but for its pictures."""
    found = (path for path in dataset.rglob("*") if path.is_file() and "images" not in path.parts)
    return {str(path.relative_to(dataset)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def sets(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each change a data set to begin with, and beside it (``-done``) what becomes of it undisturbed."""
    folder = tmp_path_factory.mktemp("changes")
    begun = {"split": Path(shutil.copytree(scenes, folder / "split")), "convert": voc(scenes, folder / "convert")}
    for change, dataset in begun.items():
        done = Path(shutil.copytree(dataset, folder / f"{change}-done"))
        assert run(done, folder / "out", change) == 0
    return begun


# renames of each: two new files, the note of what is to be swapped, then the swap; those of a split keep the originals
@pytest.mark.parametrize(("change", "at"), [(change, at) for change in ("split", "convert") for at in (1, 3, 4)])
def test_a_killed_command_given_again_ends_as_if_it_had_not_been(
    sets: dict[str, Path], tmp_path: Path, change: str, at: int
) -> None:
    begun = sets[change]
    undisturbed = files(begun.with_name(f"{begun.name}-done"))
    dataset = Path(shutil.copytree(begun, tmp_path / "set"))
    code = run(dataset, tmp_path / "out", change, killed_at=at)
    assert code == -9
    kept = files(dataset)
    for name, content in files(begun).items():  # nothing of the source is lost, wherever it was stopped
        assert content in (kept.get(name), kept.get(f"{name}.bak"))
    assert run(dataset, tmp_path / "out", change) == 0
    assert {name: json.loads(data) if ".json" in name else data for name, data in files(dataset).items()} == {
        name: json.loads(data) if ".json" in name else data for name, data in undisturbed.items()
    }
