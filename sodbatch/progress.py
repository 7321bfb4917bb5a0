"""Progress: one live bar on a terminal, plain lines elsewhere. What counts in the end is counted from the files."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sodbatch.write import Written

LINE_EVERY_S = 10.0
"""Seconds between two plain lines."""


class ProgressBar:
    """Shows pictures done and failed, rate and time left; a context manager.

    The rate is measured from the first part on, so that start-up does not spoil it.

    Args:
        console: Where to draw; a terminal gets the bar.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._failed = 0
        self._total: int | None = None
        self._last_line = time.monotonic()
        self._said: set[str] = set()
        self._first: tuple[float, int] | None = None
        self.backend: str | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed{task.fields[rate]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("pictures", total=None, failed=0, rate="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, total: int | None) -> None:
        """Set how many pictures there are to do; None while the manifest is still being listed."""
        self._total = total
        self._bar.update(self._task, total=total)

    def written(self, written: Written) -> None:
        """Count a committed part."""
        for note in written.notes:
            self.say(note)
        self.advance(written.pictures, written.failed)

    def advance(self, pictures: int, failed: int = 0) -> None:
        """Count pictures."""
        self._done += pictures
        self._failed += failed
        now = time.monotonic()
        self._first = self._first or (now, self._done)
        since, before = self._first
        rate = (self._done - before) / (now - since) if self._done > before and now > since else None
        self._bar.update(self._task, completed=self._done, failed=self._failed, rate=_per_second(rate))
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._line(rate)

    def loaded(self, backend: str) -> None:
        """Say which backend was chosen, and keep it."""
        self.backend = backend
        self.say(backend)

    def say(self, message: str) -> None:
        """Print a line above the bar; the same line once only."""
        if message not in self._said:
            self._said.add(message)
            self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _line(self, rate: float | None) -> None:
        of = "" if self._total is None else f" of {self._total:,}"
        left = ""
        if self._total is not None and rate:
            left = f", about {max(0, self._total - self._done) / rate:,.0f} s left"
        self._console.print(
            f"{self._done:,}{of} pictures, {self._failed:,} failed{_per_second(rate)}{left}",
            highlight=False,
            soft_wrap=True,
        )


def _per_second(rate: float | None) -> str:
    return "" if rate is None else f", {rate:.1f}/s"
