"""What reading a file may raise beside Python's own FileNotFoundError, PermissionError and TimeoutError."""

from __future__ import annotations


class TransientError(OSError):
    """The store failed in a way that may pass: a broken connection, a 5xx answer, throttling."""


class TooLargeError(OSError):
    """The file has more bytes than asked for; it was not read."""


class NotAFileError(OSError):
    """A folder, a FIFO, a device: something that is there and cannot be read as a file."""
