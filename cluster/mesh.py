"""The mesh of all devices of all processes, and how arrays lie on it."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cluster.config import MeshConfig

ROWS = PartitionSpec(("data", "fsdp"))


def make_mesh(config: MeshConfig | None = None) -> Mesh:
    """Axes `data`, `fsdp` and `tensor` over every device of every process, process 0 first; by default all are `data`.

    Raises:
      ValueError: The devices there are cannot be arranged so.
    """
    shape = (config or MeshConfig()).shape(num_devices=jax.device_count(), num_processes=jax.process_count())
    # nnx.Embed fails on sharded ids under explicit axes, the default of jax.make_mesh.
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def is_split(mesh: Mesh) -> bool:
    """Whether it splits more than the rows of a batch."""
    return mesh.shape["data"] < mesh.size


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over `data` and `fsdp`."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
