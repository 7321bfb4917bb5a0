"""Names of files: what tables and logs may show of them, and what tells two of them apart. Pure functions.

A source may carry secrets: ``user:password@`` before the host, or a query that grants access (a presigned
URL). ``display_uri`` and ``redact`` take these away; ``identity`` keeps only what says which object is meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote, urlencode

import pyarrow as pa
import pyarrow.compute as pc

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_FILE = re.compile(r"(?:file|local):(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.\-]*://)")
_USERINFO = re.compile(r"(?<=://)(?:[^/?#\s@'\"<>]*@|[^/?#\s@:'\"<>]+:(?!\d+(?:[/?#]|$))[^\s@'\"<>]*@)")
_HTTP_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*", re.IGNORECASE)
_QUERY = re.compile(r"(://[^\s?'\"<>]*)\?[\w.~%\-]+=[^\s'\"<>]*")

_GRANTING_NAME = (
    r"x-(?:amz|goog|oss|obs|cos)-[\w\-]+|q-(?:sign|ak|key|header|url|signature)[\w\-]*"
    r"|[\w\-]*(?:token|secret|signature|passw|credential|api[_\-]?key|access[_\-]?key|accessid)[\w\-]*"
    r"|sig|sas|auth|authorization|pwd|expires|expiry|policy|key-pair-id"
)
_GRANTING_PARAMETER = re.compile(_GRANTING_NAME, re.IGNORECASE)
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


def display_uri(source: str) -> str:
    """Return what tables and logs show of a source: absolute for local files, without credentials or query.

    A ``?`` in an object's key is kept unless a query (``name=value``) follows it.
    """
    path = local_path(source)
    if path is not None:
        return local_source(path)
    return "::".join(_display_link(link) for link in _CHAIN.split(source))


def _display_link(link: str) -> str:
    if _FILE.match(link):
        return local_source(local_path(link) or "")
    name = scheme(link)
    if not name:
        return link
    rest = _USERINFO.sub("", link[len(name) :], count=1)
    if name in ("http", "https"):
        return name + re.split(r"[?#]", rest, maxsplit=1)[0]
    return ("s3" if name == "s3a" else name) + _QUERY.sub(r"\1", rest)


def identity(source: str) -> str:
    """Return what a picture's id is made from: ``display_uri`` and the query parameters that grant nothing.

    ``http://x/get?id=5`` and ``?id=6`` are two pictures; two presigned URLs of one object are one.
    """
    shown = display_uri(source)
    if local_path(source) is not None or "?" not in source:
        return shown
    query = source.split("?", 1)[1].split("#", 1)[0]
    if "=" not in query and shown.endswith("?" + query):
        return shown
    parameters = parse_qsl(query, keep_blank_values=True)
    names = {name.lower() for name, _ in parameters}
    drop = (_AZURE_SAS if "sig" in names else set()) | ({"x-id"} if "x-amz-signature" in names else set())
    kept = sorted((n, v) for n, v in parameters if n.lower() not in drop and not _GRANTING_PARAMETER.fullmatch(n))
    return f"{shown}?{urlencode(kept)}" if kept else shown


def redact(text: str) -> str:
    """Take secrets out of any text: each URL's userinfo and query, and values with secret names."""
    text = _USERINFO.sub("", text)
    text = _QUERY.sub(r"\1?[redacted]", _HTTP_QUERY.sub(r"\1?[redacted]", text))
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
    return _map_where(pc.match_substring(sources, "?"), identity, sources, otherwise=_one_chunk(uris))


def _one_chunk(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _map_where(mask: pa.Array, function: Callable[[str], str], sources: pa.Array, otherwise: pa.Array) -> pa.Array:
    """Return ``function(source)`` where the mask is true and ``otherwise`` elsewhere."""
    if not mask.true_count:
        return otherwise
    values = [function(source) for source in sources.filter(mask).to_pylist()]
    return pc.replace_with_mask(otherwise, mask, pa.array(values, pa.string()))
