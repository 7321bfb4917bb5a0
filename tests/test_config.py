"""Configuration: files, overrides, PaddleX's keys, and errors that a person understands."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.config import Config
from sodbatch.config.file import find_config, load_config, packaged_configs, parse_override
from sodbatch.errors import UsageError

OFFICIAL = ["PP-YOLOE_plus_SOD-L", "PP-YOLOE_plus_SOD-S", "PP-YOLOE_plus_SOD-largesize-L"]

PADDLEX_FILE = """\
Global:
  model: PP-YOLOE_plus_SOD-L
  mode: check_dataset # check_dataset/train/evaluate/predict
  dataset_dir: "/paddle/dataset/paddlex/det/small_det_examples"
  device: gpu:0,1,2,3
  output: "output"
CheckDataset:
  convert:
    enable: False
    src_dataset_type: null
  split:
    enable: False
    train_percent: null
Train:
  num_classes: 10
  learning_rate: 0.01
  pretrain_weight_path: https://example.com/PP-YOLOE_plus_SOD-L_pretrained.pdparams
Evaluate:
  weight_path: "output/best_model/best_model.pdparams"
Predict:
  batch_size: 1
  model_dir: "output/best_model/inference"
  input: "https://example.com/small_object_detection.jpg"
  kernel_option:
    run_mode: paddle
Export:
  weight_path: https://example.com/PP-YOLOE_plus_SOD-L_pretrained.pdparams
"""
"""The shape of PaddleX 3.7's own files of the module."""


PUBLISHED = {"PP-YOLOE_plus_SOD-largesize-L": {"epochs_iters": 10, "learning_rate": 0.00125, "log_interval": 3}}
"""What PaddleX trains this model with, unlike the others."""


def refusal(*overrides: str, path: str | None = None) -> str:
    """The error of a configuration that must be refused."""
    with pytest.raises(UsageError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def write(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


# Values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", 0.5),
        ("1", 1.0),
        ("0", 0.0),
        ("1e-3", 0.001),
        (".25", 0.25),
        ("None", None),
        ("null", None),
        ("{0: 0.5, 3: 1}", {0: 0.5, 3: 1.0}),
        ("{0:0.5,3:0.25}", {0: 0.5, 3: 0.25}),
    ],
)
def test_threshold_is_a_number_or_one_per_class(text: str, expected: object) -> None:
    assert load_config(overrides=[f"Predict.threshold={text}"]).Predict.threshold == expected


@pytest.mark.parametrize(
    "text", [".nan", "NaN", ".inf", "-0.1", "1.01", "True", "'0.5'", "{a: 0.5}", "{0: 2}", "{-1: 0.5}", "{}", "[0.5]"]
)
def test_threshold_refuses(text: str) -> None:
    line = refusal(f"Predict.threshold={text}")
    assert line.startswith("Predict.threshold = ")
    assert "expected a number from 0 to 1 or a mapping {class id: a number from 0 to 1} or null" in line
    assert "\n" not in line


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_threshold_takes_exactly_zero_to_one(value: float) -> None:
    try:
        config = load_config(settings={"Predict.threshold": value})
    except UsageError:
        assert math.isnan(value) or not 0 <= value <= 1
    else:
        assert config.Predict.threshold == value
        assert 0 <= value <= 1


@given(st.integers())
def test_batch_size_takes_exactly_its_range(value: int) -> None:
    try:
        config = load_config(overrides=[f"Predict.batch_size={value}"])
    except UsageError as error:
        assert not 1 <= value <= 1024
        assert str(error) == f"Predict.batch_size = {value}: expected a whole number from 1 to 1024"
    else:
        assert config.Predict.batch_size == value


@given(st.dictionaries(st.integers(0, 500), st.floats(0, 1), min_size=1))
def test_thresholds_survive_the_command_line(thresholds: dict[int, float]) -> None:
    assert load_config(overrides=[f"Predict.threshold={thresholds}"]).Predict.threshold == thresholds


@pytest.mark.parametrize("text", ["True", "true", "TRUE"])
def test_booleans_as_paddlex_writes_them(text: str) -> None:
    assert load_config(overrides=[f"Predict.tensorrt={text}"]).Predict.tensorrt is True


@pytest.mark.parametrize("text", ["yes", "on", "1", "'true'"])
def test_what_is_no_boolean_is_refused(text: str) -> None:
    assert refusal(f"Predict.tensorrt={text}").endswith("expected true or false")


@pytest.mark.parametrize(
    "text", ["no", "on", "20260101", "007", "1:30", "2026-01-01", "*.jpg", "a: b # c", "s3://b/k?x=1&y=2", "a=b", "@x"]
)
def test_text_is_taken_as_it_is_written(text: str) -> None:
    assert load_config(overrides=[f"Global.output={text}"]).Global.output == text


def test_text_that_reads_as_a_number_wants_quotes() -> None:
    assert "put the value in quotes" in refusal("Global.output=1.10")
    assert load_config(overrides=["Global.output='1.10'"]).Global.output == "1.10"


def test_inputs_are_one_text_or_a_list() -> None:
    assert load_config(overrides=["Predict.input=a.jpg"]).Predict.input == "a.jpg"
    assert load_config(overrides=["Predict.input=[a.jpg, s3://b/c/]"]).Predict.input == ["a.jpg", "s3://b/c/"]
    assert "expected a text or a list of texts or null" in refusal("Predict.input=[]")


def test_actors_are_a_number_or_a_range() -> None:
    assert load_config(overrides=["Resources.actors=4"]).Resources.actors == 4
    assert load_config(overrides=["Resources.actors=[1, 8]"]).Resources.actors == (1, 8)
    assert refusal("Resources.actors=[8, 1]").startswith("Resources.actors = [8, 1]:")
    assert "auto or a whole number of at least 1" in refusal("Resources.actors=0")


@pytest.mark.parametrize("value", ["0.25", "0.5", "1", "2", "16"])
def test_gpus_may_be_fractions_or_whole(value: str) -> None:
    assert load_config(overrides=[f"Resources.gpus_per_actor={value}"]).Resources.gpus_per_actor == float(value)


@pytest.mark.parametrize("value", ["0", "-1", "17", "1.5"])
def test_gpus_that_ray_cannot_give(value: str) -> None:
    assert refusal(f"Resources.gpus_per_actor={value}").startswith("Resources.gpus_per_actor = ")


@pytest.mark.parametrize("device", ["auto", "cpu", "gpu", "gpu:0", "gpu:0,1", "gpu:0,1,2,3"])
def test_devices(device: str) -> None:
    assert load_config(overrides=[f"Global.device={device}"]).Global.device == device


@pytest.mark.parametrize("device", ["npu", "xpu:0", "gpu:", "gpu:a", "GPU", "cpu:0", "gpu:0\n"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, gpu, gpu:0 or gpu:0,1"):
        load_config(settings={"Global.device": device})


# Names


def test_unknown_key_names_the_nearest() -> None:
    line = refusal("Predict.batchsize=4")
    assert line.startswith("Predict.batchsize: no such key; did you mean Predict.batch_size? (the keys of Predict: ")


def test_key_in_other_letters_names_the_right_one() -> None:
    assert "did you mean Global.output?" in refusal("Global.OUTPUT=x")


def test_unknown_section_names_the_nearest() -> None:
    assert refusal("Predct.batch_size=4").startswith("Predct: no such section; did you mean Predict? (the sections: ")


def test_unknown_key_without_a_neighbour_lists_the_keys() -> None:
    line = refusal("Fetch.zzzz=1")
    assert "did you mean" not in line
    assert "the keys of Fetch: threads, timeout_s, retries, backoff_s" in line


def test_credentials_are_refused_and_not_repeated() -> None:
    line = refusal("S3.secret_access_key=hunter2")
    assert "environment or a profile" in line
    assert "hunter2" not in line


def test_every_error_has_its_line() -> None:
    lines = refusal("Predict.batch_size=0", "Fetch.retries=-1", "Global.nope=1").splitlines()
    assert [line.split(" ")[0].rstrip(":") for line in lines] == ["Global.nope", "Predict.batch_size", "Fetch.retries"]


@given(st.sampled_from(sorted(Config.model_fields)), st.text(min_size=1, max_size=12), st.text(max_size=12))
def test_no_override_gives_anything_but_a_configuration_or_plain_lines(section: str, key: str, value: str) -> None:
    try:
        load_config(overrides=[f"{section}.{key}={value}"])
    except UsageError as error:
        assert "pydantic" not in str(error)
        assert str(error)


@pytest.mark.parametrize("override", ["Predict", "Predict=3", "Predict.threshold", ".a=1", "Predict.=1", "=1", ""])
def test_what_is_no_override_is_shown_how_to_write_one(override: str) -> None:
    assert "expected Section.key=value" in refusal(override)


def test_later_overrides_win_and_settings_win_over_them() -> None:
    overrides = ["Predict.batch_size=2", "Predict.batch_size=3"]
    assert load_config(overrides=overrides).Predict.batch_size == 3
    assert load_config(overrides=overrides, settings={"Predict.batch_size": 4}).Predict.batch_size == 4


@given(st.text(), st.text(alphabet="abc.*/: #", min_size=1))
def test_override_splits_at_the_first_equals_sign(value: str, output: str) -> None:
    assert parse_override(f"Global.output=x={value.strip()}") == ("Global.output", f"x={value.strip()}".strip())


def test_unknown_model_needs_a_folder() -> None:
    assert "also give Predict.model_dir" in refusal("Global.model=mine")
    assert load_config(overrides=["Global.model=mine", "Predict.model_dir=m"]).Global.model == "mine"


# Files


def test_a_file_without_content_for_a_section_takes_its_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "Predict:\nGlobal:\n  device: cpu\n")).Predict == Config().Predict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Predict:\n  batch_size: 1\n  batch_size: 2\n", "line 3: not valid YAML: the key batch_size stands twice"),
        ("Predict: {batch_size: [}\n", "line 1: not valid YAML"),
        ("- a\n", "expected sections such as Global and Predict, found list"),
        ("", "found NoneType"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not allowed"),
        ("Global: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("{[1]: 2}\n", "a key is not a plain value"),
        ("[" * 5000, "nested too deeply"),
        ("\x00", "not valid YAML"),
        ("1: 2\n", "1: no such section"),
        ("Predict: 3\n", "Predict = 3: expected a section with the keys model_dir, input"),
        ("Predict: {1: 2}\n", "Predict.1: no such key"),
        ("#" * 2**20 + "\n", "larger than 1,048,576 bytes"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(path=write(tmp_path, text))


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    assert "no such configuration file (packaged ones: PP-YOLOE_plus_SOD-L, " in refusal(path=str(tmp_path))


@pytest.mark.parametrize(
    "given",
    [
        "PP-YOLOE_plus_SOD-S",
        "PP-YOLOE_plus_SOD-S.yaml",
        "configs/PP-YOLOE_plus_SOD-S.yaml",
        "paddlex/configs/modules/small_object_detection/PP-YOLOE_plus_SOD-S.yaml",
    ],
)
def test_packaged_files_are_found_from_anywhere(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(given) == packaged_configs() / "PP-YOLOE_plus_SOD-S.yaml"
    assert ("using the packaged PP-YOLOE_plus_SOD-S.yaml" in caplog.text) == (given != "PP-YOLOE_plus_SOD-S")


def test_a_file_of_ones_own_comes_before_the_packaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PP-YOLOE_plus_SOD-S.yaml").write_text("Predict: {batch_size: 7}")
    assert load_config("PP-YOLOE_plus_SOD-S.yaml").Predict.batch_size == 7


@pytest.mark.parametrize("model", OFFICIAL)
def test_packaged_file_is_complete_and_holds_the_defaults(model: str) -> None:
    raw = yaml.safe_load((packaged_configs() / f"{model}.yaml").read_text())
    used = Config().model_dump()
    used["Global"]["model"] = model
    used["Train"] |= PUBLISHED.get(model, {})
    assert raw == used


@pytest.mark.parametrize("model", OFFICIAL)
def test_packaged_file_explains_every_key(model: str) -> None:
    lines = (packaged_configs() / f"{model}.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("  ") and not line.lstrip().startswith("#"):
            assert " # " in line or before.lstrip().startswith("# "), f"not explained: {line}"


def test_packaged_files_are_those_of_the_official_models() -> None:
    assert sorted(file.stem for file in packaged_configs().glob("*.yaml")) == OFFICIAL


# PaddleX


def test_paddlex_file_loads_as_it_stands(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, PADDLEX_FILE))
    assert config.Global.model == "PP-YOLOE_plus_SOD-L"
    assert config.Global.mode == "check_dataset"
    assert config.Global.device == "gpu:0,1,2,3"
    assert config.Predict.model_dir == "output/best_model/inference"
    assert config.Predict.backend == "paddle"
    assert config.Export.weight_path == "https://example.com/PP-YOLOE_plus_SOD-L_pretrained.pdparams"


def test_paddlex_overrides_of_its_other_sections_are_accepted(tmp_path: Path) -> None:
    overrides = ["CheckDataset.split.enable=True", "CheckDataset.split.train_percent=90", "Train.num_classes=10"]
    overrides += ["CheckDataset.split.val_percent=10"]
    config = load_config(write(tmp_path, PADDLEX_FILE), overrides)
    assert (config.CheckDataset.split.enable, config.CheckDataset.split.train_percent) == (True, 90)
    assert (config.CheckDataset.convert.enable, config.CheckDataset.convert.src_dataset_type) == (False, None)
    assert config.Train.num_classes == 10


@pytest.mark.parametrize(
    ("run_mode", "expected"),
    [
        ("paddle", ("paddle", "fp32", False)),
        ("paddle_fp16", ("paddle", "fp16", False)),
        ("mkldnn", ("paddle", "fp32", False)),
        ("mkldnn_bf16", ("openvino", "bf16", False)),
        ("trt_fp32", ("paddle", "fp32", True)),
        ("trt_fp16", ("paddle", "fp16", True)),
    ],
)
def test_run_mode_becomes_backend_precision_and_tensorrt(run_mode: str, expected: tuple[str, str, bool]) -> None:
    predict = load_config("PP-YOLOE_plus_SOD-S", [f"Predict.kernel_option.run_mode={run_mode}"]).Predict
    assert (predict.backend, predict.precision, predict.tensorrt) == expected


def test_the_last_word_on_the_backend_counts(tmp_path: Path) -> None:
    path = write(tmp_path, PADDLEX_FILE)
    assert load_config(path, ["Predict.backend=openvino"]).Predict.backend == "openvino"
    later = ["Predict.backend=openvino", "Predict.kernel_option.run_mode=paddle"]
    assert load_config(path, later).Predict.backend == "paddle"


@pytest.mark.parametrize("run_mode", ["trt_int8", "foo", "3", "[a]"])
def test_run_modes_without_a_counterpart_are_refused(run_mode: str) -> None:
    line = refusal(f"Predict.kernel_option.run_mode={run_mode}")
    assert "expected one of paddle, paddle_fp32, paddle_fp16, mkldnn, mkldnn_bf16, trt_fp32, trt_fp16" in line


def test_other_kernel_options_are_refused() -> None:
    assert "Predict.kernel_option" in refusal("Predict.kernel_option.cpu_threads=3")


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("out/", "out"),
        ("/data/out//", "/data/out"),
        ("s3://bucket/tables/", "s3://bucket/tables"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket", "s3://bucket"),
        ("/", "/"),
        ("s3://", "s3://"),
        ("file:///", "file:///"),
    ],
)
def test_the_output_has_no_slash_at_its_end(given: str, output: str) -> None:
    assert load_config(overrides=[f"Global.output={given}"]).Global.output == output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "CheckDataset.convert.src_dataset_type=KITTI",
            "CheckDataset.convert.src_dataset_type = 'KITTI': expected one of VOC,",
        ),
        ("CheckDataset.split.group_pattern=^(a", "CheckDataset.split.group_pattern: '^(a' is no regular expression"),
        ("CheckDataset.split.percent=3", "CheckDataset.split.percent: no such key"),
        ("CheckDataset.convert.enable=true", "CheckDataset.convert.enable = true: expected src_dataset_type"),
        ("CheckDataset.rules={boxtiny: off}", "CheckDataset.rules: boxtiny: no such rule"),
    ],
)
def test_keys_of_a_section_in_a_section_are_named_whole(override: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_config(None, [override])
    assert message in str(error.value)
