"""sodbatch: small object detection over very many pictures, as distributed batch jobs."""

from sodbatch.environment import disable_telemetry

__version__ = "0.1.0"

disable_telemetry()
