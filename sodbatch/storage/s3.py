"""``s3://`` through s3fs, which is imported here and only when needed (extra ``s3``)."""

from __future__ import annotations

import asyncio
import errno
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import fsspec.asyn

from sodbatch.config import FetchSection, S3Section
from sodbatch.errors import UsageError
from sodbatch.storage.errors import TooLargeError, TransientError
from sodbatch.storage.retry import with_retries
from sodbatch.storage.uris import redact, split_version, without_userinfo

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10.0
_READ_AHEAD = 8 * 2**20
_ACCESS_POINT = re.compile(r"arn:[^/]*:accesspoint[/:][^/]+(?:[/:]accesspoint[/:][^/]+)?", re.IGNORECASE)
_TRANSIENT_CODES = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeTooSkewed", "OperationAborted",
    "BadDigest", "IncompleteBody",
}  # fmt: skip


def open_filesystem(s3: S3Section, fetch: FetchSection) -> Any:
    """Make an s3fs file system.

    Keys come from the environment, a profile or the machine's role (botocore's own chain), never from ``s3``.

    Raises:
        UsageError: s3fs is not installed, or the profile does not exist.
    """
    try:
        import s3fs
    except ImportError as error:
        raise UsageError('s3:// needs s3fs: pip install "sodbatch[s3]"') from error
    from botocore.exceptions import ProfileNotFound

    config: dict[str, Any] = {
        "connect_timeout": min(_CONNECT_TIMEOUT_S, fetch.timeout_s),
        "read_timeout": fetch.timeout_s,
        "max_pool_connections": fetch.threads + 8,
        "retries": {"total_max_attempts": 1},  # trying again is with_retries' alone
    }
    if s3.endpoint_url:  # stores that are not AWS often lack the newer checksums
        config |= {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
    try:
        filesystem = s3fs.S3FileSystem(
            anon=s3.anonymous,
            profile=s3.profile,
            endpoint_url=s3.endpoint_url,
            client_kwargs={"region_name": s3.region} if s3.region else None,
            config_kwargs=config,
            requester_pays=s3.requester_pays,
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        filesystem.retries = 1
        filesystem.connect()  # makes the client, asks nobody
    except ProfileNotFound as error:
        raise UsageError(f"S3.profile: {error}") from error
    except ValueError as error:
        raise UsageError(f"S3.endpoint_url, S3.region: {redact(str(error))}") from error
    return filesystem


def split(url: str) -> tuple[str, str, str | None]:
    """Split ``s3://bucket/key[?versionId=v]`` into bucket (or an access point's ARN), key and version."""
    rest = without_userinfo(url).split("://", 1)[-1]
    name, version = split_version(rest)
    point = _ACCESS_POINT.match(name)
    bucket = point.group() if point else name.partition("/")[0]
    return bucket, name[len(bucket) + 1 :], version or None


def tried(call: Callable[[], T], fetch: FetchSection) -> T:
    """Return what a call of s3fs returns, with its errors translated, and tried again after those that may pass.

    Raises:
        FileNotFoundError, PermissionError, TimeoutError, TransientError, OSError: As named.
    """

    def once() -> T:
        try:
            return call()
        except Exception as error:
            raise translate(error) from error

    return with_retries(once, fetch)


def read(
    filesystem: Any,
    url: str,
    timeout_s: float,
    max_bytes: int | None = None,
    conditions: Mapping[str, str] | None = None,
) -> bytes:
    """Read an object with one GET, refused by its size before the body is read.

    Args:
        filesystem: From :func:`open_filesystem`.
        url: The object.
        timeout_s: Bound on the whole.
        max_bytes: The most bytes that are read.
        conditions: What else the request says: ``Range``, ``IfMatch``.

    Raises:
        FileNotFoundError, PermissionError, TimeoutError, TransientError, TooLargeError, OSError: As named.
    """

    async def get() -> bytes:
        client = await filesystem.set_session()
        answer = await client.get_object(**_object(filesystem, url), **(conditions or {}))
        async with answer["Body"] as body:
            size = answer["ContentLength"]
            if max_bytes is not None and size > max_bytes:
                raise TooLargeError(f"{size} bytes, more than the limit of {max_bytes}")
            return bytes(await body.read())

    async def bounded() -> bytes:
        return await asyncio.wait_for(get(), timeout_s)

    try:
        return bytes(fsspec.asyn.sync(filesystem.loop, bounded))
    except Exception as error:
        raise translate(error) from error


def open_object(filesystem: Any, url: str, fetch: FetchSection) -> io.BufferedReader:
    """Open an object for reading, seekable, read ahead by some megabytes.

    Raises:
        FileNotFoundError, PermissionError, TimeoutError, TransientError, OSError: As named; reading raises them too.
    """
    head = tried(lambda: filesystem.call_s3("head_object", **_object(filesystem, url)), fetch)
    raw = _Object(filesystem, url, head["ContentLength"], head.get("ETag"), fetch)
    return _ReadAhead(raw, max(1, min(head["ContentLength"], _READ_AHEAD)))


class _ReadAhead(io.BufferedReader):
    """Fills its buffer also for those who take what is there, as text files do, by some kilobytes."""

    def read1(self, size: int = -1) -> bytes:
        self.peek()
        return super().read1(size)


class _Object(io.RawIOBase):
    """An object as a file: each read is a GET of a range, tried again after an error that may pass."""

    def __init__(self, filesystem: Any, url: str, size: int, etag: str | None, fetch: FetchSection) -> None:
        self._filesystem = filesystem
        self._url = url
        self._size = size
        self._etag = etag
        self._fetch = fetch
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), _READ_AHEAD, self._size - self._position)
        if length <= 0:
            return 0
        data = with_retries(lambda: self._range(self._position, self._position + length), self._fetch)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _range(self, start: int, end: int) -> bytes:
        """Read a range, of the object as it was when it was opened."""
        wanted = f"bytes={start}-{end - 1}"
        conditions = {"Range": wanted} | ({"IfMatch": self._etag} if self._etag else {})
        data = read(self._filesystem, self._url, self._fetch.timeout_s, conditions=conditions)
        if len(data) != end - start:
            raise TransientError(f"{len(data)} bytes came where {end - start} were asked for")
        return data


def _object(filesystem: Any, url: str) -> dict[str, Any]:
    """Name an object in the parameters of a request that reads it."""
    bucket, key, version = split(url)
    return {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {}), **filesystem.req_kw}


def list_pages(filesystem: Any, url: str, fetch: FetchSection, page_size: int = 1000) -> Iterator[list[dict[str, Any]]]:
    """Yield the objects whose key starts as ``url`` does, a page at a time, in the store's order.

    AWS lists in the order of the keys; some other stores list folder by folder.
    """
    bucket, prefix, _ = split(f"{url}?versionId=")
    token: dict[str, str] = {}

    def ask() -> dict[str, Any]:
        return dict(
            filesystem.call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=page_size, **filesystem.req_kw, **token
            )
        )

    while True:
        page = tried(ask, fetch)
        yield page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def translate(error: Exception) -> Exception:
    """Turn what botocore and s3fs raise into this package's and Python's own errors."""
    from botocore.exceptions import (
        BotoCoreError,
        ConnectionError,
        ConnectTimeoutError,
        HTTPClientError,
        NoCredentialsError,
        ReadTimeoutError,
        TokenRetrievalError,
    )
    from s3fs.errors import translate_boto_error

    if isinstance(error, (asyncio.TimeoutError, TimeoutError, ReadTimeoutError, ConnectTimeoutError)):
        return TimeoutError("no complete answer from the store in time")
    if isinstance(error, NoCredentialsError):
        return PermissionError(
            "no S3 credentials found (environment, profile or role); set S3.anonymous for a public bucket"
        )
    if isinstance(error, TokenRetrievalError):
        return PermissionError(str(error))
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    answer = f"S3 answers {code or status}: {response.get('Error', {}).get('Message', '')}"
    if code in _TRANSIENT_CODES or status >= 500 or status == 429:
        return TransientError(answer)
    if code == "PreconditionFailed":
        return OSError("the object has changed while it was read")
    if isinstance(error, (HTTPClientError, ConnectionError)) or type(error).__module__.startswith("aiohttp"):
        return TransientError(f"the connection to S3 failed: {error}")
    if isinstance(error, BotoCoreError):
        return OSError(str(error))
    translated = translate_boto_error(error, set_cause=False)
    if response and isinstance(translated, OSError) and translated.errno == errno.EIO:  # a refusal it does not know
        return OSError(answer)
    if isinstance(translated, PermissionError):
        return PermissionError(answer if response else str(error))
    return translated if isinstance(translated, Exception) else error
