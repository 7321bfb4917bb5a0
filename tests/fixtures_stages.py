"""The inline engine's stages in this process, in place of children of their own, which take seconds to start."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from sodbatch.engine import inline
from sodbatch.engine.pipeline import InferSpec
from sodbatch.stages import Infer


class Here:
    """A stage as the inline engine uses it."""

    def __init__(self, stage: Any, reason: str = "") -> None:
        self._stage = stage
        self._reason = reason

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def reason(self) -> str:
        return self._reason

    def __call__(self, rows: pa.Table) -> Any:
        return self._stage(rows)


@pytest.fixture(scope="session")
def loaded_models() -> list[tuple[InferSpec, Infer, str]]:
    """What has been loaded so far."""
    return []


@pytest.fixture
def stages_here(loaded_models: list[tuple[InferSpec, Infer, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inline engine run its stages here; a model is loaded once a session."""

    def infer(spec: InferSpec, _: float) -> Here:
        for known, stage, reason in loaded_models:
            if known == spec:
                return Here(stage, reason)
        loaded_models.append((spec, *spec.create()))
        return Here(*loaded_models[-1][1:])

    monkeypatch.setattr(inline, "IsolatedLoad", lambda load, _: Here(load))
    monkeypatch.setattr(inline, "IsolatedInfer", infer)
