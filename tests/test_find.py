"""From what a user names to a model folder: only the files of the folder itself, whatever lies beneath it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from sodbatch.model.find import find_model
from sodbatch.storage import Storage


@pytest.fixture
def remote(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    for file in Path(tiny_model_dir).iterdir():
        memory.pipe_file(f"/models/tiny/{file.name}", file.read_bytes())
    yield "memory://models/tiny"
    memory.rm("/models", recursive=True)


@pytest.mark.parametrize("end", ["", "/"])
def test_files_of_a_folder_of_the_same_name_deeper_down_are_not_taken(
    remote: str, tiny_model_dir: Path, end: str
) -> None:
    fsspec.filesystem("memory").pipe_file("/models/tiny/old/tiny/inference.yml", b"label_list: [another model]")
    folder = find_model("PP-YOLOE_plus_SOD-tiny", remote + end, Storage())
    assert folder.config.read_bytes() == (Path(tiny_model_dir) / "inference.yml").read_bytes()


def test_a_relative_path_is_found_from_another_working_directory(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(tiny_model_dir).parent)
    folder = find_model("PP-YOLOE_plus_SOD-tiny", Path(tiny_model_dir).name, Storage())
    monkeypatch.chdir("/")
    assert folder.program.is_file() and folder.path.is_dir()
