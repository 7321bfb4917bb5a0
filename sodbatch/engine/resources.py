"""Resources: from what a cluster has to actors, CPUs and threads. Arithmetic only, without Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sodbatch.config import ResourcesSection
from sodbatch.errors import UsageError

MAX_CPUS_PER_ACTOR = 8
"""A detector's requests scale well to about this many threads of one process."""


CLEARANCE = 0.1
"""CPUs that the actors of one machine reserve together beyond their own, so that the actors of a machine that died do
not fit into what the others keep free for reading: with nothing read, all would wait for ever."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class ActorPlan:
    """The pool of actors that hold the detector.

    Attributes:
        min_actors: Actors that are started at once.
        max_actors: Actors that an autoscaling cluster may grow to.
        cpus: CPUs that each reserves; at least one CPU of the cluster is left to the other stages.
        gpus: GPUs that each reserves.
        threads: Threads that each runs: all of the machine's cores infer, since the other stages take a few per cent.
    """

    min_actors: int
    max_actors: int
    cpus: float
    gpus: float
    threads: int

    def __str__(self) -> str:
        most = "" if self.min_actors == self.max_actors else f" to {self.max_actors}"
        each = f"{self.cpus:g} CPUs" + (f", {self.gpus:g} GPUs" if self.gpus else "")
        return f"{self.min_actors}{most} actors of {each} and {self.threads} threads"


@dataclass(frozen=True)
class Workers:
    """The workers of a training.

    Attributes:
        count: Their number.
        batch_size: Pictures that each takes in a step.
        cpus: CPUs that each reserves.
        gpus: GPUs that each reserves.
        threads: Threads that each runs.
    """

    count: int
    batch_size: int
    cpus: float
    gpus: float
    threads: int

    def __str__(self) -> str:
        where = f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        return f"{self.count} workers of {where} and {self.threads} threads, {self.batch_size} pictures a step each"


def plan_workers(nodes: list[Node], resources: ResourcesSection, device: str, batch_size: int) -> Workers:
    """Derive the workers of a training: one a GPU, each with ``batch_size`` pictures; or on CPUs.

    There Paddle learns mostly on one core of a process, so that each machine's ``batch_size`` pictures are shared out
    among as many workers as divide it: together they learn what one would. With ``Resources.actors`` that many workers
    take ``batch_size`` each.

    Args:
        nodes: The machines that are up.
        resources: The configuration's ``Resources`` section.
        device: ``Global.device``.
        batch_size: ``Train.batch_size``.
    """
    actors = resources.actors
    asked = actors if isinstance(actors, int) else actors[1] if isinstance(actors, tuple) else None
    gpus = int(sum(node.gpus for node in nodes))
    if device.startswith("gpu") or (device == "auto" and gpus):
        listed = len(device.partition(":")[2].split(",")) if ":" in device else gpus
        threads = min((int(node.cpus / node.gpus) for node in nodes if node.gpus), default=1)
        return Workers(asked or max(1, listed), batch_size, 1.0, 1.0, max(1, threads))
    machines = [int(node.cpus) for node in nodes if node.cpus >= 1] or [1]
    if asked is not None:
        cpus = sum(machines) / asked
        return Workers(asked, batch_size, min(1.0, cpus), 0.0, max(1, int(cpus)))
    shares = max(share for share in range(1, min(machines) + 1) if batch_size % share == 0)
    threads = min(machines) // shares
    return Workers(len(machines) * shares, batch_size // shares, float(threads), 0.0, threads)


def plan_actors(nodes: list[Node], resources: ResourcesSection, device: str, max_gpus: int | None = None) -> ActorPlan:
    """Derive the pool from the cluster; what the configuration names is taken as it is.

    Args:
        nodes: The machines that are up.
        resources: The configuration's ``Resources`` section.
        device: ``cpu`` or ``gpu``.
        max_gpus: The most GPUs to use.

    Raises:
        UsageError: The cluster has no GPU, or no CPU, and the configuration does not say what it scales up to; or the
            actors asked for would take every CPU.
    """
    total_cpus = sum(node.cpus for node in nodes)
    gpus = resources.gpus_per_actor if device == "gpu" else 0.0
    if device == "gpu":
        actors, cpus, threads = _on_gpus(nodes, resources, total_cpus, max_gpus)
    else:
        actors, cpus, threads = _on_cpus(nodes, resources)
    fewest = most = actors
    if resources.actors != "auto":
        fewest, most = resources.actors if isinstance(resources.actors, tuple) else (resources.actors, resources.actors)
    if resources.cpus_per_actor != "auto":
        cpus = resources.cpus_per_actor
    if resources.threads_per_actor != "auto":
        threads = resources.threads_per_actor
    left = min(resources.cpus_per_load_task, total_cpus / 2)
    if total_cpus > 0 and fewest * cpus > total_cpus - left + 1e-6:
        raise UsageError(
            f"Resources: {fewest} actors of {cpus:g} CPUs take all {total_cpus:g} CPUs of the cluster; leave at least "
            f"{left:g} to reading and writing (lower Resources.actors or Resources.cpus_per_actor)"
        )
    return ActorPlan(fewest, most, cpus, gpus, threads)


def _on_cpus(nodes: list[Node], resources: ResourcesSection) -> tuple[int, float, int]:
    """Give each machine as few actors of at most eight CPUs as fill it, less an eighth for reading and writing."""
    if not any(node.cpus for node in nodes):
        if resources.actors == "auto" or resources.cpus_per_actor == "auto":
            raise UsageError(
                "no machine of the cluster offers CPUs; where it scales up from nothing, name Resources.actors (such "
                "as [1, 100]) and Resources.cpus_per_actor (such as 4)"
            )
        return 1, resources.cpus_per_actor, max(1, int(resources.cpus_per_actor))
    sizes = [int(node.cpus) for node in nodes if node.cpus >= 2]
    if not sizes:
        return 1, 0.0, 1
    smallest = min(sizes)
    free = smallest - max(1, smallest // 8)
    cpus = free // math.ceil(free / MAX_CPUS_PER_ACTOR)
    actors = [(size - max(1, size // 8)) // cpus for size in sizes]
    return sum(actors), cpus + CLEARANCE / max(actors), max(1, smallest // (free // cpus))


def _on_gpus(
    nodes: list[Node], resources: ResourcesSection, total_cpus: float, max_gpus: int | None
) -> tuple[int, float, int]:
    """Give each GPU, or each share of one, an actor; they split what CPUs there are, at most one each."""
    actors = sum(int(node.gpus / resources.gpus_per_actor) for node in nodes)
    if max_gpus is not None:
        actors = min(actors, int(max_gpus / resources.gpus_per_actor))
    if actors == 0 and resources.actors == "auto":
        raise UsageError(
            "Global.device is gpu, but the cluster shows no GPU that is large enough for Resources.gpus_per_actor; use "
            "Global.device=cpu, or name Resources.actors (such as [1, 8]) where the cluster scales up"
        )
    actors = max(1, actors)
    return actors, min(1.0, max(0.0, total_cpus - 1) / actors), 2
