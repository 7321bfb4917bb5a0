"""Benchmarks: ``python -m benchmarks --help``, from the root of the source tree."""
