from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sodbatch import lease
from sodbatch.errors import RunEndedError, UsageError
from sodbatch.lease import Holder, Lease, Pace, read_lease, this_process, wait_until_free
from sodbatch.record import Rank
from sodbatch.storage import Storage

FAST = Pace(beat_s=0.05, watch_s=0.5)
SLOW = Pace(beat_s=3600, watch_s=0.5)
FIRST, SECOND = Rank(1, "first"), Rank(2, "second")


def hold(output: object, rank: Rank = FIRST, pace: Pace = FAST, storage: Storage | None = None) -> Lease:
    return Lease(str(output), storage or Storage(), this_process(rank), pace)


def elsewhere(holder: Holder, **changes: object) -> Holder:
    """The same run, on a machine of which this one knows nothing."""
    return replace(holder, host="far-away", machine="another boot", **changes)


def leave(output: Path, holder: Holder) -> None:
    (output / "lease.json").write_text(json.dumps(vars(holder)))


def wait(output: Path, pace: Pace = FAST, said: list[str] | None = None, known_dead: Holder | None = None) -> object:
    return wait_until_free(str(output), Storage(), pace, [].append if said is None else said.append, known_dead)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what must come; the test's own time limit is generous."""
    event = threading.Event()
    for _ in range(6000):
        if holds():
            return
        event.wait(0.01)
    raise AssertionError("it did not come")


def beat_of(output: Path) -> int:
    found = read_lease(str(output), Storage())
    assert found is not None
    return found.beat


@pytest.fixture
def ended() -> Holder:
    """A run of this machine whose process has ended."""
    show = "import json; from sodbatch.lease import *; print(json.dumps(vars(this_process(Rank(1, 'ended')))))"
    return Holder(**json.loads(subprocess.check_output([sys.executable, "-c", show])))


def test_an_output_without_a_lease_is_free(tmp_path: Path) -> None:
    said: list[str] = []
    assert wait(tmp_path / "nowhere", said=said) is None
    assert said == []


def test_a_lease_is_renewed_while_it_is_held_and_gone_afterwards(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        until(lambda: beat_of(tmp_path) >= 3)
        held.check()
        assert read_lease(str(tmp_path), Storage()).rank == FIRST  # type: ignore[union-attr]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_lease_is_gone_after_an_error_and_a_ctrl_c(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), hold(tmp_path):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_an_output_at_which_a_run_is_at_work_is_refused(tmp_path: Path, where: str) -> None:
    holder = this_process(FIRST) if where == "here" else elsewhere(this_process(FIRST))
    said: list[str] = []
    with Lease(str(tmp_path), Storage(), holder, FAST) as held:
        with pytest.raises(UsageError, match=rf"another run is at work on .*{holder.host}, process {os.getpid()}"):
            wait(tmp_path, Pace(beat_s=0.05, watch_s=60), said)
        held.check()
    [line] = said
    assert f"has a lease of a run on {holder.host} (process {os.getpid()})" in line and "watching 60 s" in line


def test_a_run_whose_process_has_ended_on_this_machine_is_not_watched(
    tmp_path: Path, ended: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, ended)
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("it was watched"))
    assert wait(tmp_path) == ended


def test_a_process_that_has_got_the_number_of_one_that_ended_is_not_taken_for_it(tmp_path: Path) -> None:
    me = this_process(FIRST)
    assert me.started is not None
    leave(tmp_path, replace(me, started=me.started - 1))
    said: list[str] = []
    assert wait(tmp_path, said=said) is not None
    assert said == []


def test_a_zombie_has_ended(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leave(tmp_path, replace(this_process(FIRST), pid=child.pid, started=lease._started(child.pid)))
    child.kill()
    until(lambda: lease._started(child.pid) == 0)
    said: list[str] = []
    assert wait(tmp_path, said=said) is not None
    assert said == []
    child.wait()


def test_the_same_process_number_on_another_machine_or_in_another_container_says_nothing(
    tmp_path: Path, ended: Holder
) -> None:
    far = elsewhere(ended)
    leave(tmp_path, far)
    said: list[str] = []
    assert wait(tmp_path, said=said) == far
    assert "watching 0.5 s" in said[0] and "takes over" in said[1]


def test_what_was_found_dead_is_not_watched_again_unless_it_has_moved(tmp_path: Path) -> None:
    dead = elsewhere(this_process(FIRST))
    leave(tmp_path, dead)
    said: list[str] = []
    assert wait(tmp_path, said=said, known_dead=dead) == dead
    assert said == []
    assert wait(tmp_path, said=said, known_dead=replace(dead, beat=5)) == dead
    assert len(said) == 2


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"attempt": "x"}', "\xff\xfe", "[" * 100_000])
def test_a_lease_that_says_nothing_is_watched_and_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "lease.json").write_text(content, encoding="latin-1")
    said: list[str] = []
    found = wait(tmp_path, said=said)
    assert found == Holder() and "a run on unknown" in said[0]
    with hold(tmp_path) as held:
        held.check()


def test_a_lease_that_goes_while_it_is_watched_is_no_obstacle(tmp_path: Path) -> None:
    leave(tmp_path, elsewhere(this_process(FIRST)))
    assert wait_until_free(str(tmp_path), Storage(), FAST, lambda _: (tmp_path / "lease.json").unlink()) is None


def test_a_run_that_was_taken_over_learns_it_and_leaves_the_others_lease_alone(tmp_path: Path) -> None:
    with hold(tmp_path, FIRST) as first:
        leave(tmp_path, elsewhere(this_process(SECOND)))
        until(lambda: first._lost_to is not None)
        with pytest.raises(RunEndedError, match=r"another run has taken over .*far-away"):
            first.check()
    assert read_lease(str(tmp_path), Storage()) == elsewhere(this_process(SECOND))


def test_of_two_that_take_a_lease_at_once_one_keeps_it_whoever_wrote_last(tmp_path: Path) -> None:
    small, great = Rank(1, "a"), Rank(1, "b")
    with hold(tmp_path, great) as held:
        leave(tmp_path, elsewhere(this_process(small)))
        until(lambda: read_lease(str(tmp_path), Storage()).rank == great)  # type: ignore[union-attr]
        held.check()
        with pytest.raises(UsageError, match="at work"), hold(tmp_path, small):
            pass
        held.check()
    assert list(tmp_path.iterdir()) == []


def test_a_loser_that_sees_the_winner_only_after_its_own_write_ends(tmp_path: Path) -> None:
    class Raced(Storage):
        def write_atomic(self, url: str, data: bytes) -> None:
            super().write_atomic(url, data)
            leave(tmp_path, elsewhere(this_process(Rank(1, "z"))))

    with pytest.raises(UsageError, match=r"at work .*far-away"), hold(tmp_path, FIRST, storage=Raced()):
        pass


def test_a_lease_deleted_by_hand_is_there_again_at_the_next_beat(tmp_path: Path) -> None:
    with hold(tmp_path) as held:
        (tmp_path / "lease.json").unlink()
        until((tmp_path / "lease.json").exists)
        held.check()


class Flaky(Storage):
    """Fails while it is told to."""

    failing = False

    def write_atomic(self, url: str, data: bytes) -> None:
        if self.failing:
            raise PermissionError("credentials have expired: https://key:secret@host/")
        super().write_atomic(url, data)


def test_a_store_that_fails_in_passing_costs_a_warning_and_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Flaky()
    with caplog.at_level(logging.WARNING), hold(tmp_path, storage=storage) as held:
        storage.failing = True
        until(lambda: bool(caplog.records))
        stuck = beat_of(tmp_path)
        held.check()
        storage.failing = False
        until(lambda: beat_of(tmp_path) > stuck)
        held.check()
    [record] = caplog.records
    assert "cannot be renewed" in record.message and "secret" not in record.message
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clocks run backwards, each in its own century."""
    times = iter(range(10**9, 0, -1))
    monkeypatch.setattr(lease.time, "time", lambda: float(next(times)))
    monkeypatch.setattr(lease.time, "monotonic", lambda: float(next(times)))


@pytest.mark.usefixtures("wrong_clock")
def test_no_clock_is_asked_whether_a_run_is_alive(tmp_path: Path) -> None:
    holder = elsewhere(this_process(FIRST))
    with Lease(str(tmp_path), Storage(), holder, FAST), pytest.raises(UsageError, match="at work"):
        wait(tmp_path, Pace(beat_s=0.05, watch_s=60))
    leave(tmp_path, holder)
    assert wait(tmp_path) == holder


def test_a_lease_on_s3_is_held_renewed_lost_and_released(s3_bucket, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    output, storage = f"{s3_bucket.url}/out", Storage(s3_bucket.section)
    assert wait_until_free(output, storage, FAST, lambda _: None) is None
    with hold(output, FIRST, storage=storage) as first:
        with pytest.raises(UsageError, match="at work"):
            wait_until_free(output, storage, Pace(0.05, 60), lambda _: None)
        with hold(output, SECOND, SLOW, storage):
            until(lambda: first._lost_to is not None)
        assert read_lease(output, storage) is None
