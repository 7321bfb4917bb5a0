"""The main job: from a configuration to finished tables."""

from __future__ import annotations

import contextlib
import itertools
import logging
import platform
import time
import uuid
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import pyarrow as pa
from rich.console import Console

from sodbatch.companions import sample_rows, write_coco
from sodbatch.config import Config
from sodbatch.engine import make_engine
from sodbatch.engine.pipeline import Engine, Pipeline
from sodbatch.errors import JobError, RunEndedError, UsageError
from sodbatch.job import Job, build_pipeline, drawing, resolve
from sodbatch.lease import USUAL_PACE, Lease, Pace, this_process, wait_until_free
from sodbatch.ledger import Ledger, read_ledger, settle
from sodbatch.output import begin, finish, standing, sweep
from sodbatch.pending import Pending
from sodbatch.progress import ProgressBar
from sodbatch.record import check_ours, fingerprint_id
from sodbatch.storage import display_uri, redact
from sodbatch.summary import count, worst_errors
from sodbatch.tables import FAILED, OK
from sodbatch.watch import Failures, Watch, check_share
from sodbatch.write import Run, ending_when_full

log = logging.getLogger(__name__)

FRUITLESS_PASSES = 3
"""How often in a row what is missing is tried again without anything new being committed."""


def run(config: Config, *, dry_run: bool = False, console: Console | None = None, pace: Pace = USUAL_PACE) -> int:
    """Run the main job.

    Args:
        config: The configuration.
        dry_run: Only print the plan; nothing is written.
        console: Where to print; standard error by default.
        pace: Of the lease on the output.

    Returns:
        0 when all pictures are ok, 3 when some failed.

    Raises:
        UsageError: The request cannot be carried out as given; no work was started.
        JobError: The job could not finish; what is committed stays.
    """
    try:
        return _run(config, dry_run, console or Console(stderr=True), pace)
    except OSError as error:  # of a store; what may pass has been tried again where it came up
        reason = " ".join(redact(str(error)).split())
        raise JobError(
            f"the run cannot go on: {reason}; what is committed stays, and the same command goes on when this is mended"
        ) from error


def _run(config: Config, dry_run: bool, console: Console, pace: Pace) -> int:
    started = time.monotonic()
    job = resolve(config)
    if job.folder.model_name != config.Global.model:
        log.warning(
            "the model folder holds %s, which is used, and Global.model says %s",
            job.folder.model_name,
            config.Global.model,
        )
    if dry_run:
        _print_plan(job, console)
        return 0
    with ProgressBar(console) as bar:
        bar.say(f"model {job.folder.model_name}, output {display_uri(job.output)}")
        summary = _execute(job, pace, bar, started)
    _print_result(job, summary, console)
    return 3 if summary[FAILED] else 0


def _execute(job: Job, pace: Pace, bar: ProgressBar, started: float) -> dict[str, Any]:
    """Run until every input is committed, settle, count, and declare the run finished.

    Nothing of an output is touched before the engine is up; where nothing is pending, no engine is started. Whether
    another run is at work there is asked before that, and again when the lease is taken.
    """
    dead = wait_until_free(job.output, job.storage, pace, bar.say)
    job.storage.check_writable(job.output)
    known = standing(job.output, job.fields, job.storage)
    run = Run(
        run_id=uuid.uuid4().hex,
        attempt=max(known.attempt, dead.attempt + 1 if dead else 1),
        fingerprint=fingerprint_id(job.fields),
        model_name=job.folder.model_name,
        model_fingerprint=job.folder.fingerprint,
    )
    bar.expect(job.manifest.count_hint())
    pending = Pending(job.manifest, _done(job, run) if known.goes_on else Ledger(), on_end=bar.expect)
    tables = pending.tables()
    head = list(itertools.islice(tables, 2))  # two, so that the bar knows the total of a short manifest
    description = "none, there was nothing to do"
    with contextlib.ExitStack() as held:
        with make_engine(job.config) if head else contextlib.nullcontext() as engine:
            wait_until_free(job.output, job.storage, pace, bar.say, known_dead=dead)
            held.enter_context(ending_when_full(job.output))
            lease = held.enter_context(Lease(job.output, job.storage, this_process(run.rank), pace))
            begin(job.output, job.fields, known, run.rank, job.storage)
            if engine is not None:
                description = engine.description
                bar.say(description)
                _run_pending(job, run, engine, pending, itertools.chain(head, tables), bar, lease)
        return _finish(job, run, pending, description, bar, started)


def _done(job: Job, run: Run) -> Ledger:
    """Read what is done: with ``retry_failed``, failures of earlier attempts are not."""
    before = run.attempt if job.config.Predict.retry_failed else 0
    return read_ledger(job.output, run.fingerprint, job.storage, redo_failed_before=before)


def _finish(job: Job, run: Run, listed: Pending, engine: str, bar: ProgressBar, started: float) -> dict[str, Any]:
    """Settle the tables, count them, write what is made from them, and declare the run finished."""

    def still_ours() -> None:
        check_ours(job.output, run.rank, run.fingerprint, job.storage)

    listed.forget()  # the last step makes sets of its own
    superseded = settle(job.output, run.fingerprint, still_ours, job.storage)
    sweep(job.output, job.storage)
    counted = count(job.output, job.storage)
    if counted["doubles"] or counted["pictures"] != counted[OK] + counted[FAILED]:
        raise JobError(f"the tables do not add up: {counted}; nothing is lost, run the same command again")
    check_share(counted[FAILED], counted["pictures"], job.config.Predict.max_failure_ratio, counted["errors"])
    _write_companions(job, bar)
    seconds = time.monotonic() - started
    this_run = {
        "inputs": listed.inputs,
        "repeats": listed.repeats,
        "already_done": listed.already_done,
        "done": listed.to_do,
        "superseded": superseded,
        "wall_seconds": round(seconds, 1),
        "inputs_per_second": round(listed.to_do / seconds, 3),
    }
    summary = {
        "run_id": run.run_id,
        "attempt": run.attempt,
        "fingerprint": run.fingerprint,
        "model_name": run.model_name,
        "model_fingerprint": run.model_fingerprint,
        "threshold": job.fields["threshold"],
        "engine": engine,
        "backend": bar.backend,
        "this_run": this_run,
        **counted,
        "worst_errors": worst_errors(job.output, job.storage),
        "versions": _versions(),
    }
    finish(job.output, summary, still_ours, job.storage)
    return summary


def _run_pending(
    job: Job,
    run: Run,
    engine: Engine,
    pending: Pending,
    tables: Iterator[pa.Table],
    bar: ProgressBar,
    lease: Lease,
) -> None:
    """Run what is pending, and what is missing after that again and again until nothing is.

    Raises:
        JobError: Nothing new came of the last tries; or the manifest or the backend turned out to be unusable.
        RunEndedError: Another run has taken over, or too many pictures failed.
    """
    pipeline = build_pipeline(job, run, engine.actors)
    failures = Failures(job.config.Predict.max_failure_ratio)
    watch = Watch(bar, lease, failures)
    try:
        failure = _run_pass(engine, pipeline, tables, bar, watch)
    except UsageError as error:
        raise JobError(f"{error} (the run had started: what it has committed stays)") from error
    for _ in tables:  # what an engine that gave up has not listed
        pass
    if not pending.whole:
        raise JobError(
            f"the inputs could not be listed to their end: {failure or 'no error was reported'}; what is committed "
            "stays, and the same command goes on"
        )
    fewest = len(pending.listed) + 1
    fruitless = 0
    while True:
        ledger = _done(job, run)
        missing = pending.listed.count_missing(ledger.done)
        if missing == 0:
            failures.check(least=1)
            return
        fruitless = fruitless + 1 if missing >= fewest else 0
        if fruitless == FRUITLESS_PASSES:
            raise JobError(
                f"{missing:,} inputs could not be committed in {FRUITLESS_PASSES} more tries: "
                f"{failure or 'no error was reported'}"
            )
        fewest = min(fewest, missing)
        failure = _run_pass(engine, pipeline, Pending(job.manifest, ledger).tables(), bar, watch)


def _run_pass(
    engine: Engine, pipeline: Pipeline, tables: Iterable[pa.Table], bar: ProgressBar, watch: Watch
) -> JobError | None:
    try:
        engine.run(pipeline, tables, watch)
    except RunEndedError:
        raise
    except JobError as error:
        bar.say(f"what is missing is tried again after: {error}")
        return error
    return None


def _write_companions(job: Job, bar: ProgressBar) -> None:
    """Write what is made from the finished tables: the sample of pictures, COCO results."""
    visualize = job.config.Visualize
    if visualize.pictures == "sample":
        rows = sample_rows(job.output, job.storage, visualize.sample, visualize.min_boxes)
        for note in drawing(job)(rows) if rows is not None else []:
            bar.say(note)
    if job.config.Output.coco_json:
        write_coco(job.output, job.storage)


def _versions() -> dict[str, str]:
    """Return the versions of what decides results and speed, as far as they are installed."""
    names = "sodbatch ray paddlepaddle paddlepaddle-gpu openvino onnxruntime numpy pyarrow opencv-python-headless"
    found = {"python": platform.python_version()}
    for name in names.split():
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _print_plan(job: Job, console: Console) -> None:
    known = standing(job.output, job.fields, job.storage)
    fingerprint = fingerprint_id(job.fields)
    run = Run("", known.attempt, fingerprint, job.folder.model_name, job.folder.fingerprint)
    pending = Pending(job.manifest, _done(job, run) if known.goes_on else Ledger())
    for _ in pending.tables():
        pass
    with make_engine(job.config) as engine:
        pipeline = build_pipeline(job, run, engine.actors)
    console.print(
        f"model      {job.folder.model_name}, input {job.folder.preprocess.height} x {job.folder.preprocess.width}\n"
        f"threshold  {job.fields['threshold']}\n"
        f"inputs     {len(pending.listed):,} ({pending.repeats:,} repeats)\n"
        f"done       {pending.already_done:,}\n"
        f"to do      {pending.to_do:,}\n"
        f"engine     {engine.description}\n"
        f"blocks     {pipeline.load.block_rows} pictures, parts of about {pipeline.shard_size}\n"
        f"output     {display_uri(job.output)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _print_result(job: Job, summary: dict[str, Any], console: Console) -> None:
    this_run, output = summary["this_run"], display_uri(job.output)
    errors = ", ".join(f"{number:,} {name}" for name, number in summary["errors"].items())
    console.print(
        f"this run: {this_run['done']:,} inputs in {this_run['wall_seconds']:,.1f} s; "
        f"{this_run['already_done']:,} were done before, {this_run['repeats']:,} repeats\n"
        f"tables:   {summary['pictures']:,} pictures, {summary[OK]:,} ok, {summary[FAILED]:,} failed"
        f"{f' ({errors})' if errors else ''}; {summary['detections']:,} boxes\n"
        f"          {output}/images\n          {output}/detections"
        + (f"\nwhy pictures failed: sodbatch show {output}" if summary[FAILED] else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
