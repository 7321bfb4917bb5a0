"""Configuration: PaddleX's sections and keys where it has them, typed and validated.

``configs/`` explains every key; :mod:`sodbatch.config.file` reads and merges the files.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sodbatch.dataset.rules import RULES
from sodbatch.model.spec import SPECS


def _int_as_text(value: Any) -> Any:
    """Take a name made of digits as text: YAML reads ``output: 20260101`` as a number."""
    return str(value) if type(value) is int else value


def without_end_slash(folder: str) -> str:
    """Take the ``/`` at the end of a folder's path or URL away, but not that of ``/`` or ``s3://``."""
    bare = folder.rstrip("/")
    return folder if not bare or bare.endswith(":") else bare


def _known_rule(name: str) -> str:
    """Refuse a rule that there is not."""
    if name not in RULES:
        raise ValueError(f"{name}: no such rule; the rules: {', '.join(RULES)}")
    return name


def _regular_expression(text: str) -> str:
    """Refuse what is none."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


Text = Annotated[str, BeforeValidator(_int_as_text), Field(min_length=1)]
Folder = Annotated[Text, AfterValidator(without_end_slash)]
Score = Annotated[float, Field(ge=0, le=1)]
ClassId = Annotated[int, Field(ge=0)]
ThresholdValue = Score | Annotated[dict[ClassId, Score], Field(min_length=1)] | None
Count = Annotated[int, Field(ge=1)]
ActorRange = Annotated[tuple[Count, Count], Field(strict=False, description="a list [least, most]")]
Device = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|gpu(:\d+(,\d+)*)?)$",
        description="auto, cpu, gpu, gpu:0 or gpu:0,1 (no other kind of device, such as npu or xpu)",
    ),
]


class Section(BaseModel):
    """Base of every section: unknown keys, other types and NaN are refused; values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class GlobalSection(Section):
    """What to run and where its output goes."""

    model: Text = "PP-YOLOE_plus_SOD-S"
    mode: Literal["predict", "export", "check_dataset", "train", "evaluate"] = "predict"
    dataset_dir: Text | None = None
    device: Device = "auto"
    output: Folder = "output"


class PredictSection(Section):
    """The main job: model, inputs, thresholds, backend."""

    model_dir: Text | None = None
    input: Text | Annotated[list[Text], Field(min_length=1, description="a list of texts")] | None = None
    batch_size: int = Field(1, ge=1, le=1024)
    threshold: ThresholdValue = None
    backend: Literal["auto", "paddle", "openvino", "onnxruntime"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    tensorrt: bool = False
    engine: Literal["ray", "inline"] = "ray"
    path_column: Text | None = None
    id_from_etag: bool = False
    retry_failed: bool = False
    max_failure_ratio: Score = 1.0


class ResourcesSection(Section):
    """How much of the cluster the job takes; ``auto`` derives it from what the cluster has."""

    ray_address: Text | None = None
    actors: Literal["auto"] | Count | ActorRange = "auto"
    cpus_per_actor: Literal["auto"] | Annotated[float, Field(gt=0, le=1024)] = "auto"
    gpus_per_actor: float = Field(1.0, gt=0, le=16)
    threads_per_actor: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    cpus_per_load_task: float = Field(0.9, gt=0, le=1024)
    no_progress_timeout_s: float = Field(1800.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> ResourcesSection:
        if isinstance(self.actors, tuple) and self.actors[0] > self.actors[1]:
            raise ValueError(f"actors = {list(self.actors)}: the first number is the least, the second the most")
        if self.gpus_per_actor > 1 and self.gpus_per_actor % 1:
            raise ValueError(f"gpus_per_actor = {self.gpus_per_actor}: above 1, Ray gives whole GPUs only")
        return self


class OutputSection(Section):
    """The tables and what else is written beside them."""

    shard_size: Literal["auto"] | Count = "auto"
    partition_by: Text | None = None
    on_mismatch: Literal["refuse", "overwrite", "beside"] = "refuse"
    coco_json: bool = False
    paddlex_json: bool = False


class VisualizeSection(Section):
    """Pictures with boxes: none, all, or a sample; of those with at least ``min_boxes`` boxes."""

    pictures: Literal["none", "all", "sample"] = "none"
    sample: int = Field(20, ge=1, le=10_000)
    min_boxes: int = Field(0, ge=0)


class S3Section(Section):
    """How ``s3://`` is reached. Keys come from the environment or a profile, never from here."""

    endpoint_url: (
        Annotated[
            str,
            Field(
                pattern=r"^https?://[^@?#]+$",
                description="a URL that starts with http:// or https://, without user, password and query",
            ),
        ]
        | None
    ) = None
    anonymous: bool = False
    profile: Text | None = None
    region: Text | None = None
    requester_pays: bool = False


class FetchSection(Section):
    """How the bytes of a picture are fetched."""

    threads: int = Field(16, ge=1, le=256)
    timeout_s: float = Field(30.0, gt=0, le=86_400)
    retries: int = Field(3, ge=0, le=20)
    backoff_s: float = Field(0.5, ge=0, le=3_600)


class LimitsSection(Section):
    """Bounds on one picture or page; the first three from headers, before memory is spent."""

    max_bytes: int = Field(256 * 2**20, ge=1)
    max_pixels: int = Field(200_000_000, ge=1)
    max_pages: int = Field(5_000, ge=1)
    max_seconds: float = Field(300.0, gt=0)


class ExportSection(Section):
    """Export of an inference folder from weights."""

    weight_path: Text | None = None


class ConvertSection(Section):
    """Conversion of other formats to COCO before the check, and of COCO to others after it."""

    enable: bool = False
    src_dataset_type: (
        Literal["VOC", "LabelMe", "VOCWithUnlabeled", "LabelMeWithUnlabeled", "YOLO", "VisDrone"] | None
    ) = None
    dst_dataset_type: Literal["YOLO", "VOC"] | None = None

    @model_validator(mode="after")
    def _named(self) -> ConvertSection:
        if self.enable and self.src_dataset_type is None and self.dst_dataset_type is None:
            raise ValueError("enable = true: expected src_dataset_type or dst_dataset_type beside it")
        return self


class SplitSection(Section):
    """A new division into train and val before the check."""

    enable: bool = False
    train_percent: Percent | None = None
    val_percent: Percent | None = None
    seed: int = Field(0, ge=0)
    balance: bool = False
    group_pattern: Pattern | None = None

    @model_validator(mode="after")
    def _whole(self) -> SplitSection:
        if self.enable and (self.train_percent or 0) + (self.val_percent or 0) != 100:
            raise ValueError(
                f"train_percent = {self.train_percent}, val_percent = {self.val_percent}: expected two that make 100"
            )
        return self


Percent = Annotated[int, Field(ge=1, le=99)]
Pattern = Annotated[str, AfterValidator(_regular_expression)]
RuleName = Annotated[str, AfterValidator(_known_rule)]


class CheckDatasetSection(Section):
    """The check of a data set."""

    convert: ConvertSection = ConvertSection()
    split: SplitSection = SplitSection()
    decode: bool = True
    rules: dict[RuleName, Literal["error", "warning", "off"]] = {}


class TrainSection(Section):
    """Training; the learning rate is that of the model's published batch and scales with the batch."""

    num_classes: Count | None = None
    epochs_iters: int = Field(50, ge=1, le=100_000)
    batch_size: int = Field(2, ge=1, le=1024)
    learning_rate: float = Field(0.01, gt=0, le=10)
    pretrain_weight_path: Text | None = None
    warmup_steps: int = Field(100, ge=0)
    resume_path: Text | None = None
    log_interval: int = Field(10, ge=1)
    eval_interval: int = Field(1, ge=1)
    amp: Literal["OFF", "O1", "O2"] = "OFF"
    static_assigner_epochs: int = Field(0, ge=0)
    seed: int = Field(0, ge=0, lt=2**31)
    max_failures: int = Field(3, ge=0)


class EvaluateSection(Section):
    """Evaluation of a model, or of a finished run of predictions."""

    weight_path: Text | None = None
    predictions: Folder | None = None
    part: Literal["train", "val"] = "val"
    match: Literal["name", "order"] = "name"
    worst: int = Field(12, ge=0, le=1000)
    log_interval: int = Field(10, ge=1)


class Config(Section):
    """The whole configuration of one job."""

    Global: GlobalSection = GlobalSection()
    Predict: PredictSection = PredictSection()
    Resources: ResourcesSection = ResourcesSection()
    Output: OutputSection = OutputSection()
    Visualize: VisualizeSection = VisualizeSection()
    S3: S3Section = S3Section()
    Fetch: FetchSection = FetchSection()
    Limits: LimitsSection = LimitsSection()
    Export: ExportSection = ExportSection()
    CheckDataset: CheckDatasetSection = CheckDatasetSection()
    Train: TrainSection = TrainSection()
    Evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _known_model(self) -> Config:
        if self.Global.model not in SPECS and self.Predict.model_dir is None:
            raise ValueError(
                f"Global.model = {self.Global.model}: expected one of {', '.join(SPECS)}; "
                "for a model of your own also give Predict.model_dir"
            )
        return self
