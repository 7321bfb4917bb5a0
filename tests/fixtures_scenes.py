"""A small data set of made scenes, drawn once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from sodbatch.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of 160 x 160 in train, three in val; tests must not change it."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "set", 8, 3, size=(160, 160), seed=2, processes=1)
