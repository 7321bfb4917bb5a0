"""Fetching: a source becomes its bytes or one error; only errors that may pass are tried again."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from collections import Counter
from pathlib import Path

import pytest
from fixtures_http import BODY, HttpServer
from fixtures_s3 import S3Bucket
from hypothesis import given, settings
from hypothesis import strategies as st

from sodbatch import fetch as fetch_module
from sodbatch.config import FetchSection, LimitsSection, S3Section
from sodbatch.errors import ErrorClass, PictureError
from sodbatch.fetch import Fetcher, classify
from sodbatch.storage import Storage, TransientError

QUICK = FetchSection(threads=4, timeout_s=5, retries=2, backoff_s=0)


def make_fetcher(section: FetchSection = QUICK, s3: S3Section | None = None, max_bytes: int = 10**6) -> Fetcher:
    return Fetcher(Storage(s3 or S3Section(), section), section, LimitsSection(max_bytes=max_bytes))


def failure(fetcher: Fetcher, source: str) -> PictureError:
    with pytest.raises(PictureError) as caught:
        fetcher.fetch(source)
    return caught.value


@pytest.mark.parametrize(
    ("path", "expected", "requests"),
    [
        ("/status/404", ErrorClass.MISSING, 1),
        ("/status/403", ErrorClass.FORBIDDEN, 1),
        ("/status/418", ErrorClass.UNAVAILABLE, 1),
        ("/status/500", ErrorClass.UNAVAILABLE, 3),
        ("/status/429", ErrorClass.UNAVAILABLE, 3),
        ("/short", ErrorClass.UNAVAILABLE, 3),
        ("/reset", ErrorClass.UNAVAILABLE, 3),
        ("/flaky/3/503", ErrorClass.UNAVAILABLE, 3),
        ("/large", ErrorClass.TOO_LARGE, 1),
        ("/endless", ErrorClass.TOO_LARGE, 1),
        ("/empty", ErrorClass.EMPTY, 1),
    ],
)
def test_http_failures(http_server: HttpServer, path: str, expected: ErrorClass, requests: int) -> None:
    error = failure(make_fetcher(), f"{http_server.url}{path}?X-Amz-Signature=planted")
    assert error.error_class is expected
    assert http_server.hits[path] == requests
    assert "planted" not in error.message and "\n" not in error.message
    assert ("3 attempts" in error.message) is (requests == 3)


def test_an_error_that_passes_is_no_error(http_server: HttpServer) -> None:
    assert make_fetcher().fetch(f"{http_server.url}/flaky/2/500") == BODY
    assert http_server.hits["/flaky/2/500"] == 3


@pytest.mark.parametrize("path", ["/stall", "/trickle"])
def test_a_time_out_bounds_each_attempt(http_server: HttpServer, path: str) -> None:
    fetcher = make_fetcher(FetchSection(timeout_s=0.2, retries=1, backoff_s=0))
    assert failure(fetcher, http_server.url + path).error_class is ErrorClass.TIMEOUT
    assert http_server.hits[path] == 2


def test_local_failures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "large.jpg").write_bytes(b"x" * 11)
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    fetcher = make_fetcher(max_bytes=10)
    expected = {
        "": ErrorClass.MISSING,
        str(tmp_path / "missing.jpg"): ErrorClass.MISSING,
        str(tmp_path / "empty.jpg" / "below.jpg"): ErrorClass.MISSING,
        str(tmp_path / ("n" * 300)): ErrorClass.MISSING,
        "/nul\0.jpg": ErrorClass.MISSING,
        str(tmp_path / "loop.jpg"): ErrorClass.MISSING,
        str(tmp_path / "empty.jpg"): ErrorClass.EMPTY,
        str(tmp_path / "large.jpg"): ErrorClass.TOO_LARGE,
        str(tmp_path / "fifo.jpg"): ErrorClass.UNSUPPORTED,
        str(tmp_path): ErrorClass.UNSUPPORTED,
        "nosuch://bucket/a.jpg": ErrorClass.UNSUPPORTED,
        "http://": ErrorClass.UNAVAILABLE,
    }
    found = list(fetcher.fetch_all(list(expected)))
    assert {source: error.error_class for source, error in zip(expected, found)} == expected


@pytest.mark.parametrize(
    ("error", "expected", "may_pass"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), ErrorClass.MISSING, False),
        (PermissionError(errno.EACCES, "no"), ErrorClass.FORBIDDEN, False),
        (TimeoutError("late"), ErrorClass.TIMEOUT, True),
        (ConnectionResetError(), ErrorClass.UNAVAILABLE, True),
        (OSError(errno.EIO, "disk"), ErrorClass.UNAVAILABLE, True),
        (OSError(errno.ESTALE, "nfs"), ErrorClass.UNAVAILABLE, True),
        (OSError(errno.EMFILE, "too many open files"), ErrorClass.UNAVAILABLE, True),
        (TransientError("SlowDown"), ErrorClass.UNAVAILABLE, True),
        (OSError(errno.EINVAL, "bad"), ErrorClass.UNAVAILABLE, False),
        (RuntimeError("odd"), ErrorClass.UNAVAILABLE, False),
    ],
)
def test_classify(error: Exception, expected: ErrorClass, may_pass: bool) -> None:
    failure, again = classify(error)
    assert (failure.error_class, again) == (expected, may_pass)
    assert failure.message


def test_messages_are_one_bounded_line_without_secrets() -> None:
    text = "bad\nanswer from https://u:planted@h/a?sig=planted " + "x" * 1000
    message = classify(RuntimeError(text))[0].message
    assert "planted" not in message and "\n" not in message and len(message) <= 300
    assert message.startswith("bad answer from https://h/a")


@settings(max_examples=20)
@given(st.integers(0, 60), st.integers(1, 8))
def test_results_come_in_order(count: int, threads: int) -> None:
    class Numbers(Storage):
        def read_bytes(self, url: str, max_bytes: int | None = None) -> bytes:
            if url.endswith("7"):
                raise FileNotFoundError(url)
            return url.encode()

    section = FetchSection(threads=threads, backoff_s=0)
    sources = [f"n{i}" for i in range(count)]
    for _ in range(2):  # the threads are used again
        results = list(Fetcher(Numbers(), section, LimitsSection()).fetch_all(sources))
        assert [r if isinstance(r, bytes) else r.error_class for r in results] == [
            ErrorClass.MISSING if source.endswith("7") else source.encode() for source in sources
        ]


class Counting(Storage):
    """Counts the sources that were read; each has ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.read: Counter[str] = Counter()
        self.lock = threading.Lock()

    def read_bytes(self, url: str, max_bytes: int | None = None) -> bytes:
        with self.lock:
            self.read[url] += 1
        return bytes(self.size)


def test_no_more_than_two_sources_a_thread_are_fetched_ahead() -> None:
    storage = Counting(1)
    results = Fetcher(storage, FetchSection(threads=3), LimitsSection()).fetch_all([str(i) for i in range(100)])
    for taken in range(1, 50):
        next(results)
        assert taken <= len(storage.read) <= taken + 2 * 3
    results.close()
    assert len(storage.read) < 100


def test_fetching_ahead_pauses_when_enough_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "AHEAD_BYTES", 1000)
    storage = Counting(1000)
    section = FetchSection(threads=1)
    results = Fetcher(storage, section, LimitsSection()).fetch_all([str(i) for i in range(10)])
    assert len(list(results)) == 10
    assert storage.read == Counter(str(i) for i in range(10))


def test_a_pickled_fetcher_fetches(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    fetcher = make_fetcher()
    assert list(fetcher.fetch_all([str(tmp_path / "a")])) == [b"a"]
    assert list(pickle.loads(pickle.dumps(fetcher)).fetch_all([str(tmp_path / "a")])) == [b"a"]


def test_s3(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [s3_bucket.put(f"{i}", f"{i}".encode()) for i in range(20)]
    sources += [s3_bucket.put("empty"), s3_bucket.put("large", b"x" * 101), f"{s3_bucket.url}/missing"]
    results = list(make_fetcher(s3=s3_bucket.section, max_bytes=100).fetch_all(sources))
    assert results[:20] == [f"{i}".encode() for i in range(20)]
    classes = [error.error_class for error in results[20:] if isinstance(error, PictureError)]
    assert classes == [ErrorClass.EMPTY, ErrorClass.TOO_LARGE, ErrorClass.MISSING]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    error = failure(make_fetcher(s3=s3_bucket.section), sources[0])
    assert error.error_class is ErrorClass.FORBIDDEN


def test_s3_presigned(s3_bucket: S3Bucket) -> None:
    s3_bucket.put("a", b"data")
    good = s3_bucket.presign("a")
    wrong = good.replace("Signature=", "Signature=0")
    assert make_fetcher().fetch(good) == b"data"
    error = failure(make_fetcher(), wrong)
    assert error.error_class is ErrorClass.FORBIDDEN
    assert "Signature" not in error.message
