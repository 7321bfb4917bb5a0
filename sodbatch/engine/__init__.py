"""Engines: what runs a pipeline of stages, in this process or on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sodbatch.config import Config
    from sodbatch.engine.pipeline import Engine


def make_engine(config: Config) -> Engine:
    """Make the engine that ``Predict.engine`` names; Ray is imported only where it runs."""
    if config.Predict.engine == "inline":
        from sodbatch.engine.inline import InlineEngine

        return InlineEngine(config)
    from sodbatch.engine.ray import RayEngine

    return RayEngine(config)
