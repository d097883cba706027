"""What a run may use. Never part of a stage's identity: the same work on other machines is the same work."""

from dataclasses import dataclass, field
from enum import StrEnum


class Platform(StrEnum):
    """The kind of device that JAX computes on."""

    CPU = "cpu"
    CUDA = "cuda"
    TPU = "tpu"


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Machines and processes.

    Attributes:
      address: Ray cluster to join: `auto`, `host:port`, or None for the one of this job or a new local one.
      platform: Device kind of the training processes.
      num_processes: JAX processes that pretrain together; on accelerators one a host, owning all its devices.
      cpus_per_process: CPU cores that each of them reserves.
      accelerators_per_process: GPUs or TPU chips that each of them reserves; 0 on CPU.
      max_failures: How often lost workers are replaced before the stage fails; -1 is for ever.
      compilation_cache: Folder of JAX's persistent compilation cache, or None for none.
      env: Further environment variables of the training processes.
    """

    address: str | None = None
    platform: Platform = Platform.CPU
    num_processes: int = 1
    cpus_per_process: int = 1
    accelerators_per_process: int = 0
    max_failures: int = 3
    compilation_cache: str | None = "~/.cache/electra-pipeline/jax"
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise ValueError(f"num_processes is {self.num_processes}, must be at least 1")
        if self.cpus_per_process < 1:
            raise ValueError(f"cpus_per_process is {self.cpus_per_process}, must be at least 1")
        if self.max_failures < -1:
            raise ValueError(f"max_failures is {self.max_failures}, must be -1 (for ever), 0 or more")
        if self.platform is Platform.CPU and self.accelerators_per_process:
            raise ValueError("accelerators_per_process needs platform cuda or tpu, platform is cpu")
        if self.platform is not Platform.CPU and not self.accelerators_per_process:
            raise ValueError(f"platform {self.platform} needs accelerators_per_process of at least 1")
