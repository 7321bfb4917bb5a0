"""Storage: local files, file URLs, S3 and HTTP behave alike, and no secret is shown."""

from __future__ import annotations

import errno
import io
import os
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
import s3fs
from botocore.exceptions import ClientError
from fixtures_http import BODY, HttpServer
from fixtures_s3 import READ_ONLY, S3Bucket
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.config import FetchSection, S3Section
from sodbatch.errors import UsageError
from sodbatch.storage import (
    NotAFileError,
    Storage,
    TooLargeError,
    TransientError,
    display_column,
    display_uri,
    identity_column,
    redact,
    s3,
)
from sodbatch.storage.retry import pause_s
from sodbatch.storage.uris import identity

QUICK = FetchSection(timeout_s=5, retries=0)


@pytest.fixture
def storage() -> Storage:
    return Storage(S3Section(), QUICK)


# --- names


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/a/b.jpg", "/a/b.jpg"),
        ("/a//b/../c.jpg", "/a/c.jpg"),
        ("//a/b.jpg", "/a/b.jpg"),
        ("file:///a/b.jpg", "/a/b.jpg"),
        ("file://localhost/a/b.jpg", "/a/b.jpg"),
        ("file:/a/b.jpg", "/a/b.jpg"),
        ("file:///a/b%20c.jpg", "/a/b c.jpg"),
        ("/a/what?x=1.jpg", "/a/what?x=1.jpg"),
        ("s3://bucket/a/b.jpg", "s3://bucket/a/b.jpg"),
        ("s3a://bucket/a/b.jpg", "s3://bucket/a/b.jpg"),
        ("s3://bucket/a#1?.jpg", "s3://bucket/a#1?.jpg"),
        ("s3://bucket/a?versionId=7", "s3://bucket/a"),
        ("s3://AK:SK@bucket/a", "s3://bucket/a"),
        ("s3://AK:S/K+x@bucket/a", "s3://bucket/a"),
        ("s3://bucket/mail@host.jpg", "s3://bucket/mail@host.jpg"),
        ("HTTPS://user:pass@host:8080/a.jpg?X-Amz-Signature=1#f", "https://host:8080/a.jpg"),
        ("http://host/a?id=5", "http://host/a"),
        ("http://host:80?mail=a@b", "http://host:80"),
        ("http://host?mail=a@b", "http://host"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("zip://in.jpg::https://u:p@host/a.zip?sig=1", "zip://in.jpg::https://host/a.zip"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("abfs://c1@acct.dfs.core.windows.net/a.jpg", "abfs://c1@acct.dfs.core.windows.net/a.jpg"),
        ("sftp://alice:pw@host/a.jpg", "sftp://alice@host/a.jpg"),
        ("github://org:repo1@main/a.jpg", "github://org:repo1@main/a.jpg"),
        ("s3://arn:aws:s3:eu-1:1:accesspoint/ap/a@2x.jpg", "s3://arn:aws:s3:eu-1:1:accesspoint/ap/a@2x.jpg"),
        ("s3://bucket/q?x=1.jpg", "s3://bucket/q?x=1.jpg"),
        ("s3://bucket/k?X-Amz-Signature=0123456789abcdef", "s3://bucket/k"),
        ("http://[::1]:80/a@2x.jpg", "http://[::1]:80/a@2x.jpg"),
    ],
)
def test_display_uri(source: str, shown: str) -> None:
    assert display_uri(source) == shown
    assert display_column(pa.array([source])).to_pylist() == [shown]
    assert display_uri(shown) == shown


def test_one_file_has_one_uri_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path)
    from_above = display_uri("deep/a.jpg")
    monkeypatch.chdir(tmp_path / "deep")
    assert display_uri("a.jpg") == display_uri("./a.jpg") == display_uri("../deep/a.jpg") == from_above
    assert from_above == display_uri((tmp_path / "deep" / "a.jpg").as_uri()) == str(tmp_path / "deep" / "a.jpg")


def test_a_name_that_is_not_utf8_is_shown_and_opened(tmp_path: Path, storage: Storage) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(path)).write_bytes(b"x")
    shown = display_uri(os.fsdecode(path))
    assert shown == f"file://{tmp_path}/%FF.jpg"
    assert display_uri(shown) == shown
    assert storage.read_bytes(shown) == b"x"
    assert [info.url for info in storage.list_files(str(tmp_path))] == [shown]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://x/get?id=5", "http://x/get?id=6", False),
        ("http://x/get?id=5&token=a&sig=b", "http://x/get?token=b&id=5&sig=c", True),
        ("http://x/get?page_token=1", "http://x/get?page_token=2", False),
        ("http://x/get?policy=red", "http://x/get?policy=blue", False),
        ("http://x/get?api_key=a", "http://x/get?api_key=b", True),
        ("http://alice@x/a", "http://bob@x/a", False),
        ("http://key:a@x/a", "http://key:b@x/a", True),
        ("abfs://c1@acct.dfs.core.windows.net/a", "abfs://c2@acct.dfs.core.windows.net/a", False),
        ("github://org:repo1@main/a", "github://org:repo2@main/a", False),
        ("sftp://alice:pw@h/a", "sftp://bob:pw@h/a", False),
        ("sftp://alice:pw@h/a", "sftp://alice:new@h/a", True),
        ("zip://a@2x.jpg::/b.zip", "zip://b@2x.jpg::/b.zip", False),
        ("s3://arn:aws:s3:r:1:accesspoint/ap/a@2x.jpg", "s3://arn:aws:s3:r:1:accesspoint/ap/b@2x.jpg", False),
        ("s3://b/p/t?token=1.jpg", "s3://b/p/t?token=2.jpg", False),
        ("s3://b/a?versionId=1", "s3://b/a?versionId=2", False),
        ("http://x/get?key=1", "http://x/get?key=2", False),
        (
            "https://b/k?X-Amz-Date=1&X-Amz-Signature=a&x-id=GetObject",
            "https://b/k?X-Amz-Date=2&X-Amz-Signature=b",
            True,
        ),
        ("https://b/k?AWSAccessKeyId=A&Signature=a&Expires=1", "https://b/k", True),
        ("https://c/k?sv=1&se=2&sr=b&sp=r&sig=a", "https://c/k?sv=1&se=3&sr=b&sp=r&sig=b", True),
        ("https://c/k?se=2", "https://c/k?se=3", False),
        ("https://c/k?versionId=2&X-Amz-Signature=a", "https://c/k?versionId=3&X-Amz-Signature=a", False),
        (
            "https://bj.bcebos.com/k?authorization=bce-auth-v1%2Fa",
            "https://bj.bcebos.com/k?authorization=b",
            True,
        ),
        ("s3://b/a?1", "s3://b/a?2", False),
        ("/a?x=1", "/a?x=2", False),
        ("http://u:p@x/a", "http://x/a", True),
    ],
)
def test_identity_keeps_what_names_the_object(one: str, other: str, same: bool) -> None:
    assert (identity(one) == identity(other)) is same
    column = pa.array([one, other])
    assert identity_column(column, display_column(column)).to_pylist() == [identity(one), identity(other)]


def test_rows_without_a_source_are_told_apart_by_their_uri() -> None:
    uris = pa.array(["/m.csv#row=1", "/m.csv#row=2"])
    assert identity_column(pa.array(["", ""]), uris).to_pylist() == uris.to_pylist()


_SECRETS = st.text(
    st.sampled_from("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789"), min_size=12, max_size=40
)
_TEMPLATES = [
    "https://user:{}@host/a.jpg",
    "https://{}@host/a.jpg",
    "s3://AKIAX:{}@bucket/key",
    "https://b.s3.amazonaws.com/k?X-Amz-Credential=A%2Fb&X-Amz-Signature={}&X-Amz-Expires=9",
    "https://b.s3.amazonaws.com/k?x-amz-security-token={}",
    "https://b.s3.amazonaws.com/k?AWSAccessKeyId=A&Signature={}&Expires=1",
    "https://c.blob.core.windows.net/k?sv=1&sig={}",
    "https://storage.googleapis.com/k?GoogleAccessId=a&Signature={}",
    "https://host/a?token={}",
    "https://host/a?id=1#access_token={}",
    "ftp://user:{}@host/a.jpg",
    "gs://bucket/a?GoogleAccessId=a&Signature={}AAAA",
    "zip://in.jpg::https://u:{}@host/a.zip",
    "http://proxy?next=https%3A%2F%2Fhost%2Fa%3Fsig%3D{}",
]
_BARE = [
    "/bucket/k?X-Amz-Signature={}&a=1",
    "aws_secret_access_key={}",
    "Authorization: Bearer {}",
    "'Signature': x, token={}",
]


@given(
    _SECRETS,
    st.sampled_from(_TEMPLATES),
    st.sampled_from(["{}", "Cannot open '{}': 403", 'url=URL("{}"), x', "({})\n<{}>"]),
)
def test_no_planted_secret_is_shown(secret: str, template: str, sentence: str) -> None:
    url = template.format(secret)
    assert secret not in redact(sentence.replace("{}", url))
    assert secret not in display_uri(url)


@given(_SECRETS, st.sampled_from(_BARE))
def test_no_planted_secret_outside_a_url_is_shown(secret: str, template: str) -> None:
    assert secret not in redact(f"error: {template.format(secret)} (again)")


@given(st.text(min_size=8).map(lambda text: quote(text, safe="")).filter(lambda text: len(text) >= 8))
def test_no_quoted_password_is_shown(secret: str) -> None:
    assert secret not in redact(f"https://zz:{secret}@host/?")


@pytest.mark.parametrize(
    "text",
    ["no such file: /a/b.jpg", "s3://bucket/a/b.jpg: 404", "https://host:443/a@b.jpg is gone", "3 tokens"],
)
def test_redact_leaves_other_text_alone(text: str) -> None:
    assert redact(text) == text


# --- local files


def test_local_round_trip(tmp_path: Path, storage: Storage) -> None:
    target = tmp_path / "new" / "folder" / "a.bin"
    storage.write_atomic(str(target), b"one")
    storage.write_atomic(target.as_uri(), b"two")
    assert storage.read_bytes(str(target)) == target.read_bytes() == b"two"
    assert os.listdir(target.parent) == ["a.bin"]
    assert storage.exists(str(target)) and storage.isdir(str(target.parent)) and not storage.isdir(str(target))
    assert storage.info(str(target)).size == 3
    with storage.open(str(target)) as file:
        assert file.read() == b"two"
    storage.delete(str(target))
    storage.delete(str(target))
    assert not storage.exists(str(target))


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "plain").write_bytes(b"")
    storage.write_atomic(str(tmp_path / "atomic"), b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_atomic(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_etag_changes_with_the_content(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    before = storage.info(str(path)).etag
    os.utime(path, ns=(1, 1))
    assert storage.info(str(path)).etag != before
    assert storage.info(str(path)).etag == "1-1"


def test_listing_is_recursive_and_in_the_order_of_the_whole_paths(tmp_path: Path, storage: Storage) -> None:
    names = ["a/1", "a-b", "a.txt", "a/b/c", "z", "A", "é", "a/b-c"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    listed = list(storage.list_files(str(tmp_path)))
    assert [info.url for info in listed] == sorted(str(tmp_path / name) for name in [*names, "gone"])
    assert {info.url: info.size for info in listed}[str(tmp_path / "a/b/c")] == 5
    assert list(storage.list_files(str(tmp_path / "nowhere"))) == []


@pytest.mark.parametrize("limit", [None, 100])
def test_what_is_not_a_file_is_never_waited_for(tmp_path: Path, storage: Storage, limit: int | None) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(NotAFileError):
            storage.read_bytes(str(path), limit)


def test_a_large_file_is_refused_by_its_size(tmp_path: Path, storage: Storage) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLargeError, match="1099511627776 bytes, more than the limit of 1000"):
        storage.read_bytes(str(tmp_path / "sparse"), 1000)
    (tmp_path / "exact").write_bytes(b"x" * 1000)
    assert len(storage.read_bytes(str(tmp_path / "exact"), 1000)) == 1000


def test_not_writable_is_one_clear_line(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=f"cannot write to {tmp_path}/file: ") as caught:
        storage.check_writable(str(tmp_path / "file"))
    assert "\n" not in str(caught.value)
    storage.check_writable(str(tmp_path / "new"))
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_clear_line(tmp_path: Path, storage: Storage) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        storage.check_writable(str(tmp_path))


# --- other schemes


def test_any_fsspec_scheme(storage: Storage) -> None:
    storage.write_atomic("memory://folder/a.txt", b"abc")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("memory://folder/a.txt") == b"abc"
    assert storage.exists("memory://folder/a.txt") and storage.isdir("memory://folder")
    assert [info.url for info in storage.list_files("memory://folder")] == ["memory://folder/a.txt"]
    with pytest.raises(TooLargeError):
        storage.read_bytes("memory://folder/a.txt", 2)
    storage.delete("memory://folder/a.txt")
    assert not storage.exists("memory://folder/a.txt")


def test_files_inside_an_archive(tmp_path: Path, storage: Storage) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("deep/in.txt", b"inside")
    folder = f"zip://deep::file://{tmp_path}/a.zip"
    (info,) = storage.list_files(folder)
    assert (info.url, info.size) == (f"zip://deep/in.txt::file://{tmp_path}/a.zip", 6)
    assert storage.read_bytes(info.url) == b"inside"
    assert storage.isdir(folder) and not storage.isdir(info.url)


def test_an_unknown_scheme_is_a_usage_error(storage: Storage) -> None:
    with pytest.raises(UsageError, match="nosuch://"):
        storage.read_bytes("nosuch://a/b")


def test_without_s3fs_the_message_says_what_to_install(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match=r'pip install "sodbatch\[s3\]"'):
        storage.read_bytes("s3://bucket/key")


def test_local_use_imports_neither_s3fs_nor_what_runs_models() -> None:
    code = (
        "import sys, sodbatch.storage, sodbatch.manifest, sodbatch.fetch\n"
        "sodbatch.manifest.open_manifest(sys.argv[1], sodbatch.storage.Storage())\n"
        "print(sorted({'s3fs', 'botocore', 'aiohttp', 'cv2', 'ray', 'paddle'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_an_impossible_endpoint_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"S3\.endpoint_url"):
        Storage(S3Section(endpoint_url="http://ho st", region="x"), QUICK).read_bytes("s3://bucket/key")


def test_http(http_server: HttpServer, storage: Storage) -> None:
    assert storage.read_bytes(f"{http_server.url}/ok?X-Amz-Signature=1") == BODY
    assert storage.read_bytes(f"{http_server.url}/redirect") == BODY
    assert storage.read_bytes(f"http://user:pass@{http_server.host}/auth") == BODY
    assert storage.exists(f"{http_server.url}/ok") and not storage.exists(f"{http_server.url}/status/404")
    with storage.open(f"{http_server.url}/ok") as file:
        assert file.read() == BODY


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/status/404", FileNotFoundError),
        ("/status/410", FileNotFoundError),
        ("/status/401", PermissionError),
        ("/status/403", PermissionError),
        ("/status/429", TransientError),
        ("/status/503", TransientError),
        ("/status/418", OSError),
        ("/short", TransientError),
        ("/reset", TransientError),
        ("/large", TooLargeError),
        ("/endless", TooLargeError),
    ],
)
def test_http_errors(http_server: HttpServer, storage: Storage, path: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        storage.read_bytes(http_server.url + path, 10**6)
    assert type(caught.value) is error


@pytest.mark.parametrize("path", ["/stall", "/trickle", "/headers", "/circle"])
def test_http_time_out_bounds_the_whole(http_server: HttpServer, path: str) -> None:
    with pytest.raises(TimeoutError):
        Storage(S3Section(), FetchSection(timeout_s=0.3)).read_bytes(http_server.url + path)


def test_what_an_http_server_says_is_not_repeated(
    http_server: HttpServer, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError, match="^HTTP 404 Not Found$"):
        storage.read_bytes(f"{http_server.url}/phrase")
    assert storage.read_bytes(f"{http_server.url}/malformed?X-Amz-Signature=hunter2")[-2:] == b"ok"
    assert "hunter2" not in caplog.text


# --- S3


def test_s3_round_trip(s3_bucket: S3Bucket) -> None:
    storage = pickle.loads(pickle.dumps(Storage(s3_bucket.section, QUICK)))
    url = f"{s3_bucket.url}/folder/a b+%41?.bin"
    storage.write_atomic(url, b"data")
    assert s3_bucket.get("folder/a b+%41?.bin") == storage.read_bytes(url) == b"data"
    assert (
        storage.exists(url) and storage.isdir(f"{s3_bucket.url}/folder") and not storage.isdir(f"{s3_bucket.url}/fold")
    )
    info = storage.info(url)
    assert (info.size, info.etag) == (4, "8d777f385d3dfec8815d20f7496026dc")
    assert [*storage.list_files(f"{s3_bucket.url}/folder")] == [info]
    with storage.open(url) as file:
        assert file.read() == b"data"
    storage.delete(url)
    assert not storage.exists(url)


def test_s3_reads_empty_objects_and_refuses_large_ones(s3_bucket: S3Bucket) -> None:
    storage = Storage(s3_bucket.section, QUICK)
    assert storage.read_bytes(s3_bucket.put("empty")) == b""
    large = s3_bucket.put("large", b"x" * 1000)
    assert len(storage.read_bytes(large, 1000)) == 1000
    with pytest.raises(TooLargeError, match="1000 bytes, more than the limit of 999"):
        storage.read_bytes(large, 999)


def test_s3_lists_beyond_a_page_and_leaves_out_folder_markers(s3_bucket: S3Bucket) -> None:
    storage = Storage(s3_bucket.section, QUICK)
    keys = [f"many/{i:04d}" for i in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: storage.write_atomic(f"{s3_bucket.url}/{key}", b""), keys))
    s3_bucket.put("many/marker/")
    s3_bucket.put("manyother")
    assert [info.url for info in storage.list_files(f"{s3_bucket.url}/many")] == [f"{s3_bucket.url}/{k}" for k in keys]


def test_s3_presigned_urls_are_read_over_http(s3_bucket: S3Bucket) -> None:
    s3_bucket.put("a", b"data")
    url = s3_bucket.presign("a")
    assert "Signature=" in url
    assert Storage(S3Section(), QUICK).read_bytes(url) == b"data"
    assert display_uri(url) == f"{s3_bucket.endpoint}/{s3_bucket.name}/a"


def test_s3_errors(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3_bucket.put("a", b"data")
    with pytest.raises(FileNotFoundError):
        Storage(s3_bucket.section, QUICK).read_bytes(f"{s3_bucket.url}/missing")
    with pytest.raises(FileNotFoundError):
        Storage(s3_bucket.section, QUICK).read_bytes("s3://no-such-bucket/a")
    anonymous = s3_bucket.section.model_copy(update={"anonymous": True})
    with pytest.raises(PermissionError):
        Storage(anonymous, QUICK).read_bytes(url)
    closed = s3_bucket.section.model_copy(update={"endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(TransientError):
        Storage(closed, FetchSection(timeout_s=60, retries=0)).read_bytes(url)
    with pytest.raises(UsageError, match="nosuch"):
        Storage(s3_bucket.section.model_copy(update={"profile": "nosuch"}), QUICK).read_bytes(url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionError):
        Storage(s3_bucket.section, QUICK).read_bytes(url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(PermissionError, match="no S3 credentials"):
        Storage(s3_bucket.section, QUICK).read_bytes(url)


def test_s3_time_out(http_server: HttpServer, s3_bucket: S3Bucket) -> None:
    stalled = S3Section(endpoint_url=http_server.url, region="us-east-1")
    with pytest.raises(TimeoutError):
        Storage(stalled, FetchSection(timeout_s=0.5, retries=0)).read_bytes("s3://stall/a")
    assert http_server.hits["/stall/a"] == 1


def test_an_s3_object_is_read_as_a_file(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_READ_AHEAD", 100)
    data = bytes(range(256)) * 2
    url = s3_bucket.put("a", data)
    with Storage(s3_bucket.section, QUICK).open(url) as file:
        assert file.read(7) == data[:7] and file.tell() == 7
        assert file.seek(-20, os.SEEK_END) == 492 and file.read() == data[492:]
        assert file.seek(300) == 300 and file.read(150) == data[300:450]
        assert file.seek(600) == 600 and file.read() == b""
        file.seek(0)
        assert file.read() == data
        s3_bucket.put("a", data[::-1])
        file.seek(0)
        with pytest.raises(OSError, match="changed while it was read"):
            file.read()
    with Storage(s3_bucket.section, QUICK).open(s3_bucket.put("empty")) as file:
        assert file.read() == b""
    with pytest.raises(FileNotFoundError):
        Storage(s3_bucket.section, QUICK).open(f"{s3_bucket.url}/missing")


@given(st.integers(0, 40), st.floats(0, 60))
def test_pauses_grow_and_are_bounded(attempt: int, backoff_s: float) -> None:
    longest = min(backoff_s * 2**attempt, 30.0)
    assert longest / 2 <= pause_s(backoff_s, attempt) <= longest


def test_an_s3_write_is_tried_again_but_not_for_ever(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("sodbatch.storage.retry.time.sleep", pauses.append)
    storage = Storage(s3_bucket.section, FetchSection(retries=2, backoff_s=0.25))
    put = s3fs.S3FileSystem.pipe_file
    failures = [OSError(errno.EIO, "Connection was closed")]
    failures[0].__cause__ = ClientError({"Error": {"Code": "SlowDown"}}, "PutObject")
    left = [2]

    def flaky(self: s3fs.S3FileSystem, *arguments: object) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise failures[0]
        return put(self, *arguments)

    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", flaky)
    storage.write_atomic(f"{s3_bucket.url}/a", b"data")
    assert [0.125, 0.25] <= pauses <= [0.25, 0.5] and len(pauses) == 2
    assert s3_bucket.get("a") == b"data"
    left[0] = 3
    with pytest.raises(TransientError, match="SlowDown"):
        storage.write_atomic(f"{s3_bucket.url}/b", b"data")
    assert left[0] == 0


def test_s3_section_reaches_the_wire(http_server: HttpServer, s3_bucket: S3Bucket) -> None:
    section = S3Section(endpoint_url=http_server.url, region="eu-test-7", requester_pays=True)
    assert Storage(section, QUICK).read_bytes("s3://ok/a") == BODY
    assert http_server.last_headers["x-amz-request-payer"] == "requester"
    assert "/eu-test-7/s3/" in http_server.last_headers["authorization"]
    assert Storage(S3Section(endpoint_url=http_server.url, anonymous=True), QUICK).read_bytes("s3://ok/a") == BODY
    assert "authorization" not in http_server.last_headers


def test_s3_credentials_of_a_profile(s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3_bucket.put("a", b"data")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = f"aws_access_key_id = {READ_ONLY[0]}\naws_secret_access_key = {READ_ONLY[1]}\n"
    (tmp_path / "credentials").write_text(f"[mine]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert Storage(s3_bucket.section.model_copy(update={"profile": "mine"}), QUICK).read_bytes(url) == b"data"


def test_s3_text_is_read_in_large_ranges(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"s3://bucket/{number:06}.jpg,{number}" for number in range(40_000)]
    url = s3_bucket.put("list.csv", "\n".join(lines).encode())
    gets = 0
    read = s3.read

    def counted(*args: Any, **kwargs: Any) -> bytes:
        nonlocal gets
        gets += 1
        return read(*args, **kwargs)

    monkeypatch.setattr(s3, "read", counted)
    with Storage(s3_bucket.section, QUICK).open(url) as file, io.TextIOWrapper(file) as text:
        assert [line.rstrip("\n") for line in text] == lines
    assert gets == 1


def test_s3_not_writable_is_one_clear_line(s3_read_only: S3Bucket) -> None:
    storage = Storage(s3_read_only.section, QUICK)
    with pytest.raises(UsageError, match=f"may not write to the bucket {s3_read_only.name}") as caught:
        storage.check_writable(f"{s3_read_only.url}/out")
    assert "\n" not in str(caught.value)


def test_s3_missing_bucket_is_one_clear_line(s3_bucket: S3Bucket) -> None:
    with pytest.raises(UsageError, match="the bucket no-such-bucket does not exist"):
        Storage(s3_bucket.section, QUICK).check_writable("s3://no-such-bucket/out")
    Storage(s3_bucket.section, QUICK).check_writable(f"{s3_bucket.url}/out")
