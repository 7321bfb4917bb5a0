"""An output that belongs to a run, without the job around it."""

from __future__ import annotations

from sodbatch.record import fingerprint_id, write_record
from sodbatch.storage import Storage
from sodbatch.write import Run

FIELDS = {"model": "S", "threshold": [0.5, 0.5]}


def claim(output: object, attempt: int = 1, run_id: str = "run", fields: dict[str, object] = FIELDS) -> Run:
    """Make an output a run's, as ``begin`` does, and return the run."""
    run = Run(run_id, attempt, fingerprint_id(fields), "model", "sha")
    write_record(str(output), fields, run.rank, Storage())
    return run
