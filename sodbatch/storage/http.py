"""``http(s)://``: one bounded GET, with a limit on its whole time."""

from __future__ import annotations

import http.client
import logging
import threading
import time

import requests
import urllib3

from sodbatch.storage.deadline import DeadlineAdapter
from sodbatch.storage.errors import TooLargeError, TransientError

_CHUNK = 1 << 16
_TRANSIENT_STATUS = (408, 425, 429)
_per_thread = threading.local()

# Its warnings show URLs whole, presigned ones too; what matters of them is in the row's error.
logging.getLogger("urllib3").setLevel(logging.ERROR)


def get(url: str, timeout_s: float, max_bytes: int | None = None) -> bytes:
    """Fetch a URL's body.

    Args:
        url: May carry ``user:password@``; proxies come from the environment.
        timeout_s: Bound on the whole: connecting, redirects, headers and body.
        max_bytes: Refused by Content-Length before the body is read, else when it is passed.

    Raises:
        FileNotFoundError, PermissionError, TimeoutError: By status 404/410, 401/403/407, or time.
        TransientError: Connection broken, body cut off, 5xx, 408, 425 or 429.
        TooLargeError: More than ``max_bytes``.
        OSError: Any other status, an impossible URL.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with _session(deadline).get(url, stream=True) as response:
            _check_status(response.status_code)
            length = response.headers.get("Content-Length", "")
            if max_bytes is not None and length.isdecimal() and int(length) > max_bytes:
                raise TooLargeError(f"{length} bytes, more than the limit of {max_bytes}")
            return _read_body(response.raw, deadline, timeout_s, max_bytes)
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise TransientError(_connection_message(error)) from error
    except urllib3.exceptions.HTTPError as error:
        raise TransientError(f"the connection broke before the body was complete: {error}") from error
    except (requests.RequestException, ValueError) as error:
        raise OSError(f"cannot be requested: {error}") from error


def exists(url: str, timeout_s: float) -> bool:
    """Tell whether a URL answers with a success."""
    try:
        with _session(time.monotonic() + timeout_s).get(url, stream=True) as response:
            return bool(response.ok)
    except requests.RequestException:
        return False


def _session(deadline: float) -> requests.Session:
    """Return this thread's session: connections are reused, and none is shared between threads.

    Args:
        deadline: Of the next request, in the time of ``time.monotonic``.
    """
    session = getattr(_per_thread, "session", None)
    if session is None:
        session = _per_thread.session = requests.Session()
        session.headers.update({"User-Agent": "sodbatch", "Accept-Encoding": "identity"})
        _per_thread.adapter = DeadlineAdapter()
        session.mount("http://", _per_thread.adapter)
        session.mount("https://", _per_thread.adapter)
    _per_thread.adapter.deadline = deadline
    return session


def _check_status(status: int) -> None:
    if status < 300:
        return
    text = f"HTTP {status} {http.client.responses.get(status, '')}".strip()
    if status in (404, 410):
        raise FileNotFoundError(text)
    if status in (401, 403, 407):
        raise PermissionError(text)
    if status >= 500 or status in _TRANSIENT_STATUS:
        raise TransientError(text)
    raise OSError(text)


def _read_body(raw: urllib3.BaseHTTPResponse, deadline: float, timeout_s: float, max_bytes: int | None) -> bytes:
    chunks, total = [], 0
    while chunk := raw.read1(_CHUNK, decode_content=True):
        chunks.append(chunk)
        total += len(chunk)
        if max_bytes is not None and total > max_bytes:
            raise TooLargeError(f"more than the limit of {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not complete within {timeout_s:g} s ({total} bytes came)")
    if raw.length_remaining:
        raise TransientError(f"the body ended {raw.length_remaining} bytes early")
    return b"".join(chunks)


def _connection_message(error: requests.RequestException) -> str:
    reason = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    return f"cannot connect: {str(reason).rsplit(': ', 1)[-1]}"
