from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sodbatch.model.folder import open_model_folder
from sodbatch.model.transfer import install_model_files, read_model_files


def test_a_model_arrives_on_another_machine_as_it_was(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path))
    folder = open_model_folder(tiny_model_dir)
    files = read_model_files(folder)
    arrived = []
    threads = [threading.Thread(target=lambda: arrived.append(install_model_files(folder, files))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(arrived) == 4
    there = open_model_folder(arrived[0].path)
    assert there.fingerprint == folder.fingerprint and there.path.is_relative_to(tmp_path)
    assert (there.program, there.params, there.config) == (arrived[0].program, arrived[0].params, arrived[0].config)
    assert [path.name for path in there.path.parent.iterdir()] == [folder.fingerprint]
