"""Runs every target in turn until the time is over; a case that breaks a promise ends the run and is shown.

Cases that were found are kept in ``.hypothesis`` and tried first the next time.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fuzz.manifests import CASES as MANIFESTS
from fuzz.manifests import check_manifest
from fuzz.models import CASES as MODELS
from fuzz.models import check_model
from fuzz.pictures import CASES as PICTURES
from fuzz.pictures import check_picture

MAX_GROWTH = 2**30
"""Most bytes by which the process may grow over all cases: those of a picture of the most pixels, many times over."""

EXAMPLES = 300
"""Cases of one target before the next has its turn."""

Target = tuple[SearchStrategy[Any], Callable[..., None]]
TARGETS: tuple[Target, ...] = ((PICTURES, check_picture), (MANIFESTS, check_manifest), (MODELS, check_model))


def _round(cases: SearchStrategy[Any], check: Callable[..., None], number: int) -> None:
    options = settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        print_blob=True,
    )
    seed(number)(options(given(cases)(check)))()


def main(minutes: float, first: int) -> int:
    """Fuzz for some minutes.

    Args:
        minutes: How long; a round that has begun is ended.
        first: Seed of the first round.

    Returns:
        The exit code: 1 where memory grew too much. A broken promise is raised.
    """
    end, number = time.monotonic() + 60 * minutes, first
    for cases, check in TARGETS:
        _round(cases, check, number)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    while time.monotonic() < end:
        number += 1
        for cases, check in TARGETS:
            _round(cases, check, number)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
    tried = (number - first + 1) * EXAMPLES * len(TARGETS)
    print(f"{tried:,} cases, seeds {first} to {number}; memory grew by {growth / 2**20:,.0f} MiB")
    if growth > MAX_GROWTH:
        print(f"expected at most {MAX_GROWTH / 2**20:,.0f} MiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(main(arguments.minutes, arguments.seed))
