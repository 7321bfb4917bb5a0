from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.config import ResourcesSection
from sodbatch.engine.resources import ActorPlan, Node, plan_actors, plan_workers
from sodbatch.errors import UsageError

AUTO = ResourcesSection()


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([Node(1)], ActorPlan(1, 1, 0, 0, 1)),
        ([Node(2)], ActorPlan(1, 1, 1.1, 0, 2)),
        ([Node(4)], ActorPlan(1, 1, 3.1, 0, 4)),
        ([Node(16)], ActorPlan(2, 2, 7.05, 0, 8)),
        ([Node(0)] + [Node(16)] * 100, ActorPlan(200, 200, 7.05, 0, 8)),
    ],
)
def test_cpu_pools(nodes: list[Node], expected: ActorPlan) -> None:
    assert plan_actors(nodes, AUTO, "cpu") == expected


@pytest.mark.parametrize(
    ("nodes", "options", "actors", "gpus"),
    [
        ([Node(16, 1)], {}, 1, 1.0),
        ([Node(32, 4)] * 3, {}, 12, 1.0),
        ([Node(16, 2)], {"gpus_per_actor": 0.5}, 4, 0.5),
        ([Node(0), Node(16, 1), Node(16)], {}, 1, 1.0),
    ],
)
def test_gpu_pools(nodes: list[Node], options: dict[str, float], actors: int, gpus: float) -> None:
    plan = plan_actors(nodes, ResourcesSection(**options), "gpu")
    assert (plan.min_actors, plan.gpus) == (actors, gpus)


@given(
    st.lists(st.builds(Node, st.integers(1, 256), st.integers(0, 8)), min_size=1, max_size=50),
    st.sampled_from(["cpu", "gpu"]),
)
def test_a_cpu_is_always_left_to_the_other_stages(nodes: list[Node], device: str) -> None:
    if device == "gpu" and not any(node.gpus for node in nodes):
        with pytest.raises(UsageError, match="the cluster shows no GPU"):
            plan_actors(nodes, AUTO, device)
        return
    total = sum(node.cpus for node in nodes)
    plan = plan_actors(nodes, AUTO, device)
    assert plan.min_actors >= 1 and plan.threads >= 1
    assert plan.min_actors * plan.cpus <= total - min(0.9, total / 2) + 1e-6


@given(st.integers(2, 256))
def test_on_one_machine_all_cores_infer(cores: int) -> None:
    plan = plan_actors([Node(cores)], AUTO, "cpu")
    assert 0.75 * cores <= plan.min_actors * plan.threads <= cores


def test_no_more_gpus_are_used_than_named() -> None:
    assert plan_actors([Node(16, 4)], AUTO, "gpu", max_gpus=2).min_actors == 2


def test_a_cluster_without_workers_needs_to_be_told_what_it_scales_up_to() -> None:
    with pytest.raises(UsageError, match="scales up from nothing"):
        plan_actors([Node(0)], AUTO, "cpu")
    told = ResourcesSection(actors=(1, 100), cpus_per_actor=4)
    assert plan_actors([Node(0)], told, "cpu") == ActorPlan(1, 100, 4, 0, 4)
    assert plan_actors([Node(0)], ResourcesSection(actors=(1, 8)), "gpu").max_actors == 8


def test_what_the_configuration_names_is_taken() -> None:
    named = ResourcesSection(actors=(2, 9), cpus_per_actor=1.5, threads_per_actor=3)
    assert plan_actors([Node(8)], named, "cpu") == ActorPlan(2, 9, 1.5, 0, 3)


def test_actors_that_would_take_every_cpu_are_refused() -> None:
    with pytest.raises(UsageError, match="leave at least 0.9"):
        plan_actors([Node(2)], ResourcesSection(actors=2), "cpu")


@given(st.integers(2, 16), st.integers(2, 100))
def test_when_a_machine_dies_its_actors_do_not_fit_into_what_the_others_keep_free(cores: int, machines: int) -> None:
    plan = plan_actors([Node(cores)] * machines, AUTO, "cpu")
    free = cores - plan.min_actors // machines * plan.cpus
    assert AUTO.cpus_per_load_task - 1e-6 <= free < plan.cpus


@pytest.mark.parametrize(
    ("nodes", "device", "actors", "batch_size", "expected"),
    [
        ([Node(2)], "cpu", "auto", 8, (2, 4, 0.0, 1)),
        ([Node(2)], "auto", "auto", 1, (1, 1, 0.0, 2)),
        ([Node(8)], "cpu", "auto", 6, (6, 1, 0.0, 1)),
        ([Node(4), Node(16)], "cpu", "auto", 6, (6, 2, 0.0, 1)),
        ([Node(2)], "cpu", 3, 2, (3, 2, 0.0, 1)),
        ([Node(16, 4)], "auto", "auto", 2, (4, 2, 1.0, 4)),
        ([Node(16, 4), Node(16, 4)], "gpu", "auto", 2, (8, 2, 1.0, 4)),
        ([Node(16, 4)], "gpu:0,1", "auto", 2, (2, 2, 1.0, 4)),
        ([Node(16, 4)], "cpu", "auto", 4, (4, 1, 0.0, 4)),
    ],
)
def test_workers_of_a_training_share_out_a_batch_on_cpus_and_have_one_each_on_gpus(
    nodes: list[Node],
    device: str,
    actors: object,
    batch_size: int,
    expected: tuple[int, int, float, int],
) -> None:
    workers = plan_workers(nodes, ResourcesSection(actors=actors), device, batch_size)
    assert (workers.count, workers.batch_size, workers.gpus, workers.threads) == expected
    assert workers.count * workers.cpus <= sum(node.cpus for node in nodes)
