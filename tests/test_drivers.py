"""Drivers that are killed, stopped, late, several or in another century; in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from drivers import CHANGES, LOOKS, Drive, Trap, kill_all

PICTURES = 8
PARTS = 2


@pytest.fixture
def drive(tiny_model_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Drive]]:
    """Make a driver of ``tmp_path/out`` with a log of its own; keywords are ``Section__key=value``."""
    names = [f"{'missing' if i % 5 == 4 else 'scene'}_{i:02d}.jpg" for i in range(PICTURES)]
    (tmp_path / "list.txt").write_text("\n".join(f"/data/{name}" for name in names))
    count = iter(range(10**6))

    def make(
        trap: Trap | None = None, clock_s: float = 0.0, output: object = tmp_path / "out", **options: Any
    ) -> Drive:
        sections: dict[str, dict[str, Any]] = {
            "Global": {"output": str(output), "device": "cpu"},
            "Predict": {
                "input": str(tmp_path / "list.txt"),
                "model_dir": str(tiny_model_dir),
                "engine": "inline",
                "threshold": 0.3,
            },
            "Output": {"shard_size": -(-PICTURES // PARTS), "coco_json": True},
        }
        for name, value in options.items():
            section, key = name.split("__")
            sections.setdefault(section, {})[key] = value
        return Drive(sections, str(tmp_path / f"log-{next(count)}"), trap, clock_s)

    yield make
    kill_all()


def rows_of(output: Path, table: str = "images") -> list[dict[str, Any]]:
    return [row for part in sorted(output.glob(f"{table}/part-*")) for row in pq.read_table(part).to_pylist()]


def check_complete(output: Path) -> None:
    """The tables hold each picture once, the boxes follow, and nothing else lies about."""
    ids = Counter(row["image_id"] for row in rows_of(output))
    assert len(ids) == PICTURES and set(ids.values()) == {1}
    ok = {row["image_id"] for row in rows_of(output) if row["status"] == "ok"}
    assert Counter(row["image_id"] for row in rows_of(output, "detections")) == dict.fromkeys(ok, 2)
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["pictures"], summary["ok"], summary["failed"]) == (PICTURES, len(ok), PICTURES - len(ok))
    assert len(json.loads((output / "coco.json").read_text())) == 2 * len(ok)
    names = {path.name for path in output.iterdir()}
    assert names == {"images", "detections", "run.json", "coco.json", "summary.json", "_SUCCESS"}
    for table in ("images", "detections"):
        assert all(path.name.startswith("part-") for path in (output / table).iterdir())
    assert {path.name for path in (output / "images").iterdir()} == {
        path.name for path in (output / "detections").iterdir()
    }


def until(holds: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(6000):
        if holds():
            return
        event.wait(0.01)
    raise AssertionError("it did not come")


BEFORE: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "nothing": (None, {}),
    "all done": ({}, {}),
    "failures to redo": ({}, {"Predict__retry_failed": True}),
    "another threshold": ({"Predict__threshold": 0.9}, {"Output__on_mismatch": "overwrite"}),
}
"""The options of the run before, and of the run that is killed."""


@pytest.mark.parametrize(
    ("before", "kinds", "step"),
    [
        ("nothing", CHANGES, 1),
        ("all done", CHANGES, 1),
        ("failures to redo", CHANGES, 2),
        ("another threshold", CHANGES, 3),
        ("nothing", LOOKS, 4),
    ],
)
def test_a_driver_killed_before_any_use_of_its_store_is_made_good_by_the_same_command(
    drive: Callable[..., Drive], tmp_path: Path, before: str, kinds: tuple[str, ...], step: int
) -> None:
    earlier, options = BEFORE[before]

    def prepared(name: str) -> Path:
        if earlier is not None:
            assert drive(output=tmp_path / name, **earlier).run() == 3
        return tmp_path / name

    whole = drive(output=prepared("whole"), **options)
    assert whole.run() == 3
    check_complete(tmp_path / "whole")
    uses = sum(use in kinds for use in whole.uses())
    assert uses > 10
    for number in range(1, uses + 1, step):
        output = prepared(f"out-{number}")
        killed = drive(Trap(number, kinds=kinds), output=output, **options)
        if killed.run() != -signal.SIGKILL:
            continue  # its lease beat less often than that of the whole run
        again = drive(output=output, **options)
        assert again.run() == 3, again.said()
        assert "watching" not in again.said()
        check_complete(output)


def test_a_second_driver_is_refused_while_the_first_lives_and_the_first_ends_right(
    drive: Callable[..., Drive], tmp_path: Path
) -> None:
    first = drive(Trap(1, None, ("write_atomic",), "/images/part-"))
    process = first.start()
    until(first.waits)
    second = drive()
    assert second.run() == 2
    assert (
        f"another run is at work on {tmp_path / 'out'}" in second.said() and f"process {process.pid}" in second.said()
    )
    first.let_go()
    process.join()
    assert process.exitcode == 3, first.said()
    check_complete(tmp_path / "out")


@pytest.mark.parametrize("shard_size", [None, 5])
@pytest.mark.parametrize("at", ["/images/part-", "/detections/part-", "/summary.json"])
def test_a_driver_that_stood_still_is_taken_over_and_ends_when_it_goes_on(
    drive: Callable[..., Drive], tmp_path: Path, at: str, shard_size: int | None
) -> None:
    first = drive(Trap(1, signal.SIGSTOP, ("write_atomic", "rename"), at))
    process = first.start()
    until(first.waits)
    second = drive(**({} if shard_size is None else {"Output__shard_size": shard_size}))
    assert second.run() == 3
    assert "it is not: this run takes over" in second.said()
    check_complete(tmp_path / "out")
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 1
    assert "RunEndedError: " in first.said() and "another run has taken" in first.said()
    check_complete(tmp_path / "out")


@pytest.mark.parametrize(("first_s", "second_s"), [(-1.8e9, 2.3e9), (2.3e9, -1.8e9), (0.0, -1.8e9)])
def test_wrong_clocks_do_no_harm(drive: Callable[..., Drive], tmp_path: Path, first_s: float, second_s: float) -> None:
    """In 1970 and 2100, over a kill and a resume: only the times of writing differ from those of a right clock."""
    right = tmp_path / "right"
    assert drive(output=right).run() == 3
    assert drive(Trap(2, kinds=("write_atomic",), at="/images/part-"), clock_s=first_s).run() == -signal.SIGKILL
    again = drive(clock_s=second_s)
    assert again.run() == 3
    assert "watching" not in again.said()
    check_complete(tmp_path / "out")
    years = {row["created_at"].year for row in rows_of(tmp_path / "out")}
    now = datetime.now(timezone.utc).year
    assert years and all(abs(year - now) > 50 for year in years) == (first_s != 0)

    def told(output: Path) -> list[dict[str, Any]]:
        varying = ("created_at", "run_id", "attempt")
        return [{key: value for key, value in row.items() if key not in varying} for row in rows_of(output)]

    assert told(tmp_path / "out") == told(right)
    assert rows_of(tmp_path / "out", "detections") == rows_of(right, "detections")


def test_too_many_failures_end_a_run_and_say_which_and_the_same_command_goes_on(
    drive: Callable[..., Drive], tmp_path: Path
) -> None:
    names = [f"/data/{'missing' if i % 2 else 'scene'}_{i:03d}.jpg" for i in range(300)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    options = {"Predict__max_failure_ratio": 0.4, "Output__shard_size": 30}
    first = drive(**options)
    assert first.run() == 1
    assert (
        "60 of 120 pictures failed (50%), more than Predict.max_failure_ratio 0.4: missing 60 (such as "
        "/data/missing_001.jpg: no such file)" in first.said()
    )
    assert len(rows_of(tmp_path / "out")) == 120
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images", "detections", "run.json"}
    assert drive(**options).run() == 1
    assert len(rows_of(tmp_path / "out")) == 240
    last = drive(**options)
    assert last.run() == 1  # 30 of the last 60, which only the end judges
    assert "30 of 60 pictures failed" in last.said()
    still = drive(**options)  # nothing to do, but the output as a whole is no better
    assert still.run() == 1
    assert "150 of all 300 pictures of the output failed (50%)" in still.said()
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert drive(**options | {"Predict__max_failure_ratio": 0.5}).run() == 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == 150
