"""An environment of their own for all tests: a temporary home, no cluster, no credentials, an empty cache."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

OWN = ("RAY_", "AWS_", "SODBATCH_", "XDG_CACHE_HOME")


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(OWN):
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield
