"""Finds the `--set`s with which a config runs on a machine that has less than the config asks for."""

from collections.abc import Callable, Collection, Mapping, Sequence

from cluster.config import ClusterConfig, Platform
from pipeline.config.errors import UsageError
from pipeline.config.sections import PipelineConfig
from pipeline.dag import build_stages
from pipeline.resources import find_shortages

_ACCELERATORS = {Platform.CUDA: "GPU", Platform.TPU: "TPU"}


def fit(
    load: Callable[[Sequence[str]], PipelineConfig],
    cluster: ClusterConfig,
    *,
    chosen: Collection[str],
    available: Mapping[str, float],
) -> list[str]:
    """The fewest overrides of `cluster.*` under which the chosen stages fit; none where nothing helps.

    Args:
      load: Loads the config with further overrides, and raises UsageError where they make it a wrong one.
      cluster: What the config asks for.
      chosen: Names of the stages to run.
      available: What the whole cluster has.
    """
    cpus = int(available.get("CPU", 0))
    for num_processes in range(min(cluster.num_processes, cpus), 0, -1):
        wanted = _with(cluster, num_processes=num_processes, cpus=cpus, available=available)
        overrides = [f"cluster.{key}={value}" for key, value in wanted.items()]
        try:
            config = load(overrides)
        except UsageError:  # the batch is no multiple of so many processes, say
            continue
        stages = [stage for stage in build_stages(config) if stage.name in chosen]
        if not find_shortages(stages, config.cluster, available=dict(available)):
            return overrides
    return []


def _with(
    cluster: ClusterConfig, *, num_processes: int, cpus: int, available: Mapping[str, float]
) -> dict[str, str | int]:
    """The values that differ from the config's, with so many processes."""
    finetune_processes = min(cluster.finetune_processes, num_processes)
    values: dict[str, str | int] = {
        "num_processes": num_processes,
        "finetune_processes": finetune_processes,
        "cpus_per_process": min(cluster.cpus_per_process, cpus // max(num_processes, finetune_processes)),
    }
    before: dict[str, str | int] = {name: getattr(cluster, name) for name in values}
    if name := _ACCELERATORS.get(cluster.platform):
        each = min(cluster.accelerators_per_process, int(available.get(name, 0)) // num_processes)
        before |= {"platform": str(cluster.platform), "accelerators_per_process": cluster.accelerators_per_process}
        values |= {"platform": str(cluster.platform if each else Platform.CPU), "accelerators_per_process": each}
        if each != cluster.accelerators_per_process:  # other devices: the mesh must divide them
            before |= {"mesh.fsdp": cluster.mesh.fsdp, "mesh.tensor": cluster.mesh.tensor}
            values |= {"mesh.fsdp": 1, "mesh.tensor": 1}
    return {name: value for name, value in values.items() if value != before[name]}
