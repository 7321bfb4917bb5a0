"""Registers the fixtures that test modules share."""

pytest_plugins = [
    "fixtures_http",
    "fixtures_s3",
]
