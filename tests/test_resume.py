"""A driver killed with SIGKILL; what the same command makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest
from test_predict_job import scene

PICTURES = 120


def command(model: Path, pictures: Path, output: Path, engine: str) -> list[str]:
    overrides = [
        f"Predict.model_dir={model}",
        f"Predict.input={pictures}",
        f"Global.output={output}",
        f"Predict.engine={engine}",
        "Global.device=cpu",
        "Predict.threshold=0.3",
        "Output.shard_size=8",
    ]
    options = [word for override in overrides for word in ("-o", override)]
    return [sys.executable, "-m", "sodbatch", "predict", "-c", "PP-YOLOE_plus_SOD-S", *options]


def kill_after_parts(process: subprocess.Popen[bytes], output: Path, parts: int) -> None:
    """Kill the driver, and nothing else, once so many parts are committed."""
    deadline = time.monotonic() + 240
    while len(list(output.glob("images/part-*"))) < parts:
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline, "the job committed nothing"
        time.sleep(0.02)
    process.kill()
    process.wait()


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_after_a_kill_the_same_command_goes_on_and_every_picture_is_there_once(
    tiny_model_dir: Path, tmp_path: Path, engine: str
) -> None:
    pictures, output = tmp_path / "in", tmp_path / "out"
    pictures.mkdir()
    for seed in range(PICTURES):
        cv2.imwrite(str(pictures / f"{seed:03d}.jpg"), scene(seed % 10))
    args = command(tiny_model_dir, pictures, output, engine)
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kill_after_parts(process, output, parts=3)
    assert not (output / "_SUCCESS").exists()
    committed = {part.name: part.stat().st_mtime_ns for part in output.glob("images/part-*")}
    assert 0 < sum(len(pq.read_table(output / "images" / name)) for name in committed) < PICTURES

    ended = subprocess.run(args, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    ids = Counter(x for part in output.glob("images/*") for x in pq.read_table(part)["image_id"].to_pylist())
    assert len(ids) == PICTURES and set(ids.values()) == {1}
    summary = json.loads((output / "summary.json").read_text())
    assert (output / "_SUCCESS").exists()
    assert (summary["inputs"], summary["ok"], summary["failed"]) == (PICTURES, PICTURES, 0)
    assert summary["this_run"]["already_done"] + summary["this_run"]["done"] == PICTURES
    assert summary["this_run"]["already_done"] >= 24
    after = {part.name: part.stat().st_mtime_ns for part in output.glob("images/part-*")}
    assert committed.items() <= after.items()
