"""The main job end to end on the reduced model, with both engines."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from sodbatch import predict_job
from sodbatch.config import Config
from sodbatch.engine.inline import InlineEngine
from sodbatch.errors import JobError, UsageError
from sodbatch.predict_job import run

THRESHOLD = 0.3
VARYING = ["model_fingerprint", "run_id", "created_at", "attempt"]


def scene(seed: int, size: tuple[int, int] = (180, 240)) -> np.ndarray:
    """A ground with a few dozen small bright and dark rectangles."""
    rng = np.random.default_rng(seed)
    picture = cv2.GaussianBlur(rng.integers(60, 200, (*size, 3)).astype(np.uint8), (9, 9), 3)
    for _ in range(40):
        x, y, w, h = rng.integers(0, size[1]), rng.integers(0, size[0]), rng.integers(4, 24), rng.integers(4, 16)
        cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), rng.integers(0, 256, 3).tolist(), -1)
    return picture


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(10):
        cv2.imwrite(str(folder / f"scene_{seed:02d}.jpg"), scene(seed))
    return folder


Runner = Callable[..., int]


@pytest.fixture
def job(isolated_job: Runner, stages_here: None) -> Runner:
    """Run the job as ``isolated_job`` does, but with the stages of the inline engine in this process."""
    return isolated_job


@pytest.fixture
def isolated_job(tiny_model_dir: Path, tmp_path: Path) -> Runner:
    """Run the job inline into ``tmp_path/out``; keywords are ``Section__key=value``."""

    def call(source: object, *, dry_run: bool = False, **options: Any) -> int:
        sections: dict[str, dict[str, Any]] = {
            "Global": {"output": str(tmp_path / "out"), "device": "cpu"},
            "Predict": {
                "input": source if isinstance(source, list) else str(source),
                "model_dir": str(tiny_model_dir),
                "engine": "inline",
                "threshold": THRESHOLD,
                "backend": "openvino",
            },
        }
        for name, value in options.items():
            section, key = name.split("__")
            sections.setdefault(section, {})[key] = value
        config = Config.model_validate(sections)
        return run(config, dry_run=dry_run, console=Console(file=io.StringIO()))

    return call


def rows_of(output: Path | str, table: str = "images") -> list[dict[str, Any]]:
    rows = pa.concat_tables(pq.read_table(part) for part in sorted(Path(output).glob(f"{table}/*.parquet")))
    return rows.drop_columns([name for name in VARYING if name in rows.column_names]).sort_by("uri").to_pylist()


def listed(folder: Path, sources: list[str]) -> Path:
    (folder / "list.txt").write_text("\n".join(sources))
    return folder / "list.txt"


def summary_of(output: Path) -> dict[str, Any]:
    assert (output / "_SUCCESS").exists()
    return json.loads((output / "summary.json").read_text())


def test_each_picture_is_a_row_and_each_box_a_row_of_the_other_table(
    job: Runner, pictures: Path, tmp_path: Path
) -> None:
    assert job(pictures, Output__shard_size=4) == 0
    rows, boxes = rows_of(tmp_path / "out"), rows_of(tmp_path / "out", "detections")
    assert [Path(row["uri"]).name for row in rows] == [f"scene_{i:02d}.jpg" for i in range(10)]
    assert {row["status"] for row in rows} == {"ok"}
    assert [row["num_detections"] for row in rows] == [len(row["detections"]) for row in rows]
    assert sum(row["num_detections"] for row in rows) == len(boxes) > 20
    assert all(THRESHOLD < box["score"] <= 1 for box in boxes)
    assert all(0 <= box["xmin"] < box["xmax"] <= 240 and 0 <= box["ymin"] < box["ymax"] <= 180 for box in boxes)
    summary = summary_of(tmp_path / "out")
    assert (summary["inputs"], summary["ok"], summary["failed"], summary["parts"]) == (10, 10, 0, 3)
    assert sum(summary["classes"].values()) == len(boxes)


def test_both_engines_give_the_same_table(isolated_job: Runner, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.jpg").write_bytes((pictures / "scene_00.jpg").read_bytes()[:2000])
    Image.new("RGB", (64, 48)).save(
        pictures / "pages.tif", save_all=True, append_images=[Image.fromarray(scene(99)) for _ in range(2)]
    )
    assert isolated_job(pictures) == 3
    ray_output = tmp_path / "ray"
    assert isolated_job(pictures, Predict__engine="ray", Output__shard_size=3, Global__output=str(ray_output)) == 3
    inline, ray = rows_of(tmp_path / "out"), rows_of(ray_output)
    assert len(inline) == 14
    key = lambda row: row["image_id"]  # noqa: E731
    assert sorted(ray, key=key) == sorted(inline, key=key)
    order = lambda row: (row["image_id"], row["detection_index"])  # noqa: E731
    assert sorted(rows_of(tmp_path / "ray", "detections"), key=order) == sorted(
        rows_of(tmp_path / "out", "detections"), key=order
    )


def test_bad_files_are_rows_with_their_reason_among_good_ones(job: Runner, pictures: Path, tmp_path: Path) -> None:
    good = sorted(str(path) for path in pictures.iterdir())
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "truncated.jpg").write_bytes(Path(good[0]).read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("no picture at all\n" * 100)
    cv2.imwrite(str(tmp_path / "sixteen.png"), scene(5).astype(np.uint16) * 257)
    names = ["empty.jpg", "truncated.jpg", "text.jpg", "missing.jpg", "sixteen.png"]
    manifest = listed(tmp_path, good[:5] + [str(tmp_path / name) for name in names] + good[5:])
    assert job(manifest) == 3
    rows = {Path(row["uri"]).name: row for row in rows_of(tmp_path / "out")}
    assert len(rows) == 15
    assert {name: rows[name]["error_class"] for name in names} == {
        "empty.jpg": "empty",
        "truncated.jpg": "truncated",
        "text.jpg": "not_an_image",
        "missing.jpg": "missing",
        "sixteen.png": None,
    }
    assert rows["sixteen.png"]["status"] == "ok" and (rows["sixteen.png"]["width"], rows["sixteen.png"]["height"]) == (
        240,
        180,
    )
    assert all(rows[name]["error_message"] and rows[name]["detections"] is None for name in names[:4])
    assert sum(row["status"] == "ok" for row in rows.values()) == 11
    summary = summary_of(tmp_path / "out")
    assert summary["errors"] == {"empty": 1, "truncated": 1, "not_an_image": 1, "missing": 1}
    assert (summary["ok"], summary["failed"]) == (11, 4)


def test_only_what_is_new_is_done(job: Runner, pictures: Path, tmp_path: Path) -> None:
    assert job(pictures) == 0
    before = {part: part.stat().st_mtime_ns for part in (tmp_path / "out").rglob("*.parquet")}
    assert job(pictures) == 0
    assert summary_of(tmp_path / "out")["this_run"]["done"] == 0
    for seed in range(20, 23):
        cv2.imwrite(str(pictures / f"new_{seed}.jpg"), scene(seed))
    assert job(pictures) == 0
    this_run = summary_of(tmp_path / "out")["this_run"]
    assert (this_run["already_done"], this_run["done"]) == (10, 3)
    assert len(rows_of(tmp_path / "out")) == 13
    assert all(part.stat().st_mtime_ns == time for part, time in before.items())


def test_another_threshold_is_refused_with_what_differs_or_written_beside_or_over(
    job: Runner, pictures: Path, tmp_path: Path
) -> None:
    assert job(pictures) == 0
    before = rows_of(tmp_path / "out")
    with pytest.raises(UsageError, match=r"threshold: 0\.3 there, 0\.9 now"):
        job(pictures, Predict__threshold=0.9)
    assert job(pictures, Predict__threshold=0.9, Output__on_mismatch="beside") == 0
    assert rows_of(tmp_path / "out") == before
    [beside] = tmp_path.glob("out-*")
    assert len(rows_of(beside)) == 10
    assert job(pictures, Predict__threshold=0.9, Output__on_mismatch="overwrite") == 0
    assert rows_of(tmp_path / "out") == rows_of(beside) != before


def test_a_request_that_cannot_work_costs_no_tables(job: Runner, pictures: Path, tmp_path: Path) -> None:
    assert job(pictures) == 0
    before = rows_of(tmp_path / "out")
    options = {"Output__on_mismatch": "overwrite", "Predict__threshold": 0.9}
    with pytest.raises(UsageError, match="fp16"):
        job(pictures, Predict__precision="fp16", **options)
    with pytest.raises(UsageError, match="leave at least 0.9"):
        job(pictures, Predict__engine="ray", Resources__actors=64, **options)
    assert rows_of(tmp_path / "out") == before and (tmp_path / "out" / "_SUCCESS").exists()


class FailsOnce(InlineEngine):
    """The inline engine, but that the first run of it gives up."""

    runs = 0

    def run(self, *args: Any) -> None:
        self.runs += 1
        if self.runs == 1:
            raise JobError("a machine was lost")
        super().run(*args)


@pytest.mark.parametrize("failing", [FailsOnce, InlineEngine])
def test_failed_pictures_are_redone_though_the_engine_gives_up_once(
    job: Runner, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: type[InlineEngine]
) -> None:
    manifest = listed(tmp_path, [str(pictures / "scene_00.jpg"), str(pictures / "late.jpg")])
    assert job(manifest) == 3
    cv2.imwrite(str(pictures / "late.jpg"), scene(50))
    monkeypatch.setattr(predict_job, "make_engine", failing)
    assert job(manifest, Predict__retry_failed=True) == 0
    assert {row["status"] for row in rows_of(tmp_path / "out")} == {"ok"}
    assert summary_of(tmp_path / "out")["this_run"]["done"] == 1


class NeverWorks(InlineEngine):
    """An engine whose every run gives up."""

    def run(self, *args: Any) -> None:
        raise JobError("no machine is left")


def test_an_engine_that_never_works_ends_in_an_error_that_says_why(
    job: Runner, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_job, "make_engine", NeverWorks)
    with pytest.raises(JobError, match="10 inputs could not be committed .* no machine is left"):
        job(pictures)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_failed_pictures_are_redone_when_asked_and_their_new_rows_supersede(
    job: Runner, pictures: Path, tmp_path: Path
) -> None:
    manifest = listed(tmp_path, [str(pictures / name) for name in ("scene_00.jpg", "late.jpg", "never.jpg")])
    assert job(manifest) == 3
    cv2.imwrite(str(pictures / "late.jpg"), scene(50))
    assert job(manifest) == 3
    assert summary_of(tmp_path / "out")["this_run"]["done"] == 0
    assert job(manifest, Predict__retry_failed=True) == 3
    rows = {Path(row["uri"]).name: row["status"] for row in rows_of(tmp_path / "out")}
    assert rows == {"scene_00.jpg": "ok", "late.jpg": "ok", "never.jpg": "failed"}
    summary = summary_of(tmp_path / "out")
    assert (summary["pictures"], summary["ok"], summary["failed"], summary["this_run"]["done"]) == (3, 2, 1, 2)


def test_a_path_named_twice_is_one_picture_and_counted_as_a_repeat(job: Runner, pictures: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_text(f"{pictures}/scene_00.jpg\n{pictures}/scene_01.jpg\n{pictures}/scene_00.jpg\n")
    assert job(manifest) == 0
    assert len(rows_of(tmp_path / "out")) == 2
    assert summary_of(tmp_path / "out")["this_run"]["repeats"] == 1


def test_columns_of_the_manifest_are_joined_partitioned_and_queried(
    job: Runner, pictures: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "list.csv"
    lines = [f"{pictures}/scene_{i:02d}.jpg,{'north' if i < 4 else 'south'},{i * 10}" for i in range(10)]
    manifest.write_text("\n".join(["path,site,height_m", *lines]))
    assert job(manifest, Output__partition_by="site") == 0
    images = f"read_parquet('{tmp_path}/out/images/**/*.parquet', hive_partitioning=true)"
    boxes = f"read_parquet('{tmp_path}/out/detections/**/*.parquet', hive_partitioning=true)"
    assert duckdb.sql(f"select site, count(*) from {images} group by 1 order by 1").fetchall() == [
        ("north", 4),
        ("south", 6),
    ]
    joined = duckdb.sql(
        f"select i.height_m, count(d.label) from {images} i left join {boxes} d using (image_id) group by 1"
    ).fetchall()
    expected = duckdb.sql(f"select height_m, num_detections from {images}").fetchall()
    assert sorted(joined) == sorted(expected) and len(joined) == 10
    crowded = duckdb.sql(f"select uri, num_detections from {images} order by num_detections desc limit 3").fetchall()
    assert crowded[0][1] == max(count for _, count in expected)


def test_pictures_with_boxes_json_and_coco_are_written_beside_the_tables(
    job: Runner, pictures: Path, tmp_path: Path
) -> None:
    options = {"Visualize__pictures": "all", "Output__paddlex_json": True, "Output__coco_json": True}
    assert job(pictures, **options) == 0
    rows = rows_of(tmp_path / "out")
    for row in rows:
        name = f"{Path(row['uri']).stem}_{row['image_id'][:12]}"
        drawn = cv2.imread(str(tmp_path / "out" / "pictures" / f"{name}.jpg"))
        assert drawn.shape == (180, 240, 3)
        original = cv2.imread(row["uri"])
        assert (np.abs(drawn.astype(int) - original).max() > 60) == bool(row["detections"])
        result = json.loads((tmp_path / "out" / "json" / f"{name}_res.json").read_text())
        assert result["input_path"] == row["uri"] and result["page_index"] is None
        assert [box["score"] for box in result["boxes"]] == [box["score"] for box in row["detections"]]
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    first = rows[0]["detections"][0]
    [match] = [box for box in coco if box["image_id"] == rows[0]["image_id"] and box["score"] == first["score"]]
    assert match["category_id"] == first["cls_id"] + 1
    assert match["bbox"] == pytest.approx(
        [first["xmin"], first["ymin"], first["xmax"] - first["xmin"], first["ymax"] - first["ymin"]]
    )
    assert len(coco) == sum(row["num_detections"] for row in rows)


def test_a_sample_or_the_crowded_pictures_are_drawn_alone(job: Runner, pictures: Path, tmp_path: Path) -> None:
    assert job(pictures, Visualize__pictures="sample", Visualize__sample=3) == 0
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3
    counts = [row["num_detections"] for row in rows_of(tmp_path / "out")]
    most = max(counts)
    crowded = {"Visualize__pictures": "all", "Visualize__min_boxes": most, "Global__output": str(tmp_path / "crowded")}
    assert job(pictures, **crowded) == 0
    assert len(list((tmp_path / "crowded" / "pictures").iterdir())) == counts.count(most) < 10


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(
    tiny_model_dir: Path, job: Runner, pictures: Path, tmp_path: Path
) -> None:
    job([str(pictures / f"scene_{i:02d}.jpg") for i in range(4)])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    console = Console(file=io.StringIO(), width=200)
    sections = {
        "Global": {"output": str(tmp_path / "out"), "device": "cpu"},
        "Predict": {
            "input": str(pictures),
            "model_dir": str(tiny_model_dir),
            "engine": "inline",
            "threshold": THRESHOLD,
        },
    }
    assert run(Config.model_validate(sections), dry_run=True, console=console) == 0
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "inputs     10" in text and "done       4" in text and "to do      6" in text and "threads" in text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"Predict__model_dir": "/nowhere"}, "model folder /nowhere does not exist"),
        ({"Predict__threshold": {99: 0.5}}, "99"),
        ({"Output__partition_by": "city"}, "Output.partition_by is 'city'"),
        ({"Predict__engine": "ray", "Resources__ray_address": "127.0.0.1:1"}, "no Ray cluster answers"),
        ({"Global__output": "/proc/nowhere"}, "cannot write to /proc/nowhere"),
        ({"Global__device": "gpu", "Predict__backend": "paddle"}, "GPU"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    job: Runner, pictures: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        job(pictures, **options)
    assert not (tmp_path / "out" / "images").exists()


def test_a_damaged_model_is_one_line(job: Runner, pictures: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    params = model / "inference.pdiparams"
    params.write_bytes(params.read_bytes()[:1000])
    with pytest.raises(JobError, match="cannot be loaded, is it whole"):
        job(pictures, Predict__model_dir=str(model), Predict__backend="paddle")


def test_the_users_own_files_in_the_output_folder_are_left_alone(job: Runner, pictures: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "pictures" / "COCO_val2014_000000000001.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes((pictures / "scene_00.jpg").read_bytes())
    assert job(pictures) == 0
    assert job(pictures, Predict__threshold=0.9, Output__on_mismatch="overwrite") == 0
    assert mine.exists()
    with pytest.raises(UsageError, match="would be inputs"):
        job(mine.parent, Predict__threshold=0.9)


def test_a_bucket_that_is_not_there_is_one_line(job: Runner, pictures: Path, s3_bucket: Any) -> None:
    s3 = {"S3__endpoint_url": s3_bucket.endpoint, "S3__region": "us-east-1"}
    with pytest.raises(UsageError, match=r"s3://no-such-bucket/out .*bucket"):
        job(pictures, Global__output="s3://no-such-bucket/out", **s3)


def test_a_manifest_that_ends_in_nonsense_is_an_error_after_what_could_be_read(
    job: Runner, pictures: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"path": str(pictures / f"{i}.jpg")}) for i in range(21_000)]
    (tmp_path / "list.jsonl").write_text("\n".join([*lines, "{nonsense"]))
    with pytest.raises(JobError, match="21001"):
        job(tmp_path / "list.jsonl", Output__shard_size=4096)
    assert rows_of(tmp_path / "out") and not (tmp_path / "out" / "_SUCCESS").exists()


def test_drawn_pictures_may_not_land_among_the_inputs(job: Runner, pictures: Path) -> None:
    with pytest.raises(UsageError, match="would be inputs"):
        job(pictures, Global__output=str(pictures / "out"), Visualize__pictures="all")
    with pytest.raises(UsageError, match="would be inputs"):
        job(f"{pictures}/**/*.jpg", Global__output=str(pictures / "out"), Visualize__pictures="all")
    assert job(pictures, Global__output=str(pictures / "out")) == 0


def test_inputs_and_output_on_s3_give_the_same_rows_as_local_ones(
    job: Runner, pictures: Path, tmp_path: Path, s3_bucket: Any
) -> None:
    for path in pictures.iterdir():
        s3_bucket.put(f"in/{path.name}", path.read_bytes())
    s3 = {"S3__endpoint_url": s3_bucket.endpoint, "S3__region": "us-east-1"}
    output = f"{s3_bucket.url}/out"
    assert job(f"{s3_bucket.url}/in/", Predict__engine="ray", Output__shard_size=4, Global__output=output, **s3) == 0
    assert job(pictures) == 0
    keys = [
        item["Key"] for item in s3_bucket.client().list_objects_v2(Bucket=s3_bucket.name, Prefix="out/")["Contents"]
    ]
    parts = [pq.read_table(io.BytesIO(s3_bucket.get(key))) for key in keys if key.startswith("out/images/part-")]
    remote = sorted(pa.concat_tables(parts).to_pylist(), key=lambda row: row["uri"])
    local = rows_of(tmp_path / "out")
    assert [Path(row["uri"]).name for row in remote] == [Path(row["uri"]).name for row in local]
    assert [row["detections"] for row in remote] == [row["detections"] for row in local]
    assert remote[0]["uri"] == f"{s3_bucket.url}/in/scene_00.jpg"
    assert "out/_SUCCESS" in keys and "out/summary.json" in keys
    assert job(f"{s3_bucket.url}/in/", Global__output=output, **s3) == 0
    assert json.loads(s3_bucket.get("out/summary.json"))["this_run"]["done"] == 0
