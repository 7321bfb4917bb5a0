from __future__ import annotations

import io

import pytest
from rich.console import Console

from sodbatch import progress
from sodbatch.progress import ProgressBar
from sodbatch.write import Written


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the bar sees: its last element."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[-1])
    return now


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def test_plain_lines_tell_what_is_done_at_a_rate_without_start_up(clock: list[float]) -> None:
    console = Console(file=io.StringIO())
    with ProgressBar(console) as bar:
        bar.expect(1000)
        clock.append(1060.0)
        bar.written(Written(100, 1))
        clock.append(1080.0)
        bar.written(Written(200, 2))
    assert lines(console) == [
        "100 of 1,000 pictures, 1 failed",
        "300 of 1,000 pictures, 3 failed, 10.0/s, about 70 s left",
    ]


def test_lines_are_at_least_ten_seconds_apart(clock: list[float]) -> None:
    console = Console(file=io.StringIO())
    with ProgressBar(console) as bar:
        for second in range(25):
            clock.append(1000.0 + second)
            bar.written(Written(1, 0))
    assert [line.split()[0] for line in lines(console)] == ["11", "21"]


def test_the_same_message_of_many_workers_is_said_once() -> None:
    console = Console(file=io.StringIO())
    with ProgressBar(console) as bar:
        bar.loaded("openvino: because")
        bar.loaded("openvino: because")
        bar.written(Written(1, 0, ("not drawn: a.jpg",)))
    assert lines(console) == ["openvino: because", "not drawn: a.jpg"]
    assert bar.backend == "openvino: because"


def test_a_terminal_gets_one_bar_with_the_counts(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with ProgressBar(console) as bar:
        bar.expect(30)
        for second in (10.0, 20.0):
            clock.append(1000.0 + second)
            bar.written(Written(10, 1))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "20/30" in text and "2 failed, 1.0/s" in text
