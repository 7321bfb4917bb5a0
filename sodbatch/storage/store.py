"""One class over all stores; which store, is told by the URL's scheme."""

from __future__ import annotations

import io
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

import fsspec

from sodbatch.config import FetchSection, S3Section
from sodbatch.errors import UsageError
from sodbatch.storage import http, local, s3
from sodbatch.storage.errors import TooLargeError
from sodbatch.storage.info import FileInfo
from sodbatch.storage.retry import with_retries
from sodbatch.storage.uris import display_uri, exact_s3, is_http, is_s3, local_path, local_source, redact

T = TypeVar("T")


class Storage:
    """Reads and writes files by URL; picklable, each process makes its own connections when it needs them.

    What is asked of ``s3://`` is tried again after an error that may pass, unless a method says otherwise.

    Args:
        s3: How ``s3://`` is reached; the defaults of the section where not given.
        fetch: Time-outs, and how often what fails is tried again; the defaults of the section where not given.
    """

    def __init__(self, s3: S3Section | None = None, fetch: FetchSection | None = None) -> None:
        self.s3_section = s3 or S3Section()
        self.fetch_section = fetch or FetchSection()
        self._s3_of_process: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.s3_section, self.fetch_section)

    def read_bytes(self, url: str, max_bytes: int | None = None, timeout_s: float | None = None) -> bytes:
        """Read a file whole, in one attempt; within ``Fetch.timeout_s``, where no other time is given.

        Raises:
            FileNotFoundError, PermissionError, TimeoutError, OSError: As their names say.
            NotAFileError: A folder, FIFO or device.
            TooLargeError: More than ``max_bytes``; by its size before it is read, wherever that is known.
            TransientError: Something that may pass.
        """
        path = local_path(url)
        if path is not None:
            return local.read(path, max_bytes)
        if is_http(url):
            return http.get(url, timeout_s or self.fetch_section.timeout_s, max_bytes)
        filesystem, path = self._at(url)
        if is_s3(url):
            return s3.read(filesystem, url, timeout_s or self.fetch_section.timeout_s, max_bytes)
        size = filesystem.size(path)
        if max_bytes is not None and size is not None and size > max_bytes:
            raise TooLargeError(f"{size} bytes, more than the limit of {max_bytes}")
        return bytes(filesystem.cat_file(path))

    def write_atomic(self, url: str, data: bytes) -> None:
        """Write a file so that readers see all of it or nothing.

        Local: a temporary file in the same folder, synced and renamed. Elsewhere: one PUT.
        """
        path = local_path(url)
        if path is not None:
            local.write_atomic(path, data)
            return
        filesystem, path = self._at(url)
        self._tried(url, lambda: filesystem.pipe_file(path, data))

    def upload(self, path: str, url: str) -> None:
        """Write what a local file holds to a file elsewhere, as :meth:`write_atomic` does what is in memory."""
        filesystem, name = self._at(url)
        self._tried(url, lambda: filesystem.put_file(path, name))

    def open(self, url: str) -> IO[bytes]:
        """Open a file for reading; ``http(s)://`` is read whole into memory first.

        What is read of ``s3://`` is tried again, range by range.
        """
        path = local_path(url)
        if path is not None:
            return open(path, "rb")
        if is_http(url):
            return io.BytesIO(with_retries(lambda: self.read_bytes(url), self.fetch_section))
        filesystem, path = self._at(url)
        if is_s3(url):
            return s3.open_object(filesystem, url, self.fetch_section)
        opened: IO[bytes] = filesystem.open(path, "rb")
        return opened

    def list_files(self, url: str) -> Iterator[FileInfo]:
        """Yield all files under a folder, recursively, as a stream; nothing when there is no such folder.

        Sorted by path where the list is local; ``s3://`` keeps the store's order (AWS: sorted by key).
        """
        path = local_path(url)
        if path is not None:
            yield from local.list_files(path)
        elif is_s3(url):
            yield from self._list_s3(url.rstrip("/") + "/")
        else:
            filesystem, path = self._at(url)
            root, suffix = _frame(url, path)
            for name, info in sorted(filesystem.find(path, detail=True).items()):
                yield FileInfo(root + name.lstrip("/") + suffix, info.get("size"), _etag(info))

    def list_prefix(self, url: str) -> Iterator[FileInfo]:
        """Yield the objects of ``s3://`` whose key starts with the URL's, which need not end at a ``/``."""
        yield from self._list_s3(url)

    def exists(self, url: str) -> bool:
        """Tell whether there is a file or folder."""
        path = local_path(url)
        if path is not None:
            return os.path.exists(path)
        if is_http(url):
            return http.exists(url, self.fetch_section.timeout_s)
        filesystem, path = self._at(url)
        try:
            self._tried(url, lambda: filesystem.info(path))
        except FileNotFoundError:
            return False
        return True

    def isdir(self, url: str) -> bool:
        """Tell whether there is a folder (on S3: whether any key lies under it)."""
        path = local_path(url)
        if path is not None:
            return os.path.isdir(path)
        if is_http(url):
            return False
        if is_s3(url):
            return bool(next(s3.list_pages(self._s3(), url.rstrip("/") + "/", self.fetch_section, page_size=1)))
        filesystem, path = self._at(url)
        return bool(filesystem.isdir(path))

    def info(self, url: str) -> FileInfo:
        """Return a file's size and etag.

        Raises:
            FileNotFoundError, PermissionError, OSError: As their names say.
        """
        path = local_path(url)
        if path is not None:
            status = os.stat(path)
            return FileInfo(local_source(path), status.st_size, local.etag(status))
        filesystem, path = self._at(url)
        info = self._tried(url, lambda: filesystem.info(path))
        return FileInfo(url, info.get("size"), _etag(info))

    def delete(self, url: str) -> None:
        """Delete a file; one that is not there is no error."""
        path = local_path(url)
        try:
            if path is not None:
                os.unlink(path)
            else:
                filesystem, key = self._at(url)
                self._tried(url, lambda: filesystem.rm_file(key))
        except FileNotFoundError:
            pass

    def check_writable(self, url: str) -> None:
        """Write and delete a small file under a folder.

        Raises:
            UsageError: It cannot be written; one line that says why.
        """
        probe = f"{url.rstrip('/')}/.sodbatch-{uuid.uuid4().hex}"
        try:
            self.write_atomic(probe, b"")
            self.delete(probe)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"cannot write to {display_uri(url)}: {_reason(url, error)}") from error

    def _list_s3(self, url: str) -> Iterator[FileInfo]:
        bucket = s3.split(url)[0]
        for page in s3.list_pages(self._s3(), url, self.fetch_section):
            for item in page:
                if not item["Key"].endswith("/"):
                    yield FileInfo(exact_s3(bucket, item["Key"]), item["Size"], _etag(item))

    def _tried(self, url: str, call: Callable[[], T]) -> T:
        return s3.tried(call, self.fetch_section) if is_s3(url) else with_retries(call, self.fetch_section)

    def _at(self, url: str) -> tuple[Any, str]:
        """Return the file system of a URL, this process's own, and the path in it."""
        if is_s3(url):
            bucket, key, version = s3.split(url)
            return self._s3(), f"{bucket}/{key}" + (f"?versionId={version}" if version else "")
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{display_uri(url)} cannot be opened: {redact(str(error))}") from error
        return filesystem, str(path)

    def _s3(self) -> Any:
        with self._lock:
            if os.getpid() not in self._s3_of_process:
                self._s3_of_process[os.getpid()] = s3.open_filesystem(self.s3_section, self.fetch_section)
            return self._s3_of_process[os.getpid()]


def _frame(url: str, path: str) -> tuple[str, str]:
    """Return what stands before and after a path of a file system in the URL of a file there.

    ``sftp://host/a`` gives ``sftp://host/``; ``zip://a::file:///b.zip`` gives ``zip://`` and ``::file:///b.zip``.
    """
    first, chain, rest = url.partition("::")
    return first.rstrip("/").removesuffix(path.strip("/")), chain + rest


def _etag(info: dict[str, Any]) -> str | None:
    value = info.get("ETag") or info.get("etag")
    return str(value).strip('"') if value else None


def _reason(url: str, error: Exception) -> str:
    if is_s3(url):
        bucket = s3.split(url)[0]
        if isinstance(error, FileNotFoundError):
            return f"the bucket {bucket} does not exist"
        if isinstance(error, PermissionError):
            return f"the credentials in use may not write to the bucket {bucket} ({redact(str(error))})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return redact(str(error))
