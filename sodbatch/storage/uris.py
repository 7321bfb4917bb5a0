"""Names of files: what tables and logs may show of them, and what tells two of them apart. Pure functions.

A source may carry secrets: ``user:password@`` before the host, or a query that grants access (a presigned
URL). ``display_uri`` and ``redact`` take these away; ``identity`` keeps only what says which object is meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import pyarrow as pa
import pyarrow.compute as pc

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_FILE = re.compile(r"(?:file|local):(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.\-]*://)")
_USERINFO = re.compile(
    r"(?<=://)(?!\[|arn:)(?:([^/?#\s@'\"<>]*)@|([^/?#\s@:'\"<>]+:(?!\d+(?:[/?#]|$))(?:(?!://)[^\s@'\"<>])*)@)",
    re.IGNORECASE,
)
_SECRET_USER = re.compile(r"(?:https?|s3[an]?)://$", re.IGNORECASE)
_NO_SECRET_USER = re.compile(r"(?:github|gitlab|git|zip|tar|libarchive)://$", re.IGNORECASE)
_HTTP_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*", re.IGNORECASE)
_VERSION = "?versionId="
_SIGNED_QUERY = re.compile(
    r"\?(?:[^\s&/]*&)*(?:x-(?:amz|goog|oss|obs|cos)-(?:signature|security-token)|signature|sig)=\S{16,}$", re.IGNORECASE
)

_GRANTING_ALONE = (
    r"x-(?:amz|goog|oss|obs|cos)-[\w\-]+|q-(?:sign|ak|key|header|url|signature)[\w\-]*"
    r"|[\w\-]*(?:secret|signature|passw|credential|api[_\-]?key|access[_\-]?key|accessid)[\w\-]*"
    r"|sig|sas|authorization|pwd|key-pair-id"
)
_GRANTING_SIGNED = r"[\w\-]*token[\w\-]*|auth|expires|expiry|policy"
"""Names that grant access beside a signature; without one they may as well name the object (``page_token=2``)."""

_GRANTING_NAME = f"{_GRANTING_ALONE}|{_GRANTING_SIGNED}"
_PARAMETER_ALONE = re.compile(_GRANTING_ALONE, re.IGNORECASE)
_GRANTING_PARAMETER = re.compile(_GRANTING_NAME, re.IGNORECASE)
_SIGNATURE = re.compile(
    r"[\w\-]*signature[\w\-]*|sig|[\w\-]*access[_\-]?key(?:id)?|[\w\-]*accessid|key-pair-id|q-sign[\w\-]*",
    re.IGNORECASE,
)
_GRANTING_VALUE = re.compile(
    rf"((?<![\w\-])(?:{_GRANTING_NAME})['\"]?\s*(?:=|%3D)\s*['\"]?)[^\s&;,'\"<>]+"
    r"|(authorization['\"]?\s*:\s*['\"]?)[^\r\n'\"]+",
    re.IGNORECASE,
)
_AZURE_SAS = {
    "sv",
    "ss",
    "srt",
    "sp",
    "se",
    "st",
    "spr",
    "sr",
    "sip",
    "si",
    "skoid",
    "sktid",
    "skt",
    "ske",
    "sks",
    "skv",
}

_PLAIN = r"^(?:/[^/]|s3://[^/?@:]+/[^?])"
_MORE_THAN_URI = r"\?|(?i:https?)://[^/]*@"
_SUSPECT_URL = r"(?s)://.*[@?#]"
_NOT_PLAIN = r"^/[^\x00]*(?://|/\.{1,2}/|/\.{0,2}$)|\?|^s3://[^\x00]*::"


def scheme(source: str) -> str:
    """Return the scheme of a URL in lower case; empty for a local path."""
    match = _SCHEME.match(source)
    return match.group(1).lower() if match else ""


def local_path(source: str) -> str | None:
    """Return the path of a local file, as given or out of a ``file:`` URL; None for what is not local."""
    if _CHAIN.search(source):
        return None
    match = _FILE.match(source)
    if match:
        return unquote(source[match.end() :], errors="surrogateescape")
    return None if _SCHEME.match(source) else source


def local_source(path: str) -> str:
    """Name a local file so that any process opens it and Arrow can hold the name.

    Returns:
        The absolute path without symbolic links resolved, or its ``file://`` URL where the path is not UTF-8.
    """
    absolute = os.path.abspath(path)
    if absolute.startswith("//"):
        absolute = absolute[1:]
    try:
        absolute.encode()
    except UnicodeEncodeError:
        return "file://" + quote(absolute, errors="surrogateescape")
    return absolute


def absolute(source: str) -> str:
    """Name a source so that a process in another folder finds it too; what is not local stays as it is."""
    path = local_path(source)
    return source if path is None else local_source(path)


def is_http(source: str) -> bool:
    """Tell whether a source is read with a GET."""
    return scheme(source) in ("http", "https")


def is_s3(source: str) -> bool:
    """Tell whether a source is on S3; ``s3a://`` is Hadoop's name for it."""
    return scheme(source) in ("s3", "s3a")


def without_userinfo(text: str) -> str:
    """Take secrets before a host out of each URL of a text; ``name@`` alone stays but for http(s) and s3.

    There a bare name may be a key; elsewhere it says what is meant: a container (``abfs://c@account``), a user's
    home (``sftp://alice@host``). Archives and repositories (``github://org:repo@main``) have no password there.
    """
    return _USERINFO.sub(_shown_user, text)


def _shown_user(match: re.Match[str]) -> str:
    before = match.string[max(match.start() - 16, 0) : match.start()]
    if _SECRET_USER.search(before):
        return ""
    if _NO_SECRET_USER.search(before):
        return match.group()
    user = (match.group(1) or match.group(2) or "").split(":", 1)[0]
    return user and user + "@"


def display_uri(source: str) -> str:
    """Return what tables and logs show of a source: absolute for local files, without credentials.

    The query of http(s) is not shown. Elsewhere a ``?`` belongs to the name, but for an object's version and for
    what is signed.
    """
    path = local_path(source)
    if path is not None:
        return _SIGNED_QUERY.sub("", local_source(path))  # a URL that is not written as one is taken for a path
    return "::".join(_display_link(link) for link in _CHAIN.split(source))


def _display_link(link: str) -> str:
    if _FILE.match(link):
        return local_source(local_path(link) or "")
    name = scheme(link)
    if not name:
        return link
    rest = without_userinfo(name + link[len(name) :])[len(name) :]
    if is_http(link):
        return name + re.split(r"[?#]", rest, maxsplit=1)[0]
    rest = _SIGNED_QUERY.sub("", rest)
    if is_s3(link):
        return "s3" + split_version(rest)[0]
    return name + rest


def split_version(url: str) -> tuple[str, str | None]:
    """Split what ends in ``?versionId=v`` at the last of these; None where it does not."""
    name, mark, version = url.rpartition(_VERSION)
    return (name, version) if mark else (url, None)


def exact_s3(bucket: str, key: str) -> str:
    """Return the URL of a key as listed; one that has ``?versionId=`` in itself ends in another, without a version."""
    return f"s3://{bucket}/{key}" + (_VERSION if _VERSION in key else "")


def identity(source: str) -> str:
    """Return what a picture's id is made from: ``display_uri`` and what else tells two objects apart.

    That is an object's version, and for http(s) a user without password and the query parameters that grant
    nothing: ``http://x/get?id=5`` and ``?id=6`` are two pictures, two presigned URLs of one object are one.
    """
    if (path := local_path(source)) is not None:
        return local_source(path)
    return "::".join(_identity_link(link) for link in _CHAIN.split(source))


def _identity_link(link: str) -> str:
    shown = _display_link(link)
    if is_s3(link):
        version = split_version(_SIGNED_QUERY.sub("", link))[1]
        return shown if version is None else shown + _VERSION + version
    if not is_http(link):
        return shown
    if (user := _USERINFO.search(link)) and ":" not in user.group():
        shown = shown.replace("://", f"://{user.group()}", 1)
    query = link.partition("?")[2].split("#", 1)[0]
    kept = _naming_parameters(query)
    if query and "=" not in query:
        return f"{shown}?{query}"
    return f"{shown}?{urlencode(kept)}" if kept else shown


def _naming_parameters(query: str) -> list[tuple[str, str]]:
    """Return the parameters that may tell which object is meant, sorted."""
    parameters = parse_qsl(query, keep_blank_values=True)
    names = {name.lower() for name, _ in parameters}
    drop = (_AZURE_SAS if "sig" in names else set()) | ({"x-id"} if "x-amz-signature" in names else set())
    signed = any(_SIGNATURE.fullmatch(name) for name in names)
    granting = _GRANTING_PARAMETER if signed else _PARAMETER_ALONE
    return sorted((n, v) for n, v in parameters if n.lower() not in drop and not granting.fullmatch(n))


def redact(text: str) -> str:
    """Take secrets out of any text: passwords in URLs, the queries of http(s), and values with secret names."""
    text = _HTTP_QUERY.sub(r"\1?[redacted]", without_userinfo(text))
    return _GRANTING_VALUE.sub(lambda m: (m.group(1) or m.group(2)) + "[redacted]", text)


def display_column(sources: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return ``display_uri`` of every source (strings, no nulls); plain paths and s3 URLs cost no Python."""
    sources = _one_chunk(sources)
    plain = pc.match_substring_regex(sources, _PLAIN)
    unusual = pc.match_substring_regex(sources, _NOT_PLAIN)
    return _map_where(pc.or_(pc.invert(plain), unusual), display_uri, sources, otherwise=sources)


def identity_column(sources: pa.Array | pa.ChunkedArray, uris: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return ``identity`` of every source (strings without nulls), given its ``uri``.

    A row without a source (the manifest named none) is told apart by its ``uri``.
    """
    sources = _one_chunk(sources)
    return _map_where(pc.match_substring_regex(sources, _MORE_THAN_URI), identity, sources, otherwise=_one_chunk(uris))


def redact_column(values: pa.Array) -> pa.Array:
    """Return ``redact`` of every text that may hold a URL with a secret, also inside of lists and records and in
    bytes; all else, and nulls, as it is."""
    if values.type != pa.string():
        return _redact_others(values)
    mask = pc.fill_null(pc.match_substring_regex(values, _SUSPECT_URL), False)
    return _map_where(mask, redact, values, otherwise=values)


def _redact_others(values: pa.Array) -> pa.Array:
    if not _may_hold_text(values.type):
        return values
    found = values.to_pylist()
    clean = [_redacted(value) for value in found]
    return pa.array(clean, values.type) if clean != found else values


def _may_hold_text(kind: pa.DataType) -> bool:
    if pa.types.is_map(kind):
        return _may_hold_text(kind.key_type) or _may_hold_text(kind.item_type)
    if pa.types.is_struct(kind):
        return any(_may_hold_text(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _may_hold_text(kind.value_type)
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _redacted(value: Any) -> Any:
    """Redact every text in a value, however deep."""
    if isinstance(value, str):
        return redact(value) if "://" in value else value
    if isinstance(value, bytes):
        return redact(value.decode("latin-1")).encode("latin-1") if b"://" in value else value
    if isinstance(value, (list, tuple)):
        return type(value)(map(_redacted, value))
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items()}
    return value


def printable(text: str) -> str:
    """Return text in one line for a terminal: what a hostile name could do to that is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _one_chunk(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _map_where(mask: pa.Array, function: Callable[[str], str], sources: pa.Array, otherwise: pa.Array) -> pa.Array:
    """Return ``function(source)`` where the mask is true and ``otherwise`` elsewhere."""
    if not mask.true_count:
        return otherwise
    values = [function(source) for source in sources.filter(mask).to_pylist()]
    return pc.replace_with_mask(otherwise, mask, pa.array(values, pa.string()))
