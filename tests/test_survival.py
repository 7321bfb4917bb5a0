"""Whole runs that are hit: pictures that kill their process, a node that dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deadly import DEADLY_VALUE, deadly_pipeline, mark
from test_predict_job import scene
from test_resume import command

from sodbatch import predict_job
from sodbatch.config import Config

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
