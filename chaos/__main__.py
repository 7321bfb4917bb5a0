"""Kill workers, their children, a node and the driver at random until the time is over; then check the tables.

Rounds of drawn pictures go to an output each. A driver that ends or is killed is started again with the same command,
as its operator would. After each round every input must stand in the tables exactly once, ok; the exit code says so.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from chaos.victims import MARK, processes

SHARD_SIZE = 32


class Soak:
    """A cluster of two nodes, a driver, and what was killed.

    Args:
        folder: For pictures, model and outputs.
        seed: Of the choice of victims.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._random = random.Random(seed)
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        self._second = self._cluster.add_node(num_cpus=2)
        self.kills: Counter[str] = Counter()

    def close(self) -> None:
        """Stop the cluster."""
        self._cluster.shutdown()

    def round(self, pictures: Path, output: Path, end: float, every_s: float) -> None:
        """Run the job to its end; until ``end`` kill something every ``every_s`` seconds, give or take."""
        while True:
            driver = subprocess.Popen(self._command(pictures, output), env=os.environ | {"RAY_ADDRESS": self._address})
            while driver.poll() is None:
                try:
                    driver.wait(self._random.uniform(0.3, 1.7) * every_s)
                except subprocess.TimeoutExpired:
                    if time.monotonic() < end:
                        self._kill_something(driver)
            if driver.returncode == 0:
                return
            print(f"the driver ended with {driver.returncode}; the same command again", flush=True)

    @property
    def _address(self) -> str:
        return str(self._cluster.address)

    def _kill_something(self, driver: subprocess.Popen[bytes]) -> None:
        kind = self._random.choices(["worker", "child", "node", "driver"], [8, 8, 1, 1])[0]
        if kind == "driver":
            driver.kill()
            driver.wait()
        elif kind == "node":
            self._cluster.remove_node(self._second, allow_graceful=False)
            self._second = self._cluster.add_node(num_cpus=2)
        else:
            victims = processes(kind)
            if not victims:
                return
            try:
                os.kill(self._random.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                return
        self.kills[kind] += 1

    def _command(self, pictures: Path, output: Path) -> list[str]:
        overrides = {
            "Predict.model_dir": self._folder / "model",
            "Predict.input": pictures,
            "Global.output": output,
            "Global.device": "cpu",
            "Predict.backend": "openvino",
            "Output.shard_size": SHARD_SIZE,
            "Resources.no_progress_timeout_s": 300,
        }
        words = [word for key, value in overrides.items() for word in ("-o", f"{key}={value}")]
        return [sys.executable, "-m", "sodbatch", "predict", "-c", "PP-YOLOE_plus_SOD-S", *words]


def draw_pictures(folder: Path, count: int) -> Path:
    """Make a folder of so many pictures: twenty drawn ones under very many names."""
    import cv2
    import numpy as np

    folder.mkdir()
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        if index >= 20:
            os.link(folder / f"{index % 20:06d}.jpg", path)
            continue
        rng = np.random.default_rng(index)
        ground = cv2.GaussianBlur(rng.integers(60, 200, (360, 480, 3)).astype(np.uint8), (9, 9), 3)
        for x, y, width, height in rng.integers((0, 0, 4, 4), (470, 350, 24, 16), (60, 4)).tolist():
            cv2.rectangle(ground, (x, y), (x + width, y + height), rng.integers(0, 256, 3).tolist(), -1)
        cv2.imwrite(str(path), ground)
    return folder


def faults(output: Path, count: int) -> list[str]:
    """Say what is wrong with the tables of a round, read without this package."""
    images = [row for part in output.glob("images/part-*") for row in pq.read_table(part).to_pylist()]
    boxes = sum(pq.ParquetFile(part).metadata.num_rows for part in output.glob("detections/part-*"))
    ids = Counter(row["image_id"] for row in images)
    found = []
    if len(ids) != count:
        found.append(f"{len(ids)} pictures of {count}")
    if doubles := sum(number > 1 for number in ids.values()):
        found.append(f"{doubles} pictures stand more than once")
    if failed := [row["error_message"] for row in images if row["status"] != "ok"]:
        found.append(f"{len(failed)} failed, such as: {failed[0]}")
    if boxes != sum(row["num_detections"] or 0 for row in images):
        found.append("the detections are not those of the pictures")
    if not (output / "_SUCCESS").exists():
        found.append("no _SUCCESS")
    return found


def main(minutes: float, every_s: float, count: int, seed: int) -> int:
    """Soak for some minutes; return the exit code."""
    os.environ[MARK] = uuid.uuid4().hex
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export = ["export", "-c", "PP-YOLOE_plus_SOD-S", "-o", "Global.model=PP-YOLOE_plus_SOD-tiny"]
        command = [sys.executable, "-m", "sodbatch", *export, "-o", f"Global.output={folder / 'model'}"]
        subprocess.run(command, check=True, capture_output=True)
        pictures = draw_pictures(folder / "pictures", count)
        soak = Soak(folder, seed)
        end = time.monotonic() + 60 * minutes
        rounds = 0
        wrong: list[str] = []
        try:
            while time.monotonic() < end and not wrong:
                output = folder / f"out-{rounds}"
                soak.round(pictures, output, end, every_s)
                wrong = faults(output, count)
                rounds += 1
                print(
                    f"round {rounds}: {count} pictures, {'; '.join(wrong) or 'exact'}; kills: {dict(soak.kills)}",
                    flush=True,
                )
        finally:
            soak.close()
    print(
        f"{sum(soak.kills.values())} kills in {minutes:g} minutes, {rounds} rounds of {count} pictures: "
        f"{'; '.join(wrong) or 'every picture once, none failed'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two kills, on average")
    parser.add_argument("--pictures", type=int, default=2000, help="pictures of one round")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(main(options.minutes, options.every, options.pictures, options.seed))
