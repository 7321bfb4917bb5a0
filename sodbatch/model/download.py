"""Official inference models by name: downloaded once into the cache, resumed when cut off."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock

from sodbatch.cache import cache_dir, new_folder
from sodbatch.errors import UsageError
from sodbatch.model.archive import MAX_BYTES, unpack_model
from sodbatch.model.folder import open_model_folder
from sodbatch.storage import redact

log = logging.getLogger(__name__)

OFFICIAL_BASE_URL = "https://paddle-model-ecology.bj.bcebos.com/paddlex/official_inference_model/paddle3.0rc0"
"""Where PaddleX's official inference archives lie."""

ATTEMPTS = 5
PAUSE_S = 1.0
"""Before the second attempt; it doubles each time."""

TIMEOUT_S = (10, 60)
CHUNK_BYTES = 64 * 2**10
"""Read at a time; the last, broken one of a cut-off connection is lost."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class _CutOffError(Exception):
    """The connection ended early; what has arrived is kept."""


def model_base_url() -> str:
    """Return what holds ``<model>_infer.tar``: ``$SODBATCH_MODEL_BASE_URL`` where it says something, else PaddleX's."""
    return (os.environ.get("SODBATCH_MODEL_BASE_URL") or OFFICIAL_BASE_URL).rstrip("/")


def download_model(model_name: str) -> Path:
    """Return the folder of an official inference model, downloading it if the cache lacks it.

    Of several processes one downloads and the others wait for it.

    Args:
        model_name: Such as ``PP-YOLOE_plus_SOD-S``.

    Raises:
        UsageError: If the model does not exist there, cannot be reached, or is not what it should be.
    """
    if not _NAME.fullmatch(model_name):
        raise UsageError(f"model name {model_name!r} is not one; expected such as PP-YOLOE_plus_SOD-S")
    base_url = model_base_url()
    if not base_url.startswith(("http://", "https://")):
        raise UsageError(f"SODBATCH_MODEL_BASE_URL = {redact(base_url)} is not http or https")
    home = cache_dir() / "official" / hashlib.sha256(base_url.encode()).hexdigest()[:12]
    target = home / model_name
    if target.is_dir():
        return target
    url = f"{base_url}/{model_name}_infer.tar"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f"{model_name}.lock"):
            if not target.is_dir():
                archive = home / f"{model_name}_infer.tar.part"
                _download(url, archive, model_name)
                _publish(archive, target, url)
    except OSError as error:
        raise UsageError(
            f"cannot keep {model_name} in {home}: {error.strerror or error}; "
            "set SODBATCH_CACHE to a folder that can be written"
        ) from error
    return target


def _publish(archive: Path, target: Path, url: str) -> None:
    """Unpack, check, and make it appear; the archive is deleted, also a bad one."""
    try:
        with new_folder(target) as unpacked:
            unpack_model(archive, unpacked)
            open_model_folder(unpacked)
    except UsageError as error:
        raise UsageError(f"{redact(url)} is no usable model: {error}") from error
    finally:
        archive.unlink()
        _validator_file(archive).unlink(missing_ok=True)


def _download(url: str, archive: Path, model_name: str) -> None:
    """Download into ``archive``, going on where an earlier attempt, of this or another run, was cut off."""
    log.info("downloading %s", redact(url))
    with _progress(model_name) as show, requests.Session() as session:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _receive(session, url, archive, show)
            except (requests.RequestException, _CutOffError) as error:
                reason = _reason(error)
                log.warning("download of %s, attempt %d of %d: %s", model_name, attempt, ATTEMPTS, reason)
            if attempt < ATTEMPTS:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
    raise UsageError(
        f"cannot download {model_name} from {redact(url)}: {reason}. Without access to it, fetch and unpack "
        "the archive elsewhere and name the folder: Predict.model_dir, or create_model(model_dir=...)"
    )


def _receive(session: requests.Session, url: str, archive: Path, show: Any) -> None:
    """Make one request for what is missing of the archive.

    A part is continued only if the server says by its ETag or date that the file is the same.
    """
    have, validator = _part(archive)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416 and have:
            archive.unlink()
            raise _CutOffError("the part downloaded before is of another file; starting again")
        if response.status_code in (401, 403, 404):
            raise UsageError(
                f"no model at {redact(url)}: the server answers {response.status_code}; check the name and the base URL"
            )
        response.raise_for_status()
        continued = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        have = have if continued else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        if total is not None and total > MAX_BYTES:
            raise UsageError(f"{redact(url)} has {total} bytes; a model archive has at most {MAX_BYTES}")
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        _validator_file(archive).write_text(json.dumps(validator))
        with archive.open("ab" if continued else "wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                show(have, total)
                if have > MAX_BYTES:
                    raise UsageError(f"{redact(url)} has more than {MAX_BYTES} bytes; no model archive has")
    if total is not None and have != total:
        raise _CutOffError(f"the connection ended after {have} of {total} bytes")


def _part(archive: Path) -> tuple[int, str]:
    """Bytes that can be continued, and the validator they came with (a weak ETag proves nothing)."""
    try:
        validator = json.loads(_validator_file(archive).read_text())
        have = archive.stat().st_size
    except (OSError, ValueError):
        return 0, ""
    return (have, validator) if validator and not validator.startswith("W/") else (0, "")


def _validator_file(archive: Path) -> Path:
    return archive.with_suffix(".validator")


def _reason(error: Exception) -> str:
    """One line without the URL, which requests' own messages carry."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.RequestException):
        return "no connection to the server"
    return str(error)


@contextmanager
def _progress(model_name: str) -> Iterator[Any]:
    """A progress bar on a terminal; yields ``show(received bytes, total bytes or None)``."""
    if not sys.stderr.isatty():
        yield lambda received, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(model_name, total=None)
        yield lambda received, total: progress.update(task, completed=received, total=total)
