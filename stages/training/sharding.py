"""How a state lies on a mesh: every parameter's axes by the one rule for its path."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stages.training.optimizer import parameter_paths

Rules = Mapping[str, PartitionSpec]


def make_shardings(tree: Any, *, rules: Rules, mesh: Mesh) -> Any:
    """A tree like `tree` of shardings.

    Of an optimizer's state the paths end with those of the parameters, so that it lies as they do. A scalar is whole
    on every device, and so is a dimension that the devices of its axis do not divide.

    Args:
      tree: Parameters, or a state with parameters in it: arrays or their shapes.
      rules: By pattern of the end of a path, from one of its names on: the mesh axis of each dimension.

    Raises:
      ValueError: A path that no rule is for, or more than one.
    """

    def sharding(path: str, leaf: Any) -> NamedSharding:
        if leaf.ndim == 0:
            return NamedSharding(mesh, PartitionSpec())
        found = [spec for pattern, spec in rules.items() if re.fullmatch(f"(.*/)?({pattern})", path)]
        if len(found) != 1:
            raise ValueError(f"{path}: {len(found)} sharding rules are for this parameter, must be one")
        axes = (*found[0], *[None] * (leaf.ndim - len(found[0])))
        parts = [1 if axis is None else mesh.shape[axis] for axis in axes]
        fitting = [
            axis if num > 1 and size % num == 0 else None
            for axis, num, size in zip(axes, parts, leaf.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree.map(sharding, parameter_paths(tree), tree)
