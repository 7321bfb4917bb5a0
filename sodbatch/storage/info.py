"""What a listing says of a file."""

from __future__ import annotations

from typing import NamedTuple


class FileInfo(NamedTuple):
    """A file: its URL, size in bytes, and what changes with its content (S3: ETag; local: time and size)."""

    url: str
    size: int | None
    etag: str | None
