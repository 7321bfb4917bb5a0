"""Registers the fixtures that test modules share."""

from hypothesis import HealthCheck, settings

settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")  # a busy machine is no failure

pytest_plugins = [
    "fixtures_environment",
    "fixtures_http",
    "fixtures_model",
    "fixtures_s3",
    "fixtures_scenes",
    "fixtures_stages",
]
