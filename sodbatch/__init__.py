"""sodbatch: small object detection over very many pictures, as distributed batch jobs.

Importing this imports neither Ray nor Paddle nor OpenCV; ``create_model`` is found when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sodbatch.environment import disable_telemetry

if TYPE_CHECKING:
    from sodbatch.detector import create_model

__all__ = ["__version__", "create_model"]

__version__ = "0.1.0"

disable_telemetry()


def __getattr__(name: str) -> Any:
    if name == "create_model":
        from sodbatch.detector import create_model

        return create_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
