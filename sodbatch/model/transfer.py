"""A model folder on its way to the machines of a cluster, which need not see the driver's disk."""

from __future__ import annotations

from dataclasses import replace

from sodbatch.cache import cache_dir, new_folder
from sodbatch.model.folder import ModelFolder


def read_model_files(folder: ModelFolder) -> dict[str, bytes]:
    """Return the content of a model's files by name."""
    return {file.name: file.read_bytes() for file in (folder.program, folder.params, folder.config)}


def install_model_files(folder: ModelFolder, files: dict[str, bytes]) -> ModelFolder:
    """Write a model's files to this machine's cache, once a fingerprint, and return the folder there.

    Args:
        folder: The folder on the machine that it comes from.
        files: Its files, from :func:`read_model_files`.
    """
    target = cache_dir() / "transferred" / folder.fingerprint
    if not target.is_dir():
        with new_folder(target) as whole:
            for name, content in files.items():
                (whole / name).write_bytes(content)
    moved = {name: target / getattr(folder, name).name for name in ("config", "params", "program")}
    return replace(folder, path=target, **moved)
