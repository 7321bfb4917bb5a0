"""From what a user names to a model folder on this machine: official, local, or on an object store."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from filelock import FileLock

from sodbatch.cache import cache_dir, new_folder
from sodbatch.errors import UsageError
from sodbatch.model.archive import MAX_BYTES, MODEL_FILES
from sodbatch.model.download import download_model
from sodbatch.model.folder import ModelFolder, open_model_folder
from sodbatch.model.spec import SPECS
from sodbatch.storage import FileInfo, Storage, display_uri, local_path, redact

log = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "packaged"
"""Inference folders that are part of this package: the demonstration model."""


def find_model(model_name: str, model_dir: str | None, storage: Storage) -> ModelFolder:
    """Open a model, fetching it into the cache where it is not on this machine.

    Args:
        model_name: Name of an official model, downloaded if there is no ``model_dir``, or of a packaged one.
        model_dir: An inference folder: a path, or a URL of an object store (``s3://bucket/folder``).
        storage: Reads such a URL.

    Raises:
        UsageError: If there is no such model, or it is incomplete.
    """
    if model_dir is None and model_name not in SPECS:
        raise UsageError(
            f"there is no official model {model_name!r}: expected one of {', '.join(SPECS)}, or a model_dir"
        )
    if model_dir is None:
        packaged = PACKAGED / model_name
        return open_model_folder(packaged if packaged.is_dir() else download_model(model_name))
    path = local_path(model_dir)
    return open_model_folder(path if path is not None else _fetch(model_dir, storage))


def _fetch(url: str, storage: Storage) -> Path:
    """Copy a remote folder's model files into the cache, once for every state of these files."""
    shown = display_uri(url)
    try:
        files = [info for info in storage.list_files(url) if _in_folder(info, url)]
        if not files:
            raise UsageError(f"model folder {shown} does not exist, or holds no model files")
        if sum(info.size or 0 for info in files) > MAX_BYTES:
            raise UsageError(f"model folder {shown} has more than {MAX_BYTES} bytes of model files")
        state = repr([url, *sorted((info.url, info.size, info.etag) for info in files)])
        target = cache_dir() / "remote" / hashlib.sha256(state.encode()).hexdigest()[:32]
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                log.info("fetching the model from %s", shown)
                _copy(files, storage, target)
    except OSError as error:
        raise UsageError(f"cannot fetch the model from {shown}: {redact(str(error))}") from error
    return target


def _in_folder(info: FileInfo, url: str) -> bool:
    """Tell whether a listed file is a model file that lies in the folder itself, not deeper."""
    name = info.url.rpartition("/")[2]
    return name in MODEL_FILES and info.url.count("/") == url.rstrip("/").count("/") + 1


def _copy(files: list[FileInfo], storage: Storage, target: Path) -> None:
    with new_folder(target) as whole:
        for info in files:
            name = info.url.rpartition("/")[2]
            (whole / name).write_bytes(storage.read_bytes(info.url, max_bytes=MAX_BYTES))
        open_model_folder(whole)
