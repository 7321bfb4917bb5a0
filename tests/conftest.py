"""Registers the fixtures that test modules share."""

pytest_plugins = [
    "fixtures_environment",
    "fixtures_http",
    "fixtures_model",
    "fixtures_s3",
    "fixtures_stages",
]
