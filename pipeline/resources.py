"""What stages ask of the cluster, and whether it has as much."""

import os
from collections.abc import Sequence
from typing import Any

from cluster.config import ClusterConfig, Platform
from pipeline.node import Stage

_ACCELERATORS = {Platform.CUDA: "GPU", Platform.TPU: "TPU"}


def task_resources(stage: Stage, cluster: ClusterConfig) -> dict[str, float]:
    """What the stage's own task reserves: nothing if it only waits for processes that it starts."""
    if stage.num_processes:
        return {"CPU": 0}
    resources: dict[str, float] = {"CPU": cluster.cpus_per_process if stage.num_cpus is None else stage.num_cpus}
    if stage.accelerated and (name := _ACCELERATORS.get(cluster.platform)):
        resources[name] = 1 if name == "GPU" else cluster.accelerators_per_process
    return resources


def process_resources(num_processes: int, cluster: ClusterConfig) -> dict[str, float]:
    """What all processes that a stage starts reserve together."""
    resources: dict[str, float] = {"CPU": num_processes * cluster.cpus_per_process}
    if cluster.platform in _ACCELERATORS:
        resources[_ACCELERATORS[cluster.platform]] = num_processes * cluster.accelerators_per_process
    return resources


def find_shortages(stages: Sequence[Stage], cluster: ClusterConfig, *, available: dict[str, float]) -> list[str]:
    """A message for each stage that asks for more than the whole cluster has: it would wait until machines join."""
    shortages = []
    for stage in stages:
        num_processes = stage.num_processes
        wanted = process_resources(num_processes, cluster) if num_processes else task_resources(stage, cluster)
        lacking = {name: amount for name, amount in wanted.items() if amount > available.get(name, 0)}
        if lacking:
            asked = ", ".join(f"{amount:g} {name}" for name, amount in lacking.items())
            has = ", ".join(f"{available.get(name, 0):g} {name}" for name in lacking)
            key = "num_processes" if stage.name == "pretrain" else "finetune_processes"
            each = f"cluster.cpus_per_process = {cluster.cpus_per_process}"
            how = f" (cluster.{key} = {num_processes} x {each})" if num_processes else ""
            shortages.append(f"{stage.name} asks for {asked}{how}, the cluster has {has}")
    return shortages


def is_own_cluster(cluster: ClusterConfig) -> bool:
    """Whether the run starts its own cluster on this machine, which no other machine will join."""
    return (cluster.address or os.environ.get("RAY_ADDRESS") or "local") == "local"


def cluster_resources() -> dict[str, Any]:
    """All that the connected cluster has."""
    import ray

    return dict(ray.cluster_resources())
