"""``s3://`` through s3fs, which is imported here and only when needed (extra ``s3``)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import fsspec.asyn

from sodbatch.config import FetchSection, S3Section
from sodbatch.errors import UsageError
from sodbatch.storage.errors import TooLargeError, TransientError
from sodbatch.storage.retry import with_retries
from sodbatch.storage.uris import redact, split_version, without_userinfo

_CONNECT_TIMEOUT_S = 10.0
_ATTEMPTS = 2
_ACCESS_POINT = re.compile(r"arn:[^/]*:accesspoint[/:][^/]+(?:[/:]accesspoint[/:][^/]+)?", re.IGNORECASE)
_TRANSIENT_CODES = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeTooSkewed", "OperationAborted",
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
        "retries": {"mode": "standard", "max_attempts": _ATTEMPTS},
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


def read(filesystem: Any, url: str, timeout_s: float, max_bytes: int | None = None) -> bytes:
    """Read an object with one GET, refused by its size before the body is read.

    Raises:
        FileNotFoundError, PermissionError, TimeoutError, TransientError, TooLargeError, OSError: As named.
    """
    bucket, key, version = split(url)

    async def get() -> bytes:
        client = await filesystem.set_session()
        keywords = {"VersionId": version} if version else {}
        answer = await client.get_object(Bucket=bucket, Key=key, **filesystem.req_kw, **keywords)
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


def list_pages(filesystem: Any, url: str, fetch: FetchSection, page_size: int = 1000) -> Iterator[list[dict[str, Any]]]:
    """Yield the objects whose key starts as ``url`` does, a page at a time, in the store's order.

    AWS lists in the order of the keys; some other stores list folder by folder.
    """
    bucket, prefix, _ = split(f"{url}?versionId=")
    token: dict[str, str] = {}

    def ask() -> dict[str, Any]:
        try:
            return filesystem.call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=page_size, **filesystem.req_kw, **token
            )
        except Exception as error:
            raise translate(error) from error

    while True:
        page = with_retries(ask, fetch)
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
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if response is not None:
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _TRANSIENT_CODES or status >= 500 or status == 429:
            return TransientError(f"S3 answers {code or status}: {response.get('Error', {}).get('Message', '')}")
    if isinstance(error, (HTTPClientError, ConnectionError)) or type(error).__module__.startswith("aiohttp"):
        return TransientError(f"the connection to S3 failed: {error}")
    if isinstance(error, BotoCoreError):
        return OSError(str(error))
    translated = translate_boto_error(error, set_cause=False)
    return translated if isinstance(translated, Exception) else error
