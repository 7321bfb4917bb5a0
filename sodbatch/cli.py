"""The command line: options become configuration keys, the work is done elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sodbatch import __version__
from sodbatch.config import Config, without_end_slash
from sodbatch.config.file import load_config
from sodbatch.errors import JobError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

EXIT_CODES = (
    "Exit codes: 0 all done; 3 done, with failed pictures; 2 wrong usage or configuration, found before any work; "
    "1 the job failed, what it had committed stays; 130 interrupted."
)
EXIT_CODES_OF_ALL = f"{EXIT_CODES[:-1]}; 4, of check_dataset, the data set did not pass."

app = typer.Typer(
    help="Small object detection (PP-YOLOE_plus_SOD) over very many pictures: manifests in, Parquet tables out.",
    epilog=EXIT_CODES_OF_ALL,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE|MODEL",
        help="A YAML file, or the name of a packaged one such as PP-YOLOE_plus_SOD-L. Default: PP-YOLOE_plus_SOD-S.",
    ),
]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="Section.key=value",
        help="Set any key of the configuration; may be repeated, the last one counts.",
    ),
]

DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset-dir", metavar="DIR", help="The data set, local or s3://. Sets Global.dataset_dir."),
]

EngineOption = Annotated[
    str | None,
    typer.Option("--engine", metavar="ray|inline", help="inline: on this machine, without Ray. Sets Predict.engine."),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sodbatch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error (also SODBATCH_DEBUG=1).")
    ] = False,
) -> None:
    if debug:
        os.environ["SODBATCH_DEBUG"] = "1"


@app.command(
    epilog="Example: sodbatch predict --input s3://bucket/2026/ --output s3://bucket/tables "
    f"-o Predict.threshold=0.4 -o S3.region=eu-central-1\n\n{EXIT_CODES}"
)
def predict(
    config: ConfigOption = None,
    override: OverrideOption = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="PATH",
            help="A picture, folder, glob, URL or manifest (.txt .csv .jsonl .parquet, COCO .json); may be repeated. "
            "Sets Predict.input.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="OUT", help="Where the tables go. Sets Global.output.")
    ] = None,
    model_dir: Annotated[
        str | None,
        typer.Option(
            "--model-dir",
            metavar="DIR",
            help="An inference folder; without it the official model is downloaded once. Sets Predict.model_dir.",
        ),
    ] = None,
    engine: EngineOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do the failed pictures again too. Sets Predict.retry_failed.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace tables made with other settings. Sets Output.on_mismatch."),
    ] = False,
    beside: Annotated[
        bool,
        typer.Option("--beside", help="Write beside tables made with other settings. Sets Output.on_mismatch."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan and stop: nothing is written.")
    ] = False,
) -> int:
    """Detect objects in pictures and write them as tables.

    Run the same command again to go on after an interruption, or to do only what is new.
    """
    if overwrite and beside:
        raise UsageError("--overwrite and --beside: only one of them can be given")
    settings: dict[str, Any] = {"Global.mode": "predict"}
    if inputs:
        settings["Predict.input"] = inputs if len(inputs) > 1 else inputs[0]
    if output is not None:
        settings["Global.output"] = output
    if model_dir is not None:
        settings["Predict.model_dir"] = model_dir
    if engine is not None:
        settings["Predict.engine"] = engine
    if retry_failed:
        settings["Predict.retry_failed"] = True
    if overwrite or beside:
        settings["Output.on_mismatch"] = "overwrite" if overwrite else "beside"
    return _predict(load_config(config, override or (), settings), dry_run=dry_run)


@app.command(
    epilog="Example: sodbatch export -c PP-YOLOE_plus_SOD-S -o Export.weight_path=best_model.pdparams "
    "-o Global.output=inference"
)
def export(config: ConfigOption = None, override: OverrideOption = None) -> int:
    """Write an inference folder in PaddleX's format into Global.output.

    The weights come from Export.weight_path (.pdparams); without it they are made from a seed, for trials only.
    """
    return _export(load_config(config, override or (), {"Global.mode": "export"}))


@app.command(
    "check_dataset",
    epilog="Example: sodbatch check_dataset -o Global.dataset_dir=./dataset/small_det_examples\n\n"
    "Exit codes: 0 passed; 4 not passed; 2 wrong usage or configuration; 1 the job failed; 130 interrupted.",
)
def check_dataset(
    config: ConfigOption = None,
    override: OverrideOption = None,
    dataset_dir: DatasetOption = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="OUT", help="Where the report goes. Sets Global.output.")
    ] = None,
    engine: EngineOption = None,
) -> int:
    """Check a data set: every record of its annotations, and every picture.

    Writes check_dataset_result.json as PaddleX does, pictures, charts, and a table of all faults.
    """
    return _check_dataset(load_config(config, override or (), _settings("check_dataset", dataset_dir, output, engine)))


def _settings(mode: str, dataset_dir: str | None, output: str | None, engine: str | None) -> dict[str, Any]:
    """Return what the options of a job on a data set set, those that were given."""
    given = {"Global.dataset_dir": dataset_dir, "Global.output": output, "Predict.engine": engine}
    return {"Global.mode": mode} | {key: value for key, value in given.items() if value is not None}


@app.command(
    "train",
    epilog="Example: sodbatch train -c PP-YOLOE_plus_SOD-S -o Global.dataset_dir=./dataset/small_det_examples "
    "-o Train.num_classes=10\n\nExit codes: 0 trained; 2 wrong usage or configuration, or a data set with errors; "
    "1 the training failed, its checkpoints stay; 130 interrupted.",
)
def train(
    config: ConfigOption = None,
    override: OverrideOption = None,
    dataset_dir: DatasetOption = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="OUT", help="Where the weights go. Sets Global.output.")
    ] = None,
    engine: EngineOption = None,
) -> int:
    """Train a model on a data set; run the same command again to go on after an interruption.

    Writes train_result.json, checkpoints and best_model/inference as PaddleX does, and the curves of the losses.
    """
    return _train(load_config(config, override or (), _settings("train", dataset_dir, output, engine)))


@app.command(
    "evaluate",
    epilog="Example: sodbatch evaluate -o Global.dataset_dir=./dataset/small_det_examples "
    "-o Evaluate.weight_path=./output/best_model/best_model.pdparams\n\nExit codes: 0 evaluated; 3 evaluated, with "
    "failed pictures; 2 wrong usage or configuration; 1 the job failed; 130 interrupted.",
)
def evaluate(
    config: ConfigOption = None,
    override: OverrideOption = None,
    dataset_dir: DatasetOption = None,
    predictions: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="OUT",
            help="A finished run of sodbatch predict, which is evaluated as it is. Sets Evaluate.predictions.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="OUT", help="Where the figures go. Sets Global.output.")
    ] = None,
    engine: EngineOption = None,
) -> int:
    """Evaluate a model on a data set: COCO's figures, charts, and the pictures on which it does worst.

    The model is Evaluate.weight_path (.pdparams), else the inference folder Predict.model_dir.
    """
    settings = _settings("evaluate", dataset_dir, output, engine)
    if predictions is not None:
        settings["Evaluate.predictions"] = predictions
    return _evaluate(load_config(config, override or (), settings))


@app.command(
    "make_scenes",
    epilog="Example: sodbatch make_scenes dataset --train 400 --val 100",
)
def make_scenes(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where the data set goes.")],
    train: Annotated[int, typer.Option("--train", help="Pictures in the part train.")] = 40,
    val: Annotated[int, typer.Option("--val", help="Pictures in the part val.")] = 10,
    width: Annotated[int, typer.Option("--width", help="Of every picture in pixels.")] = 640,
    height: Annotated[int, typer.Option("--height", help="Of every picture in pixels.")] = 640,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same pictures.")] = 0,
) -> None:
    """Make a data set of drawn aerial scenes: pedestrians, cars, trucks and buses in exact boxes, to try things on."""
    from rich.console import Console

    from sodbatch.progress import ProgressBar
    from sodbatch.scenes import write_scenes

    with ProgressBar(Console(stderr=True)) as bar:
        bar.expect(train + val)
        write_scenes(folder, train, val, size=(height, width), seed=seed, on_made=bar.advance)
    typer.echo(f"{train:,} pictures in train, {val:,} in val: {folder}")


@app.command()
def models() -> None:
    """List the official models: input size, published accuracy, where they come from, whether they are cached."""
    from sodbatch.model.catalog import describe

    typer.echo(_redact(describe()))


@app.command(epilog="Example: sodbatch show s3://bucket/tables -o S3.endpoint_url=http://localhost:8333")
def show(
    output: Annotated[str, typer.Argument(metavar="OUT", help="The folder or bucket prefix of a job's tables.")],
    config: ConfigOption = None,
    override: OverrideOption = None,
) -> None:
    """Print the summary, classes and worst errors of a job, from its files alone."""
    loaded = load_config(config, override or ())
    from sodbatch.record import read_record
    from sodbatch.storage import Storage
    from sodbatch.summary import show as describe

    storage = Storage(loaded.S3, loaded.Fetch)
    output = without_end_slash(output)
    if read_record(output, storage) is None:
        raise UsageError(f"{output}: no job has written here; give the Global.output of a sodbatch predict")
    typer.echo(_redact(describe(output, storage)))


@app.command(
    epilog="Example: sodbatch run -c paddlex/configs/modules/small_object_detection/PP-YOLOE_plus_SOD-S.yaml "
    '-o Global.mode=predict -o Predict.model_dir="./output/best_model/inference" -o Predict.input="demo.jpg"'
    f"\n\n{EXIT_CODES_OF_ALL}"
)
def run(config: ConfigOption = None, override: OverrideOption = None) -> int:
    """Do what Global.mode says: takes the command lines of PaddleX's main.py."""
    loaded = load_config(config, override or ())
    jobs = {
        "predict": _predict,
        "export": _export,
        "check_dataset": _check_dataset,
        "train": _train,
        "evaluate": _evaluate,
    }
    return jobs[loaded.Global.mode](loaded)


def _predict(config: Config, *, dry_run: bool = False) -> int:
    from sodbatch import predict_job

    return predict_job.run(config, dry_run=dry_run)


def _check_dataset(config: Config) -> int:
    from sodbatch import check_job

    return check_job.run(config)


def _train(config: Config) -> int:
    from sodbatch import train_job

    return train_job.run(config)


def _evaluate(config: Config) -> int:
    from sodbatch import evaluate_job

    return evaluate_job.run(config)


def _export(config: Config) -> int:
    from sodbatch.model.export import export as write_folder
    from sodbatch.storage import Storage, display_uri, local_path

    target = local_path(config.Global.output)
    if target is None:
        raise UsageError(
            f"Global.output = {display_uri(config.Global.output)}: export writes to a local folder; name one"
        )
    weights = config.Export.weight_path
    if weights is None and any(Path(target).glob("*.pdiparams")):
        raise UsageError(
            f"{target} holds a model, which untrained weights would replace; give Export.weight_path, another "
            "Global.output, or delete that model first"
        )
    storage = Storage(config.S3, config.Fetch)
    folder = write_folder(config.Global.model, target, weights, storage=storage)
    origin = f"weights from {weights}" if weights else "UNTRAINED weights made from a seed: for trials only"
    typer.echo(_redact(f"{config.Global.model}: inference folder written to {Path(folder).resolve()} ({origin})"))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit code, as ``--help`` lists them.
    """
    warnings.filterwarnings("ignore", category=Warning, module=r"paddle\.")  # about compilers and its own ways
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's C++ side: errors only
    logs = logging.StreamHandler(sys.stderr)
    logs.setFormatter(_Redacting("sodbatch: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[logs])
    try:
        code = app(args=arguments, prog_name="sodbatch", standalone_mode=False) or 0
        return _interrupted() if code == EXIT_INTERRUPTED else code  # typer makes an exit code of a Ctrl-C
    except UsageError as error:
        return _fail(str(error), EXIT_USAGE)
    except JobError as error:
        return _fail(str(error), EXIT_FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's usage errors, which typer keeps to itself
            say = getattr(error, "format_message", None)
            message = say() if say else str(error)  # empty where the help has been shown instead
            return _fail(f"{message}\nTry 'sodbatch --help' for help." if message else "", EXIT_USAGE)
        if os.environ.get("SODBATCH_DEBUG") == "1":
            sys.stderr.write(_redact(traceback.format_exc()))
            return EXIT_FAILED
        first = (str(error).splitlines() or [""])[0]
        return _fail(f"unexpected {type(error).__name__}: {first} (--debug shows where)", EXIT_FAILED)


def entry() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(main())


class _Redacting(logging.Formatter):
    """Shows no secrets in any library's log either."""

    def format(self, record: logging.LogRecord) -> str:
        return _redact(super().format(record))


def _interrupted() -> int:
    return _fail("interrupted; what is committed stays, the same command goes on", EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> int:
    for line in _redact(message).splitlines():
        sys.stderr.write(f"sodbatch: {line}\n")
    return code


def _redact(text: str) -> str:
    from sodbatch.storage import redact

    return redact(text)
