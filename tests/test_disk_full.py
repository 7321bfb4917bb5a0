"""Disks that are really full: that of the output, and that of Ray's temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from test_predict_job import scene
from test_resume import command

PICTURES = 48

IMPATIENT = (
    "from sodbatch.engine import ray; ray.FULL_DISK_S = 15.0; from sodbatch.cli import entry; entry()"  # of a minute
)


class Disk:
    """A file system of its own, in memory.

    Args:
        size: Its bytes.
    """

    def __init__(self, size: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="disk-"))  # short: Ray makes sockets in it
        done = self._mount(f"size={size}")
        if done.returncode:
            self.path.rmdir()
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")

    def resize(self, size: int) -> None:
        assert self._mount(f"remount,size={size}").returncode == 0

    def fill(self, leave: int = 0) -> Path:
        """Fill it up to some bytes with one file; returns that."""
        free = os.statvfs(self.path)
        filler = self.path / "filler"
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
        return filler

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)
        self.path.rmdir()

    def _mount(self, options: str) -> subprocess.CompletedProcess[str]:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture
def disk() -> Iterator[Callable[[int], Disk]]:
    """Make disks of a size in bytes."""
    disks: list[Disk] = []

    def make(size: int) -> Disk:
        disks.append(Disk(size))
        return disks[-1]

    yield make
    for made in disks:
        made.remove()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(PICTURES):
        cv2.imwrite(str(folder / f"{seed:03d}.jpg"), scene(seed % 10))
    return folder


def ran(args: list[str]) -> tuple[int, list[str]]:
    """Run a command; return its exit code and the lines of its errors."""
    environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
    ended = subprocess.run(args, capture_output=True, text=True, timeout=400, check=False, env=environment)
    return ended.returncode, ended.stderr.splitlines()


def committed(output: Path) -> Counter[str]:
    """Return how often each picture is committed; whatever is visible must be whole."""
    parts = list((output / "images").iterdir())
    assert all((output / "detections" / part.name).exists() for part in parts)
    for part in (output / "detections").iterdir():
        pq.read_table(part)
    return Counter(x for part in parts for x in pq.read_table(part)["image_id"].to_pylist())


def check_complete(output: Path) -> None:
    assert committed(output).most_common(1)[0][1] == 1 and len(committed(output)) == PICTURES
    assert json.loads((output / "summary.json").read_text())["ok"] == PICTURES
    assert (output / "_SUCCESS").exists()


def leftovers(output: Path) -> list[Path]:
    return [path for path in output.rglob(".*") if path.is_file()] + list(output.rglob("*.tmp"))


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_run_whose_output_fills_up_ends_in_one_line_and_goes_on_when_there_is_room(
    engine: str, tiny_model_dir: Path, pictures: Path, disk: Callable[[int], Disk]
) -> None:
    small = disk(400 * 1024)  # a part with its JSON takes some 130 KiB
    output = small.path / "out"
    args = [*command(tiny_model_dir, pictures, output, engine), "-o", "Output.paddlex_json=true"]
    code, errors = ran(args)
    assert code == 1, errors
    told = f"sodbatch: cannot write to {output}: No space left on device; what is committed stays"
    assert errors[-1].startswith(told) and sum(line.startswith(told) for line in errors) == 1
    assert not any("tried again" in line or "Traceback" in line for line in errors), errors
    before = committed(output)
    assert 0 < len(before) < PICTURES
    assert not (output / "_SUCCESS").exists() and leftovers(output) == []
    small.resize(8 * 2**20)
    assert ran(args)[0] == 0
    check_complete(output)
    assert len(list((output / "json").iterdir())) == PICTURES
    assert json.loads((output / "summary.json").read_text())["this_run"]["already_done"] == len(before)


def test_a_disk_that_is_full_at_the_last_step_costs_that_step_alone(
    tiny_model_dir: Path, pictures: Path, disk: Callable[[int], Disk]
) -> None:
    small = disk(8 * 2**20)
    output = small.path / "out"
    args = command(tiny_model_dir, pictures, output, "inline")
    assert ran(args)[0] == 0
    filler = small.fill(leave=32 * 1024)  # enough for lease and record
    args += ["-o", "Output.coco_json=true"]
    code, errors = ran(args)
    assert code == 1, errors
    assert errors[-1].startswith(f"sodbatch: cannot write to {output}: No space left on device; what is committed")
    assert {path.name for path in output.iterdir()} == {"images", "detections", "run.json", "summary.json"}
    filler.unlink()
    assert ran(args)[0] == 0
    check_complete(output)
    assert json.loads((output / "summary.json").read_text())["this_run"]["done"] == 0
    assert len(json.loads((output / "coco.json").read_text())) > PICTURES


def test_ray_is_not_started_on_a_full_disk(
    tiny_model_dir: Path, pictures: Path, tmp_path: Path, disk: Callable[[int], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = disk(20 * 2**20)
    monkeypatch.setenv("RAY_TMPDIR", str(small.path))
    code, errors = ran(command(tiny_model_dir, pictures, tmp_path / "out", "ray"))
    assert code == 2
    assert errors[-1] == (
        f"sodbatch: Ray's temporary folder {small.path}/ray is on a full disk (20 MiB are left of the 100 that Ray "
        "needs); make room there, or set RAY_TMPDIR to a folder on another disk"
    )
    assert list(small.path.rglob("session_*")) == []


def until(process: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    """Wait until something holds while a process runs."""
    event = threading.Event()
    for _ in range(24_000):
        if holds():
            return
        assert process.poll() is None, "the job ended before"
        event.wait(0.01)
    raise AssertionError("it did not come")


@pytest.mark.slow
def test_a_run_whose_ray_can_no_longer_spill_ends_soon_and_goes_on_when_there_is_room(
    tiny_model_dir: Path, pictures: Path, tmp_path: Path, disk: Callable[[int], Disk]
) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    small, output = disk(150 * 2**20), tmp_path / "out"
    node = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20, "temp_dir": str(small.path)}
    for seed in range(PICTURES, 5 * PICTURES):
        cv2.imwrite(str(pictures / f"{seed:03d}.jpg"), scene(seed % 10))
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="CRITICAL")
        args = [sys.executable, "-c", IMPATIENT, *command(tiny_model_dir, pictures, output, "ray")[3:]]
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        with open(tmp_path / "log", "wb") as log:
            driver = subprocess.Popen(args, env=environment, stdout=log, stderr=log)
            until(driver, lambda: any(output.glob("images/part-*")))
            others = []  # objects of somebody else, which fill memory and disk
            with contextlib.suppress(ray.exceptions.RayError):
                others.extend(ray.put(np.zeros(10 * 2**20, np.uint8)) for _ in range(40))
            assert driver.wait(300) == 1, (tmp_path / "log").read_text()
    finally:
        ray.shutdown()
        cluster.shutdown()
    [told] = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("sodbatch: ")][-1:]
    seen = ("is on a full disk", "the disk of its temporary folder are full")  # by this process, or by a worker of Ray
    assert any(text in told for text in seen) and "what is committed stays" in told
    before = committed(output)
    assert 0 < len(before) < 5 * PICTURES and leftovers(output) == []
    assert ran(command(tiny_model_dir, pictures, output, "ray"))[0] == 0
    assert set(committed(output).values()) == {1} and len(committed(output)) == 5 * PICTURES
