"""The command line: options become keys, errors become one line and an exit code."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sodbatch import __version__, predict_job
from sodbatch.cli import main
from sodbatch.config import Config
from sodbatch.errors import JobError, UsageError
from sodbatch.model.catalog import cached

ROOT = Path(__file__).parents[1]


class Job:
    """Stands for the main job: keeps what it was asked, answers as told."""

    def __init__(self) -> None:
        self.config = Config()
        self.dry_run: bool | None = None
        self.outcome: int | BaseException = 0

    def run(self, config: Config, *, dry_run: bool = False) -> int:
        self.config, self.dry_run = config, dry_run
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    job = Job()
    monkeypatch.setattr(predict_job, "run", job.run)
    monkeypatch.delenv("SODBATCH_DEBUG", raising=False)
    return job


def test_predict_without_options_takes_the_defaults(job: Job) -> None:
    assert main(["predict"]) == 0
    assert job.config == Config()
    assert job.dry_run is False


def test_shortcuts_set_the_same_keys_as_overrides(job: Job) -> None:
    long = ["-o", "Predict.input=[a, b]", "-o", "Global.output=out", "-o", "Predict.model_dir=m"]
    main(["predict", *long, "-o", "Predict.engine=inline", "-o", "Predict.retry_failed=True"])
    by_override = job.config
    short = ["--input", "a", "--input", "b", "--output", "out", "--model-dir", "m"]
    main(["predict", *short, "--engine", "inline", "--retry-failed"])
    assert job.config == by_override
    assert job.config != Config()


def test_shortcuts_are_taken_literally(job: Job) -> None:
    main(["predict", "--input", "[a].jpg", "--output", "2026"])
    assert (job.config.Predict.input, job.config.Global.output) == ("[a].jpg", "2026")


@pytest.mark.parametrize("choice", ["overwrite", "beside"])
def test_what_to_do_with_tables_of_other_settings(job: Job, choice: str) -> None:
    main(["predict", f"--{choice}"])
    assert job.config.Output.on_mismatch == choice


def test_overwrite_and_beside_exclude_each_other(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--overwrite", "--beside"]) == 2
    assert capsys.readouterr().err == "sodbatch: --overwrite and --beside: only one of them can be given\n"


def test_dry_run_is_passed_on(job: Job) -> None:
    main(["predict", "--dry-run"])
    assert job.dry_run is True


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(0, 0), (3, 3), (UsageError("x"), 2), (JobError("x"), 1), (KeyboardInterrupt(), 130), (ZeroDivisionError(), 1)],
)
def test_exit_codes(job: Job, outcome: int | BaseException, code: int) -> None:
    job.outcome = outcome
    assert main(["predict"]) == code


def test_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0 all done; 3 done, with failed pictures; 2 wrong usage" in text
    readme = (ROOT / "README.md").read_text()
    assert all(f"| {code} |" in readme for code in (0, 1, 2, 3, 130))


@pytest.mark.parametrize("error", [UsageError, JobError, ValueError])
def test_errors_show_no_credentials_and_no_traceback(
    job: Job, capsys: pytest.CaptureFixture[str], error: type[Exception]
) -> None:
    job.outcome = error("cannot read https://user:hunter2@host/a.jpg?X-Amz-Signature=abcdef")
    main(["predict"])
    shown = capsys.readouterr().err
    assert "host/a.jpg" in shown
    assert "hunter2" not in shown and "abcdef" not in shown
    assert len(shown.splitlines()) == 1


def test_debug_shows_the_traceback_without_credentials(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SODBATCH_DEBUG", "0")  # which the option sets: after the test it is as before
    job.outcome = ValueError("https://user:hunter2@host/a.jpg")
    assert main(["--debug", "predict"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "ValueError" in shown
    assert "hunter2" not in shown


def test_wrong_configuration_is_one_line_and_nothing_starts(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "-o", "Predict.batch_size=0"]) == 2
    assert capsys.readouterr().err == "sodbatch: Predict.batch_size = 0: expected a whole number from 1 to 1024\n"
    assert job.dry_run is None


@pytest.mark.parametrize("arguments", [["predict", "--nope"], ["nope"], ["show"], ["predict", "--input"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("sodbatch: ") and shown.endswith("sodbatch: Try 'sodbatch --help' for help.\n")


def test_neither_wrong_usage_nor_a_log_shows_credentials(
    job: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    assert main(["predict", "https://bob:hunter2@host/a.jpg"]) == 2
    logging.getLogger("a.library").warning("url=%s", "https://host/a.jpg?X-Amz-Signature=hunter3")
    shown = capsys.readouterr().err
    assert shown.count("host/a.jpg") == 2
    assert "hunter" not in shown


def test_run_takes_paddlex_command_lines(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(
        [
            "run",
            "-c",
            "paddlex/configs/modules/small_object_detection/PP-YOLOE_plus_SOD-L.yaml",
            "-o",
            "Global.mode=predict",
            "-o",
            "Predict.model_dir=./output/best_model/inference",
            "-o",
            "Predict.input=small_object_detection.jpg",
        ]
    )
    assert code == 0
    assert job.config.Global.model == "PP-YOLOE_plus_SOD-L"
    assert job.config.Predict.input == "small_object_detection.jpg"


@pytest.mark.parametrize("mode", ["train", "evaluate", "check_dataset"])
def test_run_does_what_the_mode_says(job: Job, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-o", f"Global.mode={mode}"]) == 2
    assert "Global.dataset_dir is not set" in capsys.readouterr().err


def test_models_lists_the_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SODBATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("SODBATCH_MODEL_BASE_URL", "http://mirror/models/")
    folder = tmp_path / "official" / "0123456789ab" / "PP-YOLOE_plus_SOD-L"
    folder.mkdir(parents=True)
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "PP-YOLOE_plus_SOD-largesize-L  1920 x 1920  42.7" in shown
    assert "http://mirror/models/PP-YOLOE_plus_SOD-S_infer.tar" in shown
    assert shown.count("cached no") == 2 and f"cached {folder}" in shown
    assert cached("PP-YOLOE_plus_SOD-S") is None


def test_show_of_a_place_without_tables_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert "no job has written here" in capsys.readouterr().err


def test_export_without_weights_says_that_they_are_untrained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("paddle")
    target = tmp_path / "model"
    options = ["-o", "Global.model=PP-YOLOE_plus_SOD-tiny", "-o", f"Global.output={target}"]
    assert main(["export", *options]) == 0
    assert "UNTRAINED" in capsys.readouterr().out
    folder = yaml.safe_load((target / "inference.yml").read_text())
    assert folder["Global"]["model_name"] == "PP-YOLOE_plus_SOD-tiny"


def test_module_and_job_script_are_the_same_command(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    version = subprocess.run(
        [sys.executable, "-m", "sodbatch", "--version"], env=environment, capture_output=True, text=True, check=True
    )
    assert version.stdout == f"sodbatch {__version__}\n"
    script = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "predict.py"), "-o", "Predict.batchsize=1"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 2
    assert script.stderr.startswith("sodbatch: Predict.batchsize: no such key")


def test_export_to_a_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "-c", "PP-YOLOE_plus_SOD-S", "-o", "Global.output=s3://bucket/model"]) == 2
    assert "Global.output = s3://bucket/model: export writes to a local folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_show_takes_a_folder_with_a_slash_at_its_end(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked = []

    def read_record(output: str, storage: object) -> None:
        asked.append(output)

    monkeypatch.setattr("sodbatch.record.read_record", read_record)
    assert main(["show", "s3://bucket/tables/"]) == 2
    assert asked == ["s3://bucket/tables"]
    assert "s3://bucket/tables: no job has written here" in capsys.readouterr().err


def test_untrained_weights_do_not_replace_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inference.pdiparams").write_bytes(b"trained for weeks")
    assert main(["export", "-o", f"Global.output={tmp_path}"]) == 2
    assert "holds a model" in capsys.readouterr().err
    assert (tmp_path / "inference.pdiparams").read_bytes() == b"trained for weeks"


def test_an_interruption_says_what_comes_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sodbatch.predict_job.run", interrupted)
    assert main(["predict", "--input", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
