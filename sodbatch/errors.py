"""Errors: those that end a job, and those that are the value of one row.

A picture that cannot be processed never raises past its stage: it becomes a row with status
``failed``, an :class:`ErrorClass` and a message. Everything else is a :class:`UsageError`
(exit code 2, before work starts) or a :class:`JobError` (exit code 1).
"""

from __future__ import annotations

from enum import Enum


class ErrorClass(str, Enum):
    """The closed set of reasons for which a picture is ``failed`` (column ``error_class``)."""

    MISSING = "missing"
    FORBIDDEN = "forbidden"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    DECODER_FAILURE = "decoder_failure"
    PREDICTOR_FAILURE = "predictor_failure"


class PictureError(Exception):
    """Why one picture (or page) failed; caught at its stage's border and kept as a row.

    Args:
        error_class: The reason, one of the closed set.
        message: One line for a person, without credentials or query strings.
    """

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(error_class, message)
        self.error_class = error_class
        self.message = message

    def __str__(self) -> str:
        return f"{self.error_class.value}: {self.message}"


class UsageError(Exception):
    """The request cannot be carried out as given; raised before any work starts (exit code 2)."""


class JobError(Exception):
    """The job started and could not finish; committed work stays valid (exit code 1)."""


class RunEndedError(JobError):
    """The run must end now: other tries within it cannot help (another run has taken over, a disk is full)."""
