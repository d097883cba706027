"""The model of a task, its loss, its answers, and how fast each layer learns.

B batch, T tokens.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from cluster.mesh import in_context, replicated
from stages.electra.config import ElectraConfig, HeadKind
from stages.electra.joint_model import Params, merge, split
from stages.electra.layout import segments
from stages.tasks.base import load_work
from stages.tasks.kinds import TaskKind
from stages.tasks.prediction import Predict
from stages.training.keys import Stream, stream_key
from stages.training.state import Batch, LossFn, Sums, Total


def init_model(
    kind: TaskKind,
    *,
    config: ElectraConfig,
    num_labels: int,
    seed: int,
    backbone: Params | None = None,
    head: HeadKind = HeadKind.HUGGINGFACE,
) -> tuple[nnx.GraphDef, Params]:
    """Structure and parameters of a task's model; `backbone` replaces its random embeddings and encoder.

    The head depends on the seed alone, not on whether there is a backbone: so two runs that differ in the
    backbone differ in nothing else.
    """
    key = stream_key(seed, Stream.FINETUNING_WEIGHTS)
    config = config.change(num_labels=num_labels)
    graphdef, params = split(load_work(kind).make_network(config, head, key))
    if backbone is None:
        return graphdef, params
    for name in ("embeddings", "encoder"):
        expected, found = _shapes(params[name]), _shapes(backbone[name])
        assert expected == found, (name, expected, found)  # load_backbone read both from one config
    return graphdef, params | {name: jax.tree.map(jnp.asarray, backbone[name]) for name in ("embeddings", "encoder")}


def _shapes(tree: Params) -> Params:
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


def make_layer_scale(*, num_layers: int, decay: float, offset: int) -> Callable[[str], float]:
    """Factor on the learning rate of the parameter at a path: decay^(depth of the head - its own depth).

    Depth is 0 for the embeddings and their projection, i + 1 for layer i, num_layers + offset for the head:
    the paper's offset is 1, its code's 2 (google-research/electra issue 51).

    Raises:
      ValueError: A path that belongs to none of these.
    """

    def scale(path: str) -> float:
        return decay ** (num_layers + offset - depth(path))

    def depth(path: str) -> int:
        if path.startswith(("embeddings/", "encoder/embeddings_project/")):
            return 0
        if path.startswith("head/"):
            return num_layers + offset
        if match := re.match(r"encoder/layers/(\d+)/", path):
            layer = int(match[1])
            if layer < num_layers:
                return layer + 1
        raise ValueError(f"{path}: not a parameter of the embeddings, of one of {num_layers} layers or a head")

    return scale


def make_task_loss(graphdef: nnx.GraphDef, kind: TaskKind, *, dtype: str) -> LossFn:
    """Mean loss of a batch, by the losses of its kind."""
    find_losses = load_work(kind).losses

    def loss_fn(
        params: Params, batch: Batch, key_B: jax.Array, *, train: bool, over_devices: Total = lambda value: value
    ) -> tuple[jax.Array, Sums]:
        given = {"start_B": batch["start"]} if "start" in batch else {}
        logits = _forward(graphdef, params, batch, key_B=key_B if train else None, dtype=dtype, **given)
        losses, weights = find_losses(logits, batch)
        total, count = jnp.sum(losses * weights), jnp.sum(weights)
        sums = {
            "loss": total,
            "targets": count,
            "examples": jnp.sum(batch["weight"]),
            "tokens": jnp.sum(batch["length"] * batch["weight"]),
        }
        return total / jnp.maximum(over_devices(count), 1.0), sums

    return loss_fn


def make_predict(graphdef: nnx.GraphDef, *, dtype: str, mesh: Mesh | None = None) -> Predict:
    """A compiled function of parameters and batch, without dropout; on a mesh, whole on each of its devices."""
    return jax.jit(
        in_context(lambda params, batch: _forward(graphdef, params, batch, key_B=None, dtype=dtype), mesh),
        out_shardings=None if mesh is None else replicated(mesh),
    )


def _forward(
    graphdef: nnx.GraphDef, params: Params, batch: Batch, *, key_B: jax.Array | None, dtype: str, **given: jax.Array
) -> jax.Array:
    return merge(graphdef, params)(batch["ids"], *segments(batch), key_B=key_B, dtype=jnp.dtype(dtype), **given)
