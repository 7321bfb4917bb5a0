"""Configuration: one YAML per model in PaddleX's sections, typed and validated.

Sections and keys that PaddleX has keep PaddleX's names (``Global``, ``Predict``, ``Export``);
the rest use the field's terms.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ThresholdValue = float | dict[int, float] | None


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GlobalSection(Section):
    """What to run and where its output goes."""

    model: str = "PP-YOLOE_plus_SOD-S"
    mode: Literal["predict", "export", "check_dataset", "train", "evaluate"] = "predict"
    dataset_dir: str | None = None
    device: str = Field("auto", pattern=r"^(auto|cpu|gpu(:\d+(,\d+)*)?)$")
    output: str = "output"


class PredictSection(Section):
    """The main job: model, inputs, thresholds, backend."""

    model_dir: str | None = None
    input: str | list[str] | None = None
    batch_size: int = Field(1, ge=1, le=1024)
    threshold: ThresholdValue = None
    backend: Literal["auto", "paddle", "openvino", "onnxruntime"] = "auto"
    precision: Literal["fp32", "fp16"] = "fp32"
    tensorrt: bool = False
    engine: Literal["ray", "inline"] = "ray"
    path_column: str | None = None
    id_from_etag: bool = False
    retry_failed: bool = False


class ResourcesSection(Section):
    """How much of the cluster the job takes; ``auto`` derives it from what the cluster has."""

    ray_address: str | None = None
    actors: Literal["auto"] | int | tuple[int, int] = "auto"
    cpus_per_actor: Literal["auto"] | float = "auto"
    gpus_per_actor: float = Field(1.0, gt=0, le=16)
    threads_per_actor: Literal["auto"] | int = "auto"
    cpus_per_load_task: float = Field(1.0, gt=0)
    no_progress_timeout_s: float = Field(1800, gt=0)


class OutputSection(Section):
    """The tables and what else is written beside them."""

    shard_size: Literal["auto"] | int = "auto"
    partition_by: str | None = None
    on_mismatch: Literal["refuse", "overwrite", "beside"] = "refuse"
    coco_json: bool = False
    paddlex_json: bool = False


class VisualizeSection(Section):
    """Pictures with boxes: none, all, a sample of N, or those with at least ``min_boxes`` boxes."""

    pictures: Literal["none", "all", "sample"] = "none"
    sample: int = Field(20, ge=1, le=10_000)
    min_boxes: int = Field(0, ge=0)


class S3Section(Section):
    """How ``s3://`` is reached. Keys come from the environment or a profile, never from here."""

    endpoint_url: str | None = None
    anonymous: bool = False
    profile: str | None = None
    region: str | None = None
    requester_pays: bool = False


class FetchSection(Section):
    """How the bytes of a picture are fetched."""

    threads: int = Field(16, ge=1, le=256)
    timeout_s: float = Field(30.0, gt=0)
    retries: int = Field(3, ge=0, le=20)
    backoff_s: float = Field(0.5, ge=0)


class LimitsSection(Section):
    """Bounds enforced from headers, before memory is spent; beyond one, a row is ``too_large``."""

    max_bytes: int = Field(256 * 2**20, ge=1)
    max_pixels: int = Field(200_000_000, ge=1)
    max_pages: int = Field(5_000, ge=1)


class ExportSection(Section):
    """Export of an inference folder from weights."""

    weight_path: str | None = None


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
    CheckDataset: dict[str, Any] = {}
    Train: dict[str, Any] = {}
    Evaluate: dict[str, Any] = {}
