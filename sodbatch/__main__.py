"""``python -m sodbatch``."""

from sodbatch.cli import entry

entry()
