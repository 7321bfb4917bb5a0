"""Telemetry of the dependencies, off. Imported by ``sodbatch`` itself, so before any of them."""

from __future__ import annotations

import os
import sys


def disable_telemetry() -> None:
    """Turn off what Ray and OpenVINO report home, in this process and its children.

    Ray reads an environment variable, which a user may have set otherwise. OpenVINO has no switch short of a file in
    the home folder, but does without its telemetry package where that cannot be imported.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
