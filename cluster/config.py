"""The resources of a run. Never part of a stage's identity: the same work on other machines is the same work."""

from dataclasses import dataclass, field
from enum import StrEnum


class Platform(StrEnum):
    """The kind of device that JAX computes on."""

    CPU = "cpu"
    CUDA = "cuda"
    TPU = "tpu"


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices of all processes share a pretraining step; those left over make the axis `data`.

    Attributes:
      fsdp: Devices among which parameters, gradients and optimizer state are split; each has rows of its own too.
      tensor: Devices among which heads, feed-forward and vocabulary are split; they compute on the same rows.
    """

    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for name in ("fsdp", "tensor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")

    def shape(self, *, num_devices: int, num_processes: int) -> tuple[int, int, int]:
        """Sizes of the axes `data`, `fsdp` and `tensor`.

        Raises:
          ValueError: They do not divide the devices, or rows would be shared by devices of several processes.
        """
        if num_devices % (self.fsdp * self.tensor):
            raise ValueError(
                f"cluster.mesh has fsdp {self.fsdp} x tensor {self.tensor} = {self.fsdp * self.tensor}, "
                f"must divide the {num_devices} devices"
            )
        if num_devices // num_processes % self.tensor:
            raise ValueError(
                f"cluster.mesh.tensor is {self.tensor}, must divide the {num_devices // num_processes} devices of a "
                "process: it reads rows for all of them"
            )
        return num_devices // (self.fsdp * self.tensor), self.fsdp, self.tensor


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Machines and processes.

    Attributes:
      address: Ray cluster to join: `auto`, `host:port`, or None for the one of this job or a new local one.
      platform: Device kind of the training processes.
      num_processes: JAX processes that pretrain together; on accelerators one per host, which owns all its devices.
      finetune_processes: JAX processes of each fine-tuning, except probes. A single one has one accelerator, several
        have `accelerators_per_process` each.
      cpus_per_process: CPU cores that each of them reserves.
      accelerators_per_process: GPUs or TPU chips that each of them reserves; 0 on CPU.
      mesh: How the devices of all processes share the work of a step.
      max_failures: How often lost workers are replaced before the stage fails; -1 is for ever.
      compilation_cache: Folder of JAX's persistent compilation cache, or None for none.
      env: Further environment variables of the training processes. Ray writes them to its logs: secrets are better set
        on the machines.
    """

    address: str | None = None
    platform: Platform = Platform.CPU
    num_processes: int = 1
    finetune_processes: int = 1
    cpus_per_process: int = 1
    accelerators_per_process: int = 0
    mesh: MeshConfig = field(default_factory=MeshConfig)
    max_failures: int = 3
    compilation_cache: str | None = "~/.cache/electra-pipeline/jax"
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_processes", "finetune_processes", "cpus_per_process"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.max_failures < -1:
            raise ValueError(f"max_failures is {self.max_failures}, must be -1 (for ever), 0 or more")
        if self.platform is Platform.CPU and self.accelerators_per_process:
            raise ValueError("accelerators_per_process needs platform cuda or tpu, platform is cpu")
        if self.platform is not Platform.CPU and not self.accelerators_per_process:
            raise ValueError(f"platform {self.platform} needs accelerators_per_process of at least 1")
        _ = self.batch_parts  # checks the mesh

    @property
    def batch_parts(self) -> int:
        """A divisor of the number of parts in which the devices of a pretraining step share its rows.

        On CUDA that number itself; elsewhere only JAX knows how many devices a process has, which is at least one for
        each group of `mesh.tensor`.
        """
        if self.platform is not Platform.CUDA:
            return self.num_processes
        num_devices = self.num_processes * self.accelerators_per_process
        data, fsdp, _ = self.mesh.shape(num_devices=num_devices, num_processes=self.num_processes)
        return data * fsdp
