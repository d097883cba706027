"""The mesh of all devices of all processes, and how arrays lie on it."""

from collections.abc import Callable
from typing import Any

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


def in_context(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """`function`, to be compiled for global arrays on `mesh`: kernels, which XLA cannot divide, read it to do so."""
    if mesh is None:
        return function

    def run(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return run
