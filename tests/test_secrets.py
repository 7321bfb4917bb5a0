"""Whole runs with secrets planted wherever a user may have them: none is in anything that the job leaves or shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hostile
import pyarrow.parquet as pq
import pytest

SECRET = re.compile(rb"s3cr3t\w{4}")
"""All planted values look like this."""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAs3cr3taaaa",
    "AWS_SECRET_ACCESS_KEY": "s3cr3tbbbb",
    "AWS_SESSION_TOKEN": "s3cr3tcccc",
    "HTTPS_PROXY": "http://user:s3cr3tdddd@127.0.0.1:9",
    "https_proxy": "http://user:s3cr3tdddd@127.0.0.1:9",
}

QUERIES = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAs3cr3teeee%2F2026&X-Amz-Signature=s3cr3tffff",
    "sv=2024&se=2030&sp=r&sig=s3cr3tgggg%3D",
    "token=s3cr3thhhh&id=5",
    "Expires=1&AWSAccessKeyId=s3cr3tiiii&Signature=s3cr3tjjjj",
    "api_key=s3cr3tkkkk#s3cr3tllll",
)


class _Server(ThreadingHTTPServer):
    """``/ok`` gives a picture, ``/text`` none, ``/gone`` a 404 and ``/denied`` a 403 that repeat what was asked."""

    daemon_threads = True

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = urlsplit(self.path).path.split("/")[1]
            if name == "moved":
                self.send_response(302)
                self.send_header("Location", self.path.replace("moved", "gone"))
                self.end_headers()
                return
            body = hostile.encode("JPEG") if name == "ok" else f"no picture at {self.path}".encode()
            self.send_response({"gone": 404, "denied": 403}.get(name, 200), f"at {self.path}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with _Server(("127.0.0.1", 0), _Server.Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@dataclass
class Run:
    """What a command printed, what its processes were called, and where it wrote."""

    code: int
    printed: str
    output: Path
    titles: set[bytes] = field(default_factory=set)


@pytest.fixture
def command(tiny_model_dir: Path, tmp_path: Path) -> Any:
    """Run ``sodbatch predict`` in a process with the planted environment, watching the titles of all it starts."""

    def call(*arguments: str, env: dict[str, str] | None = None) -> Run:
        words = ["predict", "--model-dir", str(tiny_model_dir), "--output", str(tmp_path / "out"), *arguments]
        common = ["-o", "Global.device=cpu", "-o", "Predict.threshold=0.3", "-o", "Fetch.retries=0"]
        done = Run(-1, "", tmp_path / "out")
        log = tmp_path / "printed"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "sodbatch", *words, *common],
                env=os.environ | ENVIRONMENT | (env or {}),
                cwd=tmp_path,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            while True:
                done.titles |= _titles(process.pid)
                try:
                    done.code = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    continue
        done.printed = log.read_text(errors="replace")
        return done

    return call


def _titles(pid: int) -> set[bytes]:
    """Return command lines and names of a process and all under it."""
    found = set()
    try:
        found |= {Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "comm")}
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= _titles(int(child))
    except OSError:  # it has ended meanwhile
        pass
    return found


def planted_sources(host: str) -> list[str]:
    """Return sources that end well and badly, with every kind of secret."""
    paths = ("ok", "text", "gone", "denied", "moved")
    sources = [f"http://{host}/{path}/{i}?{query}" for path in paths for i, query in enumerate(QUERIES)]
    sources += [f"http://user:s3cr3tmmmm@{host}/{path}/user" for path in paths]
    sources += [f"https://user:s3cr3tnnnn@{host}/over_the_proxy?sig=s3cr3toooo"]
    sources += ["http://user:s3cr3tpppp@[broken/a.jpg?token=s3cr3tqqqq", "nosuch://key:s3cr3trrrr@host/a.jpg"]
    return sources


def manifest_of(folder: Path, host: str) -> Path:
    lines = [
        {"url": source, "origin": source, "note": f"see {source}", "number": i}
        for i, source in enumerate(planted_sources(host))
    ]
    path = folder / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def leaks_in(folder: Path) -> list[str]:
    """Name the files under a folder that hold a planted secret, in a name, in their bytes or in a Parquet column."""
    found = []
    for path in folder.rglob("*"):
        content = os.fsencode(path.relative_to(folder))
        if path.is_file():
            content += path.read_bytes()
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            content += repr(file.read().to_pylist()).encode() + repr(file.schema_arrow.metadata).encode()
        if match := SECRET.search(content):
            found.append(f"{path}: {match[0]!r}")
    return found


def check(run: Run) -> None:
    assert not SECRET.findall(run.printed.encode()), run.printed
    assert not [title for title in run.titles if SECRET.search(title)]
    assert not leaks_in(run.output)


def test_no_secret_is_left_by_an_inline_run(command: Any, server: str, tmp_path: Path) -> None:
    options = (
        "Output.paddlex_json=true",
        "Output.coco_json=true",
        "Visualize.pictures=all",
        "Predict.id_from_etag=true",
    )
    words = [word for option in options for word in ("-o", option)]
    run = command("--engine", "inline", "--input", str(manifest_of(tmp_path, server)), *words)
    assert run.code == 3, run.printed
    rows = hostile.read_rows(run.output)
    classes = [row["error_class"] for row in rows]
    assert len(rows) == len(planted_sources(server))
    assert {None, "not_an_image", "missing", "forbidden", "unavailable", "unsupported"} <= set(classes)
    assert classes.count(None) == len(QUERIES) + 1
    check(run)
    shown = subprocess.run(
        [sys.executable, "-m", "sodbatch", "show", str(run.output)], capture_output=True, text=True, check=True
    )
    assert not SECRET.findall(shown.stdout.encode())


def test_no_secret_is_left_by_a_ray_run_or_in_its_logs(command: Any, server: str, tmp_path: Path) -> None:
    logs = Path("/tmp/ray").resolve()
    before = set(logs.glob("session_2*"))
    run = command(
        "--engine", "ray", "--input", str(manifest_of(tmp_path, server)),
        "-o", "Visualize.pictures=sample", "-o", "Output.partition_by=number",
    )  # fmt: skip
    assert run.code == 3, run.printed
    assert any(b"ray::" in title for title in run.titles)
    check(run)
    sessions = set(logs.glob("session_2*")) - before
    assert sessions
    assert not [leak for session in sessions for leak in leaks_in(session / "logs")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--input", "http://user:s3cr3tssss@{host}/gone/list.csv?sig=s3cr3ttttt"),
        ("--input", "http://user:s3cr3tssss@{host}/text/list.jsonl?X-Amz-Signature=s3cr3ttttt"),
        ("--input", "http://user:s3cr3tssss@{host}/ok/list.parquet?token=s3cr3ttttt"),
        ("--input", "http://{host}/text/list.json?token=s3cr3ttttt"),
        ("--input", "nosuch://user:s3cr3tssss@host/list.csv"),
        ("--input", "http://{host}/ok/a.jpg", "--model-dir", "nosuch://user:s3cr3tssss@host/model?sig=s3cr3ttttt"),
        ("--input", "http://{host}/ok/a.jpg", "--output", "nosuch://user:s3cr3tssss@host/out"),
        ("--input", "http://{host}/ok/a.jpg", "-o", "S3.endpoint_url=http://user:s3cr3tssss@127.0.0.1:9"),
        ("--input", "http://{host}/ok/a.jpg", "-o", "S3.secret_key=s3cr3tssss"),
        ("--input", "s3://bucket/a.csv", "-o", "S3.endpoint_url=http://127.0.0.1:9"),
    ],
)
def test_wrong_usage_shows_no_secret(command: Any, server: str, arguments: tuple[str, ...]) -> None:
    run = command("--engine", "inline", *(word.format(host=server) for word in arguments))
    assert run.code != 0
    assert run.printed.strip()
    assert not SECRET.findall(run.printed.encode()), run.printed
    assert not leaks_in(run.output) if run.output.exists() else True
