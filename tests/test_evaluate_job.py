"""The evaluation job: a model by its weights or folder, a finished run, the truth fed back, and what is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sodbatch.cli import main

TINY = "PP-YOLOE_plus_SOD-tiny"
LABELS = ["pedestrian", "car", "truck", "bus"]


def evaluate(dataset: Path, output: Path, *options: str) -> int:
    return main(["evaluate", "--dataset-dir", str(dataset), "--output", str(output), "--engine", "inline", *options])


def result(output: Path) -> dict[str, Any]:
    return json.loads((output / "evaluate_result.json").read_text())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inference folder with the scenes' classes and untrained weights."""
    pytest.importorskip("paddle")
    from dataclasses import replace

    from sodbatch.model.export import export_state
    from sodbatch.model.seeded import seeded_state
    from sodbatch.model.spec import find_spec

    spec = replace(find_spec(TINY), labels=tuple(LABELS))
    return export_state(spec, seeded_state(spec), tmp_path_factory.mktemp("model") / "inference")


@pytest.fixture(scope="module")
def finished(model_dir: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over all pictures of the data set, given as a folder."""
    output = tmp_path_factory.mktemp("finished") / "out"
    options = [
        "--model-dir",
        str(model_dir),
        "--engine",
        "inline",
        "-o",
        "Predict.backend=paddle",
        "-o",
        "Predict.threshold=0",
    ]
    assert main(["predict", "--input", str(scenes / "images"), "--output", str(output), *options]) == 0
    return output


def with_detections(finished: Path, dataset: Path, target: Path, *, shuffled: bool = False) -> Path:
    """Copy a finished run and put the data set's own boxes in place of its detections."""
    output = shutil.copytree(finished, target)
    content = json.loads((dataset / "annotations" / "instance_val.json").read_text())
    names = {category["id"]: index for index, category in enumerate(content["categories"])}
    boxes = [annotation["bbox"] for annotation in content["annotations"]]
    if shuffled:
        boxes = np.random.default_rng(0).permutation(boxes).tolist()
    found: dict[str, list[dict[str, object]]] = {}
    file_names = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation, (x, y, width, height) in zip(content["annotations"], boxes, strict=True):
        label = names[annotation["category_id"]]
        corners = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
        detection = {"cls_id": label, "label": LABELS[label], "score": 0.9, **corners}
        found.setdefault(file_names[annotation["image_id"]], []).append(detection)
    for path in (output / "images").iterdir():
        table = pq.read_table(path)
        column = [found.get(Path(uri).name, []) for uri in table["uri"].to_pylist()]
        place = table.schema.get_field_index("detections")
        changed = table.set_column(place, table.schema.field(place), pa.array(column, table.schema.field(place).type))
        pq.write_table(changed, path)
    return output


def test_the_truth_fed_back_scores_one_and_a_shuffled_one_does_not(
    finished: Path, scenes: Path, tmp_path: Path
) -> None:
    fed = with_detections(finished, scenes, tmp_path / "fed")
    assert evaluate(scenes, tmp_path / "out", "--from", str(fed)) == 0
    found = result(tmp_path / "out")
    assert found["metrics"]["AP"] == pytest.approx(1.0, abs=1e-9)
    assert found["pictures"] == {"in_data_set": 3, "predicted": 3, "failed": 0, "not_in_data_set": 8}
    assert not any((tmp_path / "out" / "evaluate").glob("worst/*"))
    shuffled = with_detections(finished, scenes, tmp_path / "shuffled", shuffled=True)
    assert evaluate(scenes, tmp_path / "out", "--from", str(shuffled)) == 0
    assert result(tmp_path / "out")["metrics"]["AP"] < 0.2
    drawn = sorted((tmp_path / "out" / "evaluate" / "worst").iterdir())
    assert len(drawn) == 3 and cv2.imread(str(drawn[0])).shape == (160, 160, 3)


def test_a_model_is_predicted_and_evaluated(model_dir: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    options = ["-o", f"Predict.model_dir={model_dir}", "-o", "Predict.backend=paddle"]
    assert evaluate(scenes, tmp_path / "out", *options) == 0
    found = result(tmp_path / "out")
    assert found["done_flag"] is True and 0 <= found["metrics"]["AP"] < 0.3
    assert found["max_detections"] == 500 and list(found["by_class"]) == LABELS
    rows = pq.read_table(tmp_path / "out" / "predictions" / "images")
    assert rows["status"].to_pylist() == ["ok"] * 3 and found["boxes"]["found"] == sum(
        rows["num_detections"].to_pylist()
    )
    for chart in ("precision_recall.png", "confusion.png"):
        assert (tmp_path / "out" / "evaluate" / chart).stat().st_size > 5_000
    said = capsys.readouterr().err
    assert "3 of 3 pictures predicted" in said and "pedestrian" in said and "APt" in said
    assert evaluate(scenes, tmp_path / "out", *options) == 0  # done already: nothing is predicted again
    assert "3 were done before" in capsys.readouterr().err


def test_weights_are_exported_and_evaluated_as_their_folder(
    model_dir: Path, scenes: Path, tmp_path: Path, capsys
) -> None:
    import paddle

    from sodbatch.model.seeded import seeded_state
    from sodbatch.model.spec import NetworkSpec, find_spec

    spec = NetworkSpec(**{**find_spec(TINY).__dict__, "labels": tuple(LABELS)})
    paddle.save(seeded_state(spec), str(tmp_path / "w.pdparams"))
    same = ["-o", f"Global.model={TINY}", "-o", "Predict.backend=paddle"]
    assert evaluate(scenes, tmp_path / "w", "-o", f"Evaluate.weight_path={tmp_path}/w.pdparams", *same) == 0
    assert "they are taken to be the data set's" in capsys.readouterr().err
    assert evaluate(scenes, tmp_path / "m", "-o", f"Predict.model_dir={model_dir}", *same) == 0
    assert result(tmp_path / "w")["metrics"] == pytest.approx(result(tmp_path / "m")["metrics"], abs=2e-3)

    turned = ["bus", "truck", "car", "pedestrian"]  # a training's own names go before any guess
    paddle.save({"labels": turned}, str(tmp_path / "w.pdstates"))
    shutil.rmtree(tmp_path / "w")
    assert evaluate(scenes, tmp_path / "w", "-o", f"Evaluate.weight_path={tmp_path}/w.pdparams", *same) == 0
    told = pq.read_table(tmp_path / "w" / "predictions" / "detections", columns=["cls_id", "label"]).to_pylist()
    assert {(row["cls_id"], row["label"]) for row in told} <= set(enumerate(turned)) and told


def test_classes_that_do_not_match_are_refused_with_both_lists(
    finished: Path, scenes: Path, tiny_model_dir: Path, tmp_path: Path, capsys
) -> None:
    options = ["-o", f"Predict.model_dir={tiny_model_dir}"]
    assert evaluate(scenes, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert "4: pedestrian, car, truck, bus" in error and "10: pedestrian, people" in error and "Evaluate.match" in error
    assert not (tmp_path / "out" / "predictions").exists()


@contextlib.contextmanager
def val_changed(dataset: Path, change: Callable[[dict[str, Any]], None]) -> Iterator[dict[str, Any]]:
    """Change the annotations of the part val for a while."""
    path = dataset / "annotations" / "instance_val.json"
    original = path.read_text()
    content = json.loads(original)
    change(content)
    try:
        path.write_text(json.dumps(content))
        yield content
    finally:
        path.write_text(original)


def test_order_matches_what_names_do_not(finished: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    fed = with_detections(finished, scenes, tmp_path / "fed")

    def shout(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            category["name"] = category["name"].upper()

    with val_changed(scenes, shout):
        assert evaluate(scenes, tmp_path / "out", "--from", str(fed)) == 2
        assert "PEDESTRIAN" in capsys.readouterr().err
        assert evaluate(scenes, tmp_path / "out", "--from", str(fed), "-o", "Evaluate.match=order") == 0
    assert result(tmp_path / "out")["metrics"]["AP"] == pytest.approx(1.0, abs=1e-9)
    assert list(result(tmp_path / "out")["by_class"]) == [label.upper() for label in LABELS]


def test_the_same_ids_of_another_part_are_other_pictures(model_dir: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    options = ["--model-dir", str(model_dir), "--engine", "inline", "-o", "Predict.backend=paddle"]
    of_train = str(scenes / "annotations" / "instance_train.json")
    assert main(["predict", "--input", of_train, "--output", str(tmp_path / "train"), *options]) == 0
    assert evaluate(scenes, tmp_path / "out", "--from", str(tmp_path / "train")) == 2
    assert "none of the pictures" in capsys.readouterr().err
    assert evaluate(scenes, tmp_path / "out", "--from", str(tmp_path / "train"), "-o", "Evaluate.part=train") == 0
    assert result(tmp_path / "out")["pictures"]["predicted"] == 8


def test_pictures_of_one_name_and_id_in_both_parts_are_told_apart(
    model_dir: Path, scenes: Path, tmp_path: Path, capsys
) -> None:
    dataset = shutil.copytree(scenes, tmp_path / "set")
    for part in ("train", "val"):
        path = dataset / "annotations" / f"instance_{part}.json"
        content = json.loads(path.read_text())
        (dataset / "images" / part).mkdir()
        renumbered = {image["id"]: number for number, image in enumerate(content["images"], 1)}
        for image in content["images"]:
            old, image["file_name"] = image["file_name"], f"{part}/{renumbered[image['id']]}.jpg"
            (dataset / "images" / old).rename(dataset / "images" / image["file_name"])
            image["id"] = renumbered[image["id"]]
        for annotation in content["annotations"]:
            annotation["image_id"] = renumbered[annotation["image_id"]]
        path.write_text(json.dumps(content))
    options = ["--model-dir", str(model_dir), "--engine", "inline", "-o", "Predict.backend=paddle"]
    names = [str(dataset / "annotations" / f"instance_{part}.json") for part in ("train", "val")]
    assert main(["predict", "--input", names[0], "--output", str(tmp_path / "train"), *options]) == 0
    assert evaluate(dataset, tmp_path / "none", "--from", str(tmp_path / "train")) == 2
    both = ["-o", f"Predict.input=[{', '.join(names)}]", "--output", str(tmp_path / "both")]
    assert main(["predict", *both, *options]) == 0
    assert evaluate(dataset, tmp_path / "out", "--from", str(tmp_path / "both")) == 0
    assert result(tmp_path / "out")["pictures"] == {
        "in_data_set": 3,
        "predicted": 3,
        "failed": 0,
        "not_in_data_set": 8,
    }


def test_a_run_that_has_not_finished_is_refused(finished: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    begun = shutil.copytree(finished, tmp_path / "begun")
    (begun / "_SUCCESS").unlink()
    assert evaluate(scenes, tmp_path / "out", "--from", str(begun)) == 2
    assert "has not finished" in capsys.readouterr().err


def test_another_data_sets_run_is_refused(finished: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    elsewhere = shutil.copytree(scenes, tmp_path / "set")
    assert evaluate(elsewhere, tmp_path / "out", "--from", str(finished)) == 2
    assert "none of the pictures" in capsys.readouterr().err


def test_failed_pictures_count_as_pictures_without_a_box(model_dir: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    dataset = shutil.copytree(scenes, tmp_path / "set")
    (dataset / "images" / "val_000001.jpg").write_bytes(b"no picture")
    assert (
        evaluate(dataset, tmp_path / "out", "-o", f"Predict.model_dir={model_dir}", "-o", "Predict.backend=paddle") == 3
    )
    assert result(tmp_path / "out")["pictures"] == {"in_data_set": 3, "predicted": 2, "failed": 1, "not_in_data_set": 0}


def test_crowds_are_regions_that_do_not_count(finished: Path, scenes: Path, tmp_path: Path) -> None:
    fed = with_detections(finished, scenes, tmp_path / "fed")

    def crowd(content: dict[str, Any]) -> None:
        for annotation in content["annotations"][::2]:
            annotation["iscrowd"] = 1

    with val_changed(scenes, crowd) as content:
        assert evaluate(scenes, tmp_path / "out", "--from", str(fed)) == 0
    found = result(tmp_path / "out")
    assert found["metrics"]["AP"] == pytest.approx(1.0, abs=1e-9)
    assert found["boxes"]["ignored_regions"] == -(-len(content["annotations"]) // 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "/nowhere"], "there is no such folder"),
        (["--from", "."], "no job has written here"),
        (["-o", "Evaluate.part=test"], "Evaluate.part"),
        (["-o", "Evaluate.weight_path=/nowhere.pdparams", "-o", f"Global.model={TINY}"], "cannot read the weights"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    options: list[str], said: str, scenes: Path, tmp_path: Path, capsys
) -> None:
    assert evaluate(scenes, tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err
