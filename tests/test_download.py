"""Models by name, from a local HTTP server: resumed, unpacked safely, published whole, made once."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from sodbatch.errors import UsageError
from sodbatch.model import archive as archive_module
from sodbatch.model import download as download_module
from sodbatch.model.catalog import describe
from sodbatch.model.download import download_model

NAME = "PP-YOLOE_plus_SOD-S"
YML = yaml.safe_dump(
    {
        "Global": {"model_name": NAME},
        "draw_threshold": 0.5,
        "label_list": ["car", "bus"],
        "Preprocess": [
            {"type": "Resize", "target_size": [64, 64], "keep_ratio": False, "interp": 2},
            {"type": "Permute"},
        ],
    }
).encode()
FILES = {
    f"{NAME}_infer/inference.pdmodel": b"...image...scale_factor...",
    f"{NAME}_infer/inference.pdiparams": bytes(range(256)) * 4000,
    f"{NAME}_infer/inference.yml": YML,
    f"{NAME}_infer/inference.pdiparams.info": b"not needed",
}


def tar_of(files, extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


class Server:
    """Serves one body; ``cuts`` are the numbers of bytes after which the next answers break off."""

    def __init__(self):
        self.body, self.etag, self.ranges, self.status, self.cuts = tar_of(FILES), '"1"', True, 200, []
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    outer.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/models"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append((request.path, asked))
        if self.status != 200 or request.path != f"/models/{NAME}_infer.tar":
            request.send_error(self.status if self.status != 200 else 404)
            return
        start = 0
        if asked and self.ranges and request.headers.get("If-Range") == self.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(self.body):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.etag:
            request.send_header("ETag", self.etag)
        request.send_header("Content-Length", str(len(self.body) - start))
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(self.body)
        request.wfile.write(self.body[start:end])
        request.wfile.flush()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download_module, "PAUSE_S", 0)
    server = Server()
    monkeypatch.setenv("SODBATCH_MODEL_BASE_URL", server.url)
    yield server
    server.server.shutdown()
    server.server.server_close()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WANTED = {name.split("/")[1]: data for name, data in FILES.items() if not name.endswith(".info")}


def test_download_holds_the_archives_model_files_and_nothing_else(server, tmp_path):
    folder = download_model(NAME)
    assert contents(folder) == WANTED
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.parent != folder and p.suffix != ".lock"]
    assert left == []


def test_second_call_asks_no_server(server):
    folder = download_model(NAME)
    server.status = 500
    assert download_model(NAME) == folder
    assert len(server.requests) == 1


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_base_url_list_and_download_name_the_official_place(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("SODBATCH_MODEL_BASE_URL", raising=False)
    else:
        monkeypatch.setenv("SODBATCH_MODEL_BASE_URL", value)
    assert download_module.model_base_url() == download_module.OFFICIAL_BASE_URL
    assert f"{download_module.OFFICIAL_BASE_URL}/{NAME}_infer.tar" in describe()


def test_base_url_may_end_in_a_slash(server, monkeypatch):
    monkeypatch.setenv("SODBATCH_MODEL_BASE_URL", server.url + "/")
    assert contents(download_model(NAME)) == WANTED


def test_pauses_between_attempts_double(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(download_module, "PAUSE_S", 1.0)
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    server.cuts = [100_000] * download_module.ATTEMPTS
    with pytest.raises(UsageError, match="connection"):
        download_model(NAME)
    assert pauses == [1, 2, 4, 8]


def test_cut_off_download_is_resumed(server):
    chunk = download_module.CHUNK_BYTES
    server.cuts = [2 * chunk, 3 * chunk]
    assert contents(download_model(NAME)) == WANTED
    assert [asked for _, asked in server.requests] == [None, f"bytes={2 * chunk}-", f"bytes={5 * chunk}-"]


def test_later_run_goes_on_where_an_earlier_gave_up(server):
    chunk = download_module.CHUNK_BYTES
    server.cuts = [chunk] * download_module.ATTEMPTS
    with pytest.raises(UsageError, match="connection"):
        download_model(NAME)
    server.cuts = []
    assert contents(download_model(NAME)) == WANTED
    assert server.requests[-1][1] == f"bytes={chunk * download_module.ATTEMPTS}-"


@pytest.mark.parametrize("etag", ['"1"', "", 'W/"1"'])
def test_server_without_ranges_or_validators_restarts_cleanly(server, etag):
    server.ranges, server.etag, server.cuts = False, etag, [100_000]
    assert contents(download_model(NAME)) == WANTED


def test_part_of_a_file_that_changed_is_not_continued(server):
    server.cuts = [100_000] * download_module.ATTEMPTS
    with pytest.raises(UsageError):
        download_model(NAME)
    changed = {**FILES, f"{NAME}_infer/inference.pdiparams": b"\xff" * 700_000}
    server.body, server.etag, server.cuts = tar_of(changed), '"2"', []
    assert contents(download_model(NAME))["inference.pdiparams"] == b"\xff" * 700_000


def test_part_longer_than_the_file_is_dropped(server, tmp_path):
    server.cuts = [900_000] * download_module.ATTEMPTS
    server.body += bytes(10_000_000)
    with pytest.raises(UsageError):
        download_model(NAME)
    server.body, server.cuts = tar_of(FILES), []
    assert contents(download_model(NAME)) == WANTED


def test_processes_that_race_download_once(server):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: download_model(NAME), range(4)))
    assert len(folders) == 1 and len(server.requests) == 1


def test_offline_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("SODBATCH_MODEL_BASE_URL", "http://user:secret@127.0.0.1:9/x")
    monkeypatch.setattr(download_module, "PAUSE_S", 0)
    with pytest.raises(UsageError, match="model_dir") as caught:
        download_model(NAME)
    assert "secret" not in str(caught.value) and NAME in str(caught.value)


def test_unknown_model_and_bad_names(server, monkeypatch):
    with pytest.raises(UsageError, match="404"):
        download_model("PP-YOLOE_plus_SOD-XXL")
    for name in ("../x", "", "a/b", ".hidden", "a b"):
        with pytest.raises(UsageError, match="model name"):
            download_model(name)
    monkeypatch.setenv("SODBATCH_MODEL_BASE_URL", "file:///etc")
    with pytest.raises(UsageError, match="http"):
        download_model(NAME)


def test_unwritable_cache_is_a_usage_error(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="SODBATCH_CACHE"):
        download_model(NAME)


def member(name, kind=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../../evil"),
        member("/etc/evil"),
        member(f"{NAME}_infer/../../evil"),
        member(f"{NAME}_infer/inference.json", tarfile.SYMTYPE, "/etc/passwd"),
        member(f"{NAME}_infer/inference.json", tarfile.LNKTYPE, f"{NAME}_infer/inference.yml"),
        member(f"{NAME}_infer/inference.json", tarfile.FIFOTYPE),
        member(f"{NAME}_infer/inference.json", tarfile.CHRTYPE),
        member("other/inference.yml"),
    ],
    ids=lambda info: f"{info.name}:{info.type.decode()}",
)
def test_hostile_archive_is_refused_and_leaves_nothing(server, tmp_path, bad):
    server.body = tar_of(FILES, [bad])
    with pytest.raises(UsageError, match="no usable model"):
        download_model(NAME)
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert files == []


def test_archive_that_unpacks_to_too_much_is_refused(server, monkeypatch):
    monkeypatch.setattr(archive_module, "MAX_BYTES", 1_000_000)
    with pytest.raises(UsageError, match="more than 1000000 bytes"):
        download_model(NAME)


def test_download_that_is_too_large_is_refused(server, monkeypatch):
    monkeypatch.setattr(download_module, "MAX_BYTES", 1_000_000)
    with pytest.raises(UsageError, match="at most 1000000"):
        download_model(NAME)


@pytest.mark.parametrize("body", [b"", b"<html>not here</html>" * 100, tar_of(FILES)[:600_000]])
def test_what_is_no_whole_archive_is_refused(server, body):
    server.body = body
    with pytest.raises(UsageError, match="no usable model"):
        download_model(NAME)
    server.body = tar_of(FILES)
    assert contents(download_model(NAME)) == WANTED


def test_archive_without_parameters_names_what_is_missing(server):
    server.body = tar_of({k: v for k, v in FILES.items() if not k.endswith(".pdiparams")})
    with pytest.raises(UsageError, match=r"inference\.pdiparams"):
        download_model(NAME)
