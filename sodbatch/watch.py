"""What ends a run early: its output taken over by another, or too many pictures that fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sodbatch.errors import RunEndedError
from sodbatch.lease import Lease
from sodbatch.progress import ProgressBar
from sodbatch.write import Written

LEAST_PICTURES = 100
"""Pictures after which a share of failures says something; before, only the end does."""

LONGEST_EXAMPLE = 300
"""Characters of an example."""


class Failures:
    """The share of a run's pictures that failed, held against ``Predict.max_failure_ratio``.

    Args:
        max_ratio: The share, 0 to 1, beyond which a run is hopeless.
    """

    def __init__(self, max_ratio: float) -> None:
        self._max_ratio = max_ratio
        self._pictures = self._failed = 0
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, written: Written) -> None:
        """Count what one write committed."""
        self._pictures += written.pictures
        self._failed += written.failed
        for name, (number, example) in written.errors.items():
            self._errors[name] += number
            self._examples.setdefault(name, example[:LONGEST_EXAMPLE])

    def check(self, least: int = LEAST_PICTURES) -> None:
        """Judge the pictures so far, once there are ``least``.

        Raises:
            RunEndedError: More than the ratio failed; says what failed most.
        """
        if self._pictures < max(1, least) or self._failed <= self._max_ratio * self._pictures:
            return
        what = ", ".join(f"{name} {n:,} (such as {self._examples[name]})" for name, n in self._errors.most_common())
        raise RunEndedError(
            f"{self._failed:,} of {self._pictures:,} pictures failed ({self._failed / self._pictures:.0%}), more than "
            f"Predict.max_failure_ratio {self._max_ratio:g}: {what}. What is committed stays, and the same command "
            "goes on after it; with --retry-failed it does those that failed again"
        )


def check_share(failed: int, pictures: int, max_ratio: float, errors: Mapping[str, int]) -> None:
    """Judge all pictures of an output, those of earlier runs too, before it is declared finished.

    Raises:
        RunEndedError: More than the ratio failed.
    """
    if failed > max_ratio * pictures:
        what = ", ".join(f"{name} {number:,}" for name, number in errors.items())
        raise RunEndedError(
            f"{failed:,} of all {pictures:,} pictures of the output failed ({failed / pictures:.0%}), more than "
            f"Predict.max_failure_ratio {max_ratio:g}: {what}. It is not declared finished; --retry-failed does them "
            "again, and a higher ratio lets them pass"
        )


class Watch:
    """The listener of a run: shows how it goes, and ends it when its output is lost or too much fails."""

    def __init__(self, bar: ProgressBar, lease: Lease, failures: Failures) -> None:
        self._bar = bar
        self._lease = lease
        self._failures = failures

    def check(self) -> None:
        """See :meth:`sodbatch.engine.pipeline.Listener.check`."""
        self._lease.check()

    def written(self, written: Written) -> None:
        """Count a committed part."""
        self._bar.written(written)
        self._failures.add(written)
        self._failures.check()

    def loaded(self, backend: str) -> None:
        """Show which backend was chosen."""
        self._bar.loaded(backend)
