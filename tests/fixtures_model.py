"""The reduced model, exported once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = "PP-YOLOE_plus_SOD-tiny"


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """An inference folder of the reduced network with weights from seed 0; tests must not change it."""
    pytest.importorskip("paddle")
    from sodbatch.model.export import export

    return export(TINY, tmp_path_factory.mktemp("model") / "tiny", seed=0)
