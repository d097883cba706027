"""How the parameters of an `Electra` are split over the axes `fsdp` and `tensor` of a mesh.

Over `tensor` as in Megatron-LM (Shoeybi et al., 2019): queries, keys and values by heads, the feed-forward layer by its
width and the words by number, so that a layer adds up over the devices twice. Over `fsdp` the other axis of each matrix
is split, to store it: a device gathers what it computes with (Zhao et al., PyTorch FSDP, 2023). What is small is whole.

A network with fewer heads than `tensor` has devices is split inside its heads: right, and slower. The 30,522 words
of BERT's vocabulary fall in equal parts on 2, 3 or 6 devices; by any other number they are not split over `tensor`.
"""

import math
from typing import NamedTuple

import jax
from jax.sharding import AxisType, PartitionSpec

# End of a parameter's path, from one of its names on, and the mesh axis of each of its dimensions. The first of a
# layer's is the number of the layer.
RULES = {
    "(query|key|value|intermediate)/kernel": PartitionSpec(None, "fsdp", "tensor"),
    "(query|key|value|intermediate)/bias": PartitionSpec(None, "tensor"),
    "output/kernel": PartitionSpec(None, "tensor", "fsdp"),
    "word/embedding": PartitionSpec("tensor", "fsdp"),
    "(generator|discriminator)_head/bias": PartitionSpec("tensor"),
    "(position|token_type)/embedding": PartitionSpec(None, "fsdp"),
    "(embeddings_project|dense)/kernel": PartitionSpec("fsdp"),
    "(prediction|copy_head)/kernel": PartitionSpec(),
    "(output|embeddings_project|dense|prediction|copy_head)/bias": PartitionSpec(),
    "(attention_)?layer_norm/(scale|bias)": PartitionSpec(),
}


class Split(NamedTuple):
    """The axes of a mesh over which rows and heads are split, and all that XLA splits by."""

    rows: tuple[str, ...] | None
    heads: str | None
    all_axes: set[str]


def split_axes(*, num_rows: int, num_heads: int) -> Split | None:
    """How the mesh of the context splits so many rows and heads; None where there is nothing that XLA splits."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = {name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is not AxisType.Manual}
    if math.prod(mesh.shape[name] for name in axes) == 1:
        return None
    rows = tuple(name for name in ("data", "fsdp") if name in axes)
    has_rows = num_rows % math.prod(mesh.shape[name] for name in rows) == 0
    has_heads = "tensor" in axes and num_heads % mesh.shape["tensor"] == 0
    return Split(rows if rows and has_rows else None, "tensor" if has_heads else None, axes)


def target_platform() -> str:
    """What the program is compiled for, `cpu`, `gpu` or `tpu`: the devices of the context's mesh, or this process's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)
