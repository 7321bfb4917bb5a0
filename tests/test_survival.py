"""Whole runs that are hit: pictures that kill their process, a node that dies, actors that hang or cannot start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deadly import DEADLY_VALUE, UnloadableSpec, deadly_pipeline, mark
from test_predict_job import scene
from test_resume import command

from sodbatch import predict_job
from sodbatch.config import Config
from sodbatch.errors import JobError

TESTS = str(Path(__file__).parent)


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pa.concat_tables(map(pq.read_table, output.glob("images/part-*"))).to_pylist()
    return found


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_pictures_that_kill_decoder_and_predictor_are_failed_rows_and_all_others_are_ok(
    engine: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "in"
    pictures.mkdir()
    for seed in range(40):
        cv2.imwrite(str(pictures / f"{seed:03d}.png"), scene(seed))
    cv2.imwrite(str(pictures / "010.png"), np.full((64, 64, 3), DEADLY_VALUE, np.uint8))
    for name in ("003.png", "027.png"):
        mark(pictures / name, "SEGV")
    monkeypatch.setenv("PYTHONPATH", TESTS)
    build = predict_job.build_pipeline
    monkeypatch.setattr(predict_job, "build_pipeline", lambda *args: deadly_pipeline(build(*args)))
    output = tmp_path / "out"
    config = Config.model_validate(
        {
            "Global": {"output": str(output), "device": "cpu"},
            "Predict": {"input": str(pictures), "model_dir": str(tiny_model_dir), "engine": engine},
            "Output": {"shard_size": 8},
        }
    )
    assert predict_job.run(config) == 3
    found = {Path(row["uri"]).name: row["error_class"] for row in rows(output)}
    expected: dict[str, str | None] = {f"{seed:03d}.png": None for seed in range(40)}
    expected |= {"003.png": "decoder_failure", "027.png": "decoder_failure", "010.png": "predictor_failure"}
    assert found == expected and len(rows(output)) == 40
    messages = {row["error_message"] for row in rows(output) if row["error_class"]}
    assert messages == {"its process died 2 times with this picture in hand (SIGSEGV)"}


def test_a_node_that_dies_after_parts_were_committed_costs_no_picture(tiny_model_dir: Path, tmp_path: Path) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    pictures, output, count = tmp_path / "in", tmp_path / "out", 240
    pictures.mkdir()
    for seed in range(count):
        cv2.imwrite(str(pictures / f"{seed:03d}.jpg"), scene(seed % 10))
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=2)
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        args = [*command(tiny_model_dir, pictures, output, "ray"), "-o", "Resources.no_progress_timeout_s=120"]
        with open(tmp_path / "log", "wb") as log:
            driver = subprocess.Popen([sys.executable, *args[1:]], env=environment, stdout=log, stderr=log)
            deadline = time.monotonic() + 240
            while len(list(output.glob("images/part-*"))) < 3:
                assert driver.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, "the job committed nothing"
                time.sleep(0.02)
            cluster.remove_node(second, allow_graceful=False)
            assert not (output / "_SUCCESS").exists(), "the job ended before the node could be killed"
            assert driver.wait(300) == 0, (tmp_path / "log").read_text()
    finally:
        cluster.shutdown()
    assert set(Counter(row["image_id"] for row in rows(output)).values()) == {1}
    assert [row["status"] for row in rows(output)] == ["ok"] * count
    assert "machines: 2" in (tmp_path / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["damaged", "deadly"])
def test_a_model_that_cannot_start_ends_the_run_at_once_and_says_why(
    how: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before ``Resources.no_progress_timeout_s``, half an hour here, and without starting the actors for ever."""
    cv2.imwrite(str(tmp_path / "a.jpg"), scene(1))
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    if how == "damaged":
        weights = model / "inference.pdiparams"
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        monkeypatch.setenv("PYTHONPATH", TESTS)
        build = predict_job.build_pipeline

        def unloadable(*args: Any) -> Any:
            pipeline = build(*args)
            return replace(pipeline, infer=UnloadableSpec(**vars(pipeline.infer)))

        monkeypatch.setattr(predict_job, "build_pipeline", unloadable)
    config = Config.model_validate(
        {
            "Global": {"output": str(tmp_path / "out"), "device": "cpu"},
            "Predict": {
                "input": str(tmp_path / "a.jpg"),
                "model_dir": str(model),
                "engine": "ray",
                "backend": "paddle",
            },
        }
    )
    said = {"damaged": "cannot be loaded, is it whole", "deadly": "kills its process when it starts .SIGSEGV, 4 times"}
    with pytest.raises(JobError, match=said[how]):
        predict_job.run(config)
    assert not (tmp_path / "out" / "images").exists()


@contextmanager
def driver(args: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a driver, which has committed its first part when the block begins."""
    output = next(Path(arg.removeprefix("Global.output=")) for arg in args if arg.startswith("Global.output="))
    with open(log, "wb") as file, subprocess.Popen(args, env=environment, stdout=file, stderr=file) as process:
        deadline = time.monotonic() + 240
        while not list(output.glob("images/part-*")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the job committed nothing"
            time.sleep(0.02)
        yield process


def actors_of(variable: bytes) -> list[int]:
    """Return the processes of Ray's actors that hold a model and have this in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"_InferActor" in (entry / "cmdline").read_bytes() and variable in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def check_given_up_and_made_good(code: int, log: Path, output: Path, args: list[str], count: int) -> None:
    """A run has ended for want of progress; the same command makes it good."""
    told = log.read_text().splitlines()[-1]
    assert code == 1, told
    assert told.startswith("sodbatch: no picture was finished in 60 s (Resources.no_progress_timeout_s)"), told
    before = {row["image_id"] for row in rows(output)}
    assert 0 < len(before) < count and not (output / "_SUCCESS").exists()
    again = subprocess.run(args, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    ids = Counter(row["image_id"] for row in rows(output))
    assert len(ids) == count and set(ids.values()) == {1} and before <= ids.keys()


@pytest.mark.slow
def test_actors_that_hang_end_the_run_after_the_time_without_progress(tiny_model_dir: Path, tmp_path: Path) -> None:
    pictures, output, count = tmp_path / "in", tmp_path / "out", 240
    pictures.mkdir()
    for seed in range(count):
        cv2.imwrite(str(pictures / f"{seed:03d}.jpg"), scene(seed % 10))
    args = [*command(tiny_model_dir, pictures, output, "ray"), "-o", "Resources.no_progress_timeout_s=60"]
    environment = os.environ | {"HANGING_TEST": str(tmp_path)}
    with driver(args, environment, tmp_path / "log") as process:
        hanging = actors_of(f"HANGING_TEST={tmp_path}".encode())
        assert hanging
        for pid in hanging:
            os.kill(pid, signal.SIGSTOP)
        code = process.wait(400)
    assert actors_of(f"HANGING_TEST={tmp_path}".encode()) == []
    check_given_up_and_made_good(code, tmp_path / "log", output, args, count)


@pytest.mark.slow
def test_a_pool_whose_only_node_dies_ends_the_run_after_the_time_without_progress(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    pictures, output, count = tmp_path / "in", tmp_path / "out", 240
    pictures.mkdir()
    for seed in range(count):
        cv2.imwrite(str(pictures / f"{seed:03d}.jpg"), scene(seed % 10))
    args = [*command(tiny_model_dir, pictures, output, "ray"), "-o", "Resources.no_progress_timeout_s=60"]
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        only = cluster.add_node(num_cpus=2)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        with driver(args, dict(os.environ), tmp_path / "log") as process:
            cluster.remove_node(only, allow_graceful=False)
            code = process.wait(400)
        cluster.add_node(num_cpus=2)
        check_given_up_and_made_good(code, tmp_path / "log", output, args, count)
    finally:
        cluster.shutdown()
