"""cluster.yaml is a cluster that Ray's own validator accepts, and the one the README describes."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """cluster.yaml, with Ray's defaults filled in and validated by Ray."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared = prepare_config(copy.deepcopy(given))
    validate_config(prepared)
    return prepared


def test_validator_is_awake(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(Exception, match="max_workerz"):
        validate_config(cluster | {"max_workerz": 3})


def test_head_takes_no_work(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0


def test_workers_scale_from_min_to_max(cluster: dict[str, Any]) -> None:
    groups = {name: group for name, group in cluster["available_node_types"].items() if name != "head"}
    assert groups.keys() == {"cpu", "gpu"}
    for group in groups.values():
        assert 0 <= group["min_workers"] < group["max_workers"] <= cluster["max_workers"]


def test_ray_is_the_pinned_one(cluster: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    images = [cluster["docker"]["image"], cluster["available_node_types"]["gpu"]["docker"]["worker_image"]]
    assert all(f"rayproject/ray:{pinned[1]}-py311-" in image for image in images)


def test_every_machine_installs_sodbatch_from_the_checkout(cluster: dict[str, Any]) -> None:
    commands = [
        cluster["head_setup_commands"],
        cluster["worker_setup_commands"],
        cluster["available_node_types"]["gpu"]["worker_setup_commands"],
    ]
    mounted = [target for target, source in cluster["file_mounts"].items() if source == "."]
    assert mounted == ["~/sodbatch"]
    assert [
        re.search(r"cd ~/sodbatch && pip install '\.\[(.*)\]' -c constraints.txt", lines[-1])[1]  # type: ignore[index]
        for lines in commands
    ] == ["cpu,s3", "cpu,s3", "gpu,s3"]


def test_usage_reports_are_off(cluster: dict[str, Any]) -> None:
    starts = [cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]]
    assert all(re.match(r"RAY_USAGE_STATS_ENABLED=0 (\S+=\S+ )*ray start", command) for command in starts)


def test_kuberay_job_has_a_head_without_work_and_the_pinned_ray() -> None:
    job = yaml.safe_load((ROOT / "examples" / "kuberay-job.yaml").read_text())
    spec = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert f"ray=={spec['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] <= group["maxReplicas"] for group in spec["workerGroupSpecs"])
