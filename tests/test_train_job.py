"""The training job: outputs by PaddleX's names, resume after SIGKILL, several workers, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fixtures_s3 import S3Bucket

paddle = pytest.importorskip("paddle")

from sodbatch.cli import main  # noqa: E402
from sodbatch.model.weights import read_pdparams, read_saved  # noqa: E402

TINY = "PP-YOLOE_plus_SOD-tiny"
SETTINGS = {
    "Global.model": TINY,
    "Train.epochs_iters": 3,
    "Train.batch_size": 2,
    "Train.warmup_steps": 3,
    "Train.learning_rate": 0.01,
    "Train.log_interval": 2,
    "Train.static_assigner_epochs": 1,
    "CheckDataset.decode": "false",
}


def arguments(dataset: Path | str, output: Path | str, **changed: object) -> list[str]:
    settings = dict(SETTINGS) | {name.replace("__", "."): value for name, value in changed.items()}
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return ["train", "--dataset-dir", str(dataset), "--output", str(output), "--engine", "inline", *options]


def on_ray(words: list[str]) -> list[str]:
    """The same command without ``--engine inline``."""
    return [word for word in words if word not in ("--engine", "inline")]


def losses(output: Path) -> np.ndarray:
    """Step, learning rate and total loss [n, 3]."""
    table = pq.read_table(output / "losses.parquet")
    return np.stack([table[name].to_numpy() for name in ("step", "learning_rate", "loss")], axis=1)


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of three epochs that nothing disturbed."""
    output = tmp_path_factory.mktemp("trained") / "out"
    assert main(arguments(scenes, output)) == 0
    return output


def test_outputs_have_the_names_of_paddlex(trained: Path) -> None:
    for name in ("0", "1", "model_final", "best_model"):
        assert {file.name for file in (trained / name).iterdir() if file.is_file()} == {
            f"{name}.{suffix}" for suffix in ("pdparams", "pdema", "pdopt", "pdstates")
        }
    result = json.loads((trained / "train_result.json").read_text())
    assert result["done_flag"] is True and result["model_name"] == TINY
    assert list(result["models"]) == ["last_1", "last_2", "last_3", "best"]
    assert result["models"]["last_1"]["pdparams"] == "model_final/model_final.pdparams"
    for files in result["models"].values():
        assert all((trained / path).is_file() for tag, path in files.items() if tag not in ("score", "epoch"))
    assert (trained / "train.log").read_text().count("pictures/s") == 6
    assert "epochs_iters: 3" in (trained / "config.yaml").read_text()
    assert (trained / "losses.png").stat().st_size > 10_000
    assert losses(trained)[:, 0].tolist() == list(range(12))


def test_weights_are_those_that_paddle_reads(trained: Path) -> None:
    path = trained / "best_model" / "best_model.pdparams"
    theirs = paddle.load(str(path), return_numpy=True)
    ours = read_pdparams(path.read_bytes())
    assert set(theirs) == set(ours)
    assert all(np.array_equal(theirs[name], ours[name]) for name in ours)
    assert all(np.isfinite(value).all() for value in ours.values())
    assert ours["yolo_head.pred_cls.0.bias"].shape == (4,)


def test_the_exported_folder_is_ready_for_predict(trained: Path, scenes: Path, tmp_path: Path) -> None:
    folder = trained / "best_model" / "inference"
    assert sorted(file.name for file in folder.iterdir()) == ["inference.json", "inference.pdiparams", "inference.yml"]
    picture = next((scenes / "images").iterdir())
    options = [
        "--model-dir",
        str(folder),
        "--engine",
        "inline",
        "-o",
        "Predict.backend=paddle",
        "-o",
        "Predict.threshold=0",
    ]
    assert main(["predict", "--input", str(picture), "--output", str(tmp_path / "out"), *options]) == 0
    detections = pq.read_table(tmp_path / "out" / "detections")
    assert set(detections["label"].to_pylist()) <= {"pedestrian", "car", "truck", "bus"}


def test_a_training_killed_in_the_middle_goes_on_as_if_it_had_not_been(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "sodbatch", *arguments(scenes, output)]
    environment = os.environ | {"SODBATCH_DEBUG": "0"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        deadline = time.monotonic() + 300
        while not (output / "0" / "0.pdstates").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (output / "train_result.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "goes on from" in again.stderr and "epochs done" in again.stderr
    ours, undisturbed = losses(output), losses(trained)
    assert ours[:, :2].tolist() == undisturbed[:, :2].tolist()
    assert np.allclose(ours[:, 2], undisturbed[:, 2], rtol=2e-2)
    assert "goes on from" in (output / "train.log").read_text()


def test_a_finished_training_is_not_done_again(trained: Path, scenes: Path, tmp_path: Path) -> None:
    output = shutil.copytree(trained, tmp_path / "out")
    before = (output / "model_final" / "model_final.pdparams").read_bytes()
    assert main(arguments(scenes, output)) == 0
    assert (output / "model_final" / "model_final.pdparams").read_bytes() == before


def test_another_trainings_output_is_refused(trained: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(scenes, trained, Train__learning_rate=0.05)) == 2
    error = capsys.readouterr().err
    assert "holds a training with other settings" in error and "Train.resume_path=" in error


def test_a_named_checkpoint_begins_a_training_elsewhere_and_not_beside_another(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {"Train__epochs_iters": 4, "Train__resume_path": trained / "1" / "1.pdparams"}
    assert main(arguments(scenes, trained, **changed)) == 2
    assert "choose another Global.output" in capsys.readouterr().err
    assert main(arguments(scenes, tmp_path / "out", **changed)) == 0
    assert "1/1, 2 epochs done" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "2",
        "best_model",
        "model_final",
    ]


def test_a_named_checkpoint_is_gone_on_from_without_its_best(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = trained / "1" / "1.pdstates"
    begun = shutil.copytree(trained / "1", tmp_path / "1")
    content = paddle.load(str(states)) | {"best_metric": 0.99}
    paddle.save(content, str(begun / "1.pdstates"))
    changed = {"Train__resume_path": begun / "1.pdparams"}
    assert main(arguments(scenes, tmp_path / "out", **changed)) == 0
    assert json.loads((tmp_path / "out" / "train_result.json").read_text())["models"]["best"]["epoch"] == 3
    assert main(arguments(scenes, tmp_path / "more", Train__epochs_iters=2, **changed)) == 2
    assert "has done 2 epochs" in capsys.readouterr().err


def test_trainings_below_an_output_are_others(trained: Path, scenes: Path, tmp_path: Path) -> None:
    inner = shutil.copytree(trained, tmp_path / "inner")
    before = sorted(inner.rglob("*"))
    assert main(arguments(scenes, tmp_path, Train__epochs_iters=1)) == 0
    assert sorted(inner.rglob("*")) == before and len(losses(tmp_path)) == 4


def test_val_is_evaluated_by_the_classes_of_train(trained: Path, scenes: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(scenes, tmp_path / "set")
    path = dataset / "annotations" / "instance_val.json"
    content = json.loads(path.read_text())
    content["categories"].reverse()
    path.write_text(json.dumps(content))
    assert main(arguments(dataset, tmp_path / "out")) == 0
    read = [pq.read_table(output / "evaluations.parquet")["AP"].to_pylist() for output in (trained, tmp_path / "out")]
    assert read[0] == pytest.approx(read[1], abs=1e-4) and max(read[0]) > 0


def test_a_changed_data_set_is_another_training(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, output = (shutil.copytree(each, tmp_path / each.name) for each in (scenes, trained))
    assert main(arguments(dataset, tmp_path / "mine", Train__epochs_iters=1)) == 0
    path = dataset / "annotations" / "instance_train.json"
    content = json.loads(path.read_text())
    content["images"].reverse()
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(arguments(dataset, tmp_path / "mine", Train__epochs_iters=1)) == 2
    assert "other settings or another data set;" in capsys.readouterr().err
    assert main(arguments(scenes, output, Train__learning_rate=0.02)) == 2
    assert "(Train.learning_rate = 0.01 there, 0.02 here)" in capsys.readouterr().err


def test_pretrained_weights_of_other_classes_say_what_they_could_not_give(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_saved((trained / "best_model" / "best_model.pdparams").read_bytes())
    for level in range(3):
        for kind in ("weight", "bias"):
            name = f"yolo_head.pred_cls.{level}.{kind}"
            content[name] = np.concatenate([content[name]] * 20)
    content["backbone.old.weight"] = np.zeros(3, np.float32)
    paddle.save(content, str(tmp_path / "other.pdparams"))
    changed = {"Train__pretrain_weight_path": tmp_path / "other.pdparams", "Train__epochs_iters": 1}
    assert main(arguments(scenes, tmp_path / "out", **changed)) == 0
    error = capsys.readouterr().err
    assert "6 names of another shape, which begin anew: yolo_head.pred_cls.0.weight" in error
    assert "1 names only in the file, which are not used: backbone.old.weight" in error


def test_a_data_set_with_errors_is_not_trained_on(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = shutil.copytree(scenes, tmp_path / "set")
    path = dataset / "annotations" / "instance_train.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["bbox"][2] = -4
    content["annotations"][5]["image_id"] = 99
    path.write_text(json.dumps(content))
    assert main(arguments(dataset, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "the data set has 2 errors" in error and "annotation 4" in error and "annotation 6" in error
    assert not (tmp_path / "out" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"Train__num_classes": 10}, "Train.num_classes = 10, but the data set has 4 categories"),
        ({"Train__batch_size": 9}, "the part train has 8 pictures"),
        ({"Train__amp": "O1", "Global__device": "cpu"}, "needs a GPU"),
        ({"Global__model": "PP-YOLO"}, "expected one of"),
        ({"Train__resume_path": "/nowhere/1.pdparams"}, "1.pdparams: there is no such checkpoint"),
        ({"Train__pretrain_weight_path": "/nowhere/1.pdparams"}, "cannot read the weights /nowhere/1.pdparams"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    changed: dict[str, object], said: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(scenes, tmp_path / "out", **changed)) == 2
    assert said in capsys.readouterr().err


def test_a_checkpoint_of_anything_but_arrays_is_refused(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(trained, tmp_path / "out")
    (output / "model_final" / "model_final.pdstates").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    assert main(arguments(scenes, output)) == 2
    assert "os.system" in capsys.readouterr().err and not Path("/tmp/owned").exists()


def test_a_training_on_s3_goes_on_there_and_its_weights_are_evaluated_from_there(
    scenes: Path, s3_bucket: S3Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in scenes.rglob("*"):
        if file.is_file():
            s3_bucket.put(f"set/{file.relative_to(scenes)}", file.read_bytes())
    keys = {"S3__endpoint_url": s3_bucket.endpoint, "S3__region": "us-east-1"}
    dataset, output = f"{s3_bucket.url}/set", f"{s3_bucket.url}/out"
    command = arguments(dataset, output, Train__epochs_iters=2, **keys)
    assert main(command) == 0
    undisturbed = read_pdparams(s3_bucket.get("out/model_final/model_final.pdparams"))
    client = s3_bucket.client()
    for each in client.list_objects_v2(Bucket=s3_bucket.name, Prefix="out/")["Contents"]:
        if not each["Key"].startswith(("out/0/", "out/losses.", "out/evaluations.")):  # a kill in the second epoch
            client.delete_object(Bucket=s3_bucket.name, Key=each["Key"])
    capsys.readouterr()
    assert main(command) == 0
    assert f"goes on from {output}/0/0, 1 epochs done" in capsys.readouterr().err
    end = read_pdparams(s3_bucket.get("out/model_final/model_final.pdparams"))
    assert all(np.allclose(end[name], undisturbed[name], rtol=1e-3, atol=1e-4) for name in undisturbed)

    options = [word for name, value in keys.items() for word in ("-o", f"{name.replace('__', '.')}={value}")]
    weights = f"Evaluate.weight_path={output}/best_model/best_model.pdparams"
    words = ["evaluate", "--dataset-dir", dataset, "--output", f"{s3_bucket.url}/figures", "--engine", "inline"]
    assert main([*words, "-o", f"Global.model={TINY}", "-o", weights, "-o", "Predict.backend=paddle", *options]) == 0
    result = json.loads(s3_bucket.get("figures/evaluate_result.json"))
    told = json.loads(s3_bucket.get("out/train_result.json"))["models"]["best"]["score"]
    assert result["pictures"]["predicted"] == 3
    assert result["metrics"]["AP"] == pytest.approx(told, abs=1e-4)


def test_two_workers_learn_what_one_learns_from_twice_the_batch(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.train.v2")
    changed = {"Train__batch_size": 1, "Train__epochs_iters": 2, "Resources__actors": 2}
    monkeypatch.chdir(scenes.parent)  # Ray's workers run elsewhere, and find what is named from here
    output = os.path.relpath(tmp_path / "two")
    assert main(on_ray(arguments(scenes.name, output, **changed))) == 0
    assert main(arguments(scenes, tmp_path / "one", Train__epochs_iters=2)) == 0
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert two[:, :2].tolist() == one[:, :2].tolist() and len(one) == 8
    assert np.allclose(two[:, 2], one[:, 2], rtol=2e-2)
    first = slice(0, 2)
    assert np.allclose(two[first, 2], one[first, 2], rtol=1e-4)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_anew_from_the_last_checkpoint(scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = on_ray(arguments(scenes, output, Resources__actors=2, Train__batch_size=1))
    with subprocess.Popen([sys.executable, "-m", "sodbatch", *options], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 400
        while not (output / "0" / "0.pdstates").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        workers = subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, text=True).stdout.split()
        assert workers
        os.kill(int(workers[-1]), signal.SIGKILL)
        error = process.communicate(timeout=600)[1]
    assert process.returncode == 0, error
    assert "goes on from" in error
    assert losses(output)[:, 0].tolist() == list(range(12))
