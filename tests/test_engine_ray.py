"""What the Ray engine makes of errors. The rest is in test_predict_job.py."""

from __future__ import annotations

import pytest
import ray.exceptions

from sodbatch.engine import ray as engine
from sodbatch.engine.connect import connect
from sodbatch.errors import JobError, RunEndedError, UsageError


def test_a_usage_error_of_a_worker_stays_one_and_other_errors_are_one_line_without_secrets() -> None:
    outer = RuntimeError("a task failed")
    outer.__cause__ = UsageError("device gpu: this Paddle has no CUDA")
    assert isinstance(engine.as_ours(outer), UsageError)
    error = engine.as_ours(OSError("first line\ncannot write https://u:SECRET@host/x?X-Amz-Signature=SECRET"))
    assert isinstance(error, JobError)
    assert str(error).startswith("OSError: cannot write") and "SECRET" not in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("kind", [ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError])
def test_a_full_object_store_is_not_tried_again(kind: type[Exception]) -> None:
    outer = RuntimeError("a task failed")
    outer.__cause__ = kind("cannot store the object")
    error = engine.as_ours(outer)
    assert isinstance(error, RunEndedError)
    assert "are full" in str(error) and "\n" not in str(error)


def test_an_error_of_a_write_that_ends_the_run_is_its_own_line_alone() -> None:
    said = "cannot write to /out: No space left on device"
    cause = RunEndedError(f"{said}\nFailed to write after 1/1 attempts.\nTo change retry attempts, ...")
    twin = ray.exceptions.RayTaskError("write", "Traceback:\n  line\n  line", cause).as_instanceof_cause()
    assert isinstance(twin, RunEndedError) and "Traceback" in str(twin)
    error = engine.as_ours(twin)
    assert type(error) is RunEndedError and str(error) == said


@pytest.mark.parametrize("address", ["ray://head:10001", "http://user:SECRET@127.0.0.1:8265"])
def test_an_address_that_is_a_url_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(UsageError, match="is a URL; run on a machine of the cluster") as raised:
        connect(address)
    assert "SECRET" not in str(raised.value)
