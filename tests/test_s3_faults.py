"""Whole runs against a real S3 server behind a proxy that makes it fail."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import Fault, FaultProxy, Kind, Request
from fixtures_s3 import ADMIN, S3Bucket
from rich.console import Console
from test_predict_job import scene

from sodbatch.cli import EXIT_FAILED, main
from sodbatch.config import Config
from sodbatch.errors import JobError
from sodbatch.lease import Pace
from sodbatch.predict_job import run
from sodbatch.storage import Storage
from sodbatch.summary import show

RETRIES = 3
NAMES = [f"scene_{i}.jpg" for i in range(8)]
PART = "PUT out/images/part-.*"


@dataclass
class Place:
    """Pictures under ``in/`` of a bucket, an output ``out/`` beside them, and a proxy before both."""

    bucket: S3Bucket
    client: Any
    proxy: FaultProxy
    model: Path

    def sections(self, **options: Any) -> dict[str, dict[str, Any]]:
        """Configure a run; keywords are ``Section__key=value``."""
        sections: dict[str, dict[str, Any]] = {
            "Global": {"output": f"{self.bucket.url}/out", "device": "cpu"},
            "Predict": {
                "input": f"{self.bucket.url}/in",
                "model_dir": str(self.model),
                "engine": "inline",
                "threshold": 0.3,
                "backend": "paddle",
            },
            "Output": {"shard_size": 2},
            "Fetch": {"timeout_s": 2.0, "retries": RETRIES, "backoff_s": 0.01},
            "S3": {"endpoint_url": self.proxy.url, "region": "us-east-1"},
        }
        for name, value in options.items():
            section, key = name.split("__")
            sections[section][key] = value
        return sections

    def run(self, *, beat_s: float = 0.2, **options: Any) -> int:
        """Run the job; return what the command would exit with."""
        config = Config.model_validate(self.sections(**options))
        return run(config, console=Console(file=io.StringIO()), pace=Pace(beat_s, watch_s=0.6))

    def arguments(self, **options: Any) -> list[str]:
        """Say the same as a command line."""
        sections = self.sections(**options).items()
        settings = [f"{section}.{key}={value}" for section, keys in sections for key, value in keys.items()]
        return ["predict", *(word for setting in settings for word in ("-o", setting))]

    def put(self, key: str, data: bytes) -> None:
        """Write an object, past the proxy."""
        self.client.put_object(Bucket=self.bucket.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        """Read an object, past the proxy."""
        return bytes(self.client.get_object(Bucket=self.bucket.name, Key=key)["Body"].read())

    def rows(self, table: str = "images") -> list[dict[str, Any]]:
        """Read a table without the code under test."""
        keys = self.client.list_objects_v2(Bucket=self.bucket.name, Prefix=f"out/{table}/")["Contents"]
        parts = [pq.read_table(io.BytesIO(self.get(item["Key"]))).to_pylist() for item in keys]
        return [row for part in parts for row in part]

    def statuses(self) -> dict[str, str]:
        """Return the error class or ``ok`` of each picture by name, each of which must be there once."""
        names = [row["uri"].rpartition("/")[2] for row in self.rows()]
        assert len(set(names)) == len(names)
        return dict(zip(names, (row["error_class"] or row["status"] for row in self.rows()), strict=True))

    def fetched(self) -> Counter[str]:
        """Count the requests for pictures, by name."""
        return Counter(request.key.rpartition("/")[2] for request in self.proxy.seen(r"GET (in|many)/.*\.jpg"))

    def check_all_ok(self, names: list[str] = NAMES) -> None:
        """Check that the tables are whole and the run declared finished."""
        assert self.statuses() == dict.fromkeys(names, "ok")
        boxes = Counter(row["image_id"] for row in self.rows("detections"))
        assert boxes == Counter({row["image_id"]: row["num_detections"] for row in self.rows()})
        summary = json.loads(self.get("out/summary.json"))
        assert (summary["inputs"], summary["ok"], summary["failed"]) == (len(names), len(names), 0)
        assert self.get("out/_SUCCESS") == b""


@pytest.fixture
def place(tiny_model_dir: Path, s3_bucket: S3Bucket, stages_here: None) -> Iterator[Place]:
    with FaultProxy(s3_bucket.endpoint) as proxy:
        place = Place(s3_bucket, s3_bucket.client(), proxy, tiny_model_dir)
        for seed, name in enumerate(NAMES):
            place.put(f"in/{name}", jpeg(seed))
        yield place


def jpeg(seed: int) -> bytes:
    return bytes(cv2.imencode(".jpg", scene(seed))[1])


# --- faults that pass


STEPS = [
    r"GET \?in/", "HEAD in/list.csv", "GET in/list.csv", "GET in/more.parquet", r"GET in/scene_.*\.jpg",
    "PUT out/lease.json", "GET out/lease.json", "DELETE out/lease.json", "PUT out/run.json", "GET out/run.json",
    "PUT out/detections/part-.*", "GET out/detections/part-.*", PART, "GET out/images/part-.*", r"GET \?out/images/",
    "PUT out/coco.json", "PUT out/summary.json", "PUT out/_SUCCESS",
]  # fmt: skip
"""What a run asks of the store."""


def several_inputs(place: Place) -> dict[str, Any]:
    """Name the pictures by a folder, and some of them again by lists."""
    place.put("in/list.csv", "\n".join(["path", *NAMES[2:4]]).encode())
    sink = io.BytesIO()
    pq.write_table(pa.table({"path": NAMES[3:5]}), sink)
    place.put("in/more.parquet", sink.getvalue())
    inputs = [f"{place.bucket.url}/in/{name}" for name in ("", "list.csv", "more.parquet")]
    return {"Predict__input": inputs, "Output__coco_json": True}


@pytest.mark.parametrize("kinds", [("internal_error", "slow_down", "truncate"), ("reset", "lost")])
def test_every_request_of_a_run_may_fail_at_first(place: Place, kinds: tuple[Kind, ...]) -> None:
    inputs = several_inputs(place)
    times = 2 if "reset" in kinds else 1  # aiohttp itself gets over some; asking whether a file exists is two requests
    faults = [Fault(kind, times=times) for kind in kinds]
    place.proxy.set(*faults)
    assert place.run(**inputs, Fetch__retries=8) == 0
    for step in STEPS:
        done = {request.fault for request in place.proxy.seen(step)} - {None}
        assert done == set(kinds) - (set() if step.startswith("GET") else {"truncate"}), step
    place.proxy.set(*faults)
    config = Config.model_validate(place.sections(Fetch__retries=8))
    assert "finished" in show(f"{place.bucket.url}/out", Storage(config.S3, config.Fetch)).splitlines()[0]
    assert place.proxy.seen("GET out/summary.json")
    place.check_all_ok()


def test_some_requests_of_a_run_may_not_be_answered_at_first(place: Place) -> None:
    inputs = several_inputs(place)
    steps = [
        r"GET \?in/", "GET in/list.csv", "GET in/scene_[35].jpg", "PUT out/run.json", PART, "GET out/images/part-.*",
        "PUT out/_SUCCESS",
    ]  # fmt: skip
    place.proxy.set(*(Fault("hang", step) for step in steps))
    assert place.run(**inputs, Output__shard_size=8, Fetch__timeout_s=1.0) == 0
    assert all(any(request.fault for request in place.proxy.seen(step)) for step in steps)
    place.check_all_ok()


def test_a_lease_that_cannot_be_renewed_does_not_end_the_run(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    def until_a_renewal_has_failed(request: Request) -> None:
        if str(request).startswith("PUT out/images/"):
            place.proxy.wait_for("slow_down")

    place.proxy.before = until_a_renewal_has_failed
    place.proxy.set(Fault("slow_down", "PUT out/lease.json", times=None, once_seen="PUT out/lease.json"))
    assert place.run(beat_s=0.01) == 0
    place.check_all_ok()
    [warning] = [message for message in caplog.messages if "lease" in message]
    assert "cannot be renewed, trying on: S3 answers SlowDown" in warning


# --- faults that stay


def test_pictures_that_fail_for_good_are_rows_that_retry_failed_does_again(place: Place) -> None:
    stay: dict[str, tuple[Kind, str]] = {
        NAMES[1]: ("internal_error", "unavailable"),
        NAMES[2]: ("slow_down", "unavailable"),
        NAMES[3]: ("hang", "timeout"),
        NAMES[4]: ("reset", "unavailable"),
        NAMES[5]: ("truncate", "unavailable"),
        NAMES[6]: ("denied", "forbidden"),
    }
    place.proxy.set(*(Fault(kind, f"GET in/{name}", times=None) for name, (kind, _) in stay.items()))
    assert place.run(Fetch__timeout_s=1.0, Fetch__retries=2) == 3
    assert place.statuses() == dict.fromkeys(NAMES, "ok") | {name: failed for name, (_, failed) in stay.items()}
    attempts = place.fetched()
    assert 3 <= attempts.pop(NAMES[4]) <= 6  # aiohttp sends some twice
    assert (
        attempts == Counter({**dict.fromkeys(NAMES, 1), **dict.fromkeys(stay, 3), NAMES[6]: 1, NAMES[4]: 0}) - Counter()
    )

    place.proxy.set()
    assert place.run() == 3
    assert not place.fetched()
    assert place.run(Predict__retry_failed=True) == 0
    assert place.fetched() == Counter(stay.keys())
    place.check_all_ok()


def test_a_write_that_fails_for_good_ends_the_run_and_the_same_command_goes_on(place: Place) -> None:
    place.proxy.set(Fault("slow_down", PART, times=None, once_seen=PART))
    with pytest.raises(JobError, match="cannot go on: S3 answers SlowDown: .* the same command goes on"):
        place.run()
    committed = set(place.statuses())
    tried = place.proxy.attempts(PART)
    assert sorted(tried.values()) == [1, RETRIES + 1] and len(committed) == 2
    place.proxy.set()
    assert place.run() == 0
    assert set(place.fetched()) == set(NAMES) - committed
    place.check_all_ok()


def test_after_the_credentials_have_expired_the_command_ends_in_a_line_and_with_new_ones_it_goes_on(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.proxy.set(Fault("expired", times=None, once_seen=PART))
    assert main(place.arguments()) == EXIT_FAILED
    said = capfd.readouterr().err
    line = said.strip().splitlines()[-1]
    assert line.startswith("sodbatch: the run cannot go on: S3 answers ExpiredToken: The provided token has expired.")
    assert "Traceback" not in said and not any(key in said for key in ADMIN)
    committed = place.statuses()
    assert len(committed) == 2 and set(committed.values()) == {"ok"}
    place.proxy.set()
    assert place.run() == 0
    assert set(place.fetched()) == set(NAMES) - set(committed)
    place.check_all_ok()


def test_pictures_that_may_no_longer_be_read_are_failed_rows_that_retry_failed_does_again(place: Place) -> None:
    place.proxy.set(Fault("expired", r"GET in/.*\.jpg", times=None, once_seen=f"GET in/{NAMES[2]}"))
    assert place.run(Fetch__threads=1) == 3
    refused = NAMES[3:]
    assert place.statuses() == dict.fromkeys(NAMES, "ok") | dict.fromkeys(refused, "forbidden")
    messages = {row["error_message"] for row in place.rows()} - {None}
    assert messages == {"S3 answers ExpiredToken: The provided token has expired."}
    assert place.fetched() == Counter(NAMES)
    place.proxy.set()
    assert place.run(Predict__retry_failed=True) == 0
    assert place.fetched() == Counter(refused)
    place.check_all_ok()


# --- a listing that changes


def test_a_listing_that_changes_while_it_is_read(place: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: place.put(f"many/{i:04d}.txt", b""), range(1000)))
    for seed, name in enumerate(["0003.jpg", "0500.jpg", "1000.jpg"]):
        place.put(f"many/{name}", jpeg(seed))

    def change_before_the_second_page(request: Request) -> None:
        if str(request) == "GET ?many/&":
            place.client.delete_object(Bucket=place.bucket.name, Key="many/0003.jpg")
            place.put("many/0001.jpg", jpeg(3))
            place.put("many/1001.jpg", jpeg(4))

    place.proxy.before = change_before_the_second_page
    several = {"Predict__input": f"{place.bucket.url}/many", "Output__shard_size": 8}
    assert place.run(**several) == 3
    found = {"0003.jpg": "missing", "0500.jpg": "ok", "1000.jpg": "ok", "1001.jpg": "ok"}
    assert place.statuses() == found
    place.proxy.set()
    assert place.run(**several) == 3
    assert place.statuses() == {"0001.jpg": "ok"} | found
    assert place.fetched() == Counter(["0001.jpg"])


# --- a part that is there already


def test_a_part_whose_commit_was_carried_out_unheard_is_committed(place: Place) -> None:
    place.proxy.set(Fault("lost", PART, times=None))
    with pytest.raises(JobError, match="the connection to S3 failed"):
        place.run()
    assert RETRIES + 1 <= len(place.proxy.seen(PART)) <= 2 * (RETRIES + 1)  # aiohttp sends some twice
    committed = set(place.statuses())
    assert len(committed) == 2
    place.proxy.set()
    assert place.run() == 0
    assert set(place.fetched()) == set(NAMES) - committed
    place.check_all_ok()


def test_a_part_whose_writer_was_killed_after_its_commit_is_committed(place: Place) -> None:
    place.proxy.set(Fault("hang", PART, times=None))
    arguments = place.arguments(Fetch__timeout_s=600.0)
    process = subprocess.Popen(
        [sys.executable, "-m", "sodbatch", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    place.proxy.wait_for("hang")
    process.kill()
    process.wait()
    committed = set(place.statuses())
    assert len(committed) == 2
    place.proxy.set()
    assert place.run() == 0
    assert set(place.fetched()) == set(NAMES) - committed
    place.check_all_ok()


@pytest.mark.slow
def test_the_writers_of_ray_get_over_what_passes(place: Place) -> None:
    parts = "PUT out/(images|detections)/part-.*"
    place.proxy.set(Fault("lost", parts, times=2), Fault("slow_down", parts, times=1))
    assert place.run(Predict__engine="ray") == 0
    assert set(place.proxy.attempts(parts).values()) == {4}
    place.check_all_ok()
