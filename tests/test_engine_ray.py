"""What the Ray engine makes of errors. The rest is in test_predict_job.py."""

from __future__ import annotations

from sodbatch.engine import ray as engine
from sodbatch.errors import JobError, UsageError


def test_a_usage_error_of_a_worker_stays_one_and_other_errors_are_one_line_without_secrets() -> None:
    outer = RuntimeError("a task failed")
    outer.__cause__ = UsageError("device gpu: this Paddle has no CUDA")
    assert isinstance(engine._as_ours(outer), UsageError)
    error = engine._as_ours(OSError("first line\ncannot write https://u:SECRET@host/x?X-Amz-Signature=SECRET"))
    assert isinstance(error, JobError)
    assert str(error).startswith("OSError: cannot write") and "SECRET" not in str(error) and "\n" not in str(error)
