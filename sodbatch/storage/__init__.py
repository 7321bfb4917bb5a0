"""Storage: local paths, ``s3://``, ``http(s)://`` and any other fsspec scheme behind one class."""

from sodbatch.storage.errors import NotAFileError, TooLargeError, TransientError
from sodbatch.storage.info import FileInfo
from sodbatch.storage.store import Storage
from sodbatch.storage.uris import (
    absolute,
    display_column,
    display_uri,
    identity_column,
    is_http,
    is_s3,
    local_path,
    local_source,
    printable,
    redact,
)

__all__ = [
    "FileInfo",
    "NotAFileError",
    "Storage",
    "TooLargeError",
    "TransientError",
    "absolute",
    "display_column",
    "display_uri",
    "identity_column",
    "is_http",
    "is_s3",
    "local_path",
    "local_source",
    "printable",
    "redact",
]
