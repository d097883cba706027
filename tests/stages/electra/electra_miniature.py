"""A model small enough for every test, and a batch with everything in it that real ones have."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stages.electra.config import ElectraConfig
from stages.electra.files.config_json import as_config
from stages.electra.files.huggingface import flatten, unflatten
from stages.electra.joint_model import Electra, merge, split
from stages.electra.layout import segments
from stages.electra.sizes import ModelConfig, Size

VOCAB_SIZE = 200
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
NUM_TOKENS = 24
KEY = jax.random.key(0)


def tiny(**changes: object) -> tuple[ElectraConfig, ElectraConfig]:
    """Discriminator and generator of different width, both with a projection of the embeddings."""
    fields = {
        "size": Size.TINY,
        "embedding_size": 24,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
    }
    return ModelConfig(**(fields | changes)).resolve(VOCAB_SIZE)


def build(make: Callable[[], Any], *, seed: int = 0) -> tuple[Any, dict]:
    """Structure and parameters of a module, the latter all random: equal biases or scales hide swapped names."""
    graphdef, shapes = jax.eval_shape(lambda: split(make()))
    random = np.random.default_rng(seed)
    params = {}
    for name, shape in flatten_shapes(shapes).items():
        centre = 1.0 if name.endswith("scale") else 0.0
        params[name] = jnp.asarray(random.normal(centre, 0.1, shape), jnp.float32)
    return graphdef, jax.tree.map(jnp.asarray, unflatten(params))


def make_model(model_class: Any, config: Any) -> Any:
    """A model of transformers' names with random biases and scales too, for which nothing is compiled."""
    return model_class(config, params=build(lambda: model_class._network(as_config(config), key=KEY))[1])


def flatten_shapes(shapes: dict) -> dict[str, tuple[int, ...]]:
    """Shapes by slashed name of what `jax.eval_shape` gives."""
    return {name: value.shape for name, value in flatten(jax.tree.map(lambda x: np.empty(x.shape), shapes)).items()}


def build_electra(**changes: object) -> tuple[Any, dict]:
    """A tiny ELECTRA."""
    return build(lambda: Electra(*tiny(**changes), key=KEY))


@partial(jax.jit, static_argnames=("graphdef", "network", "dtype"))
def call(params, batch, key_B=None, *, graphdef, network="__call__", dtype=jnp.float32):
    """Logits of a module's network for a batch, compiled once for all tests that ask for the same."""
    mask, types = segments(batch)
    return getattr(merge(graphdef, params), network)(batch["ids"], mask, types, key_B=key_B, dtype=dtype)


@partial(jax.jit, static_argnames=("graphdef", "network", "dtype"))
def gradients(params, batch, *, graphdef, network="__call__", dtype=jnp.float32):
    """Value and gradients of the mean square of the logits."""

    def value(params):
        return jnp.mean(call(params, batch, graphdef=graphdef, network=network, dtype=dtype) ** 2)

    return jax.value_and_grad(value)(params)


def row_keys(seed: int, num_rows: int) -> jax.Array:
    """A key for each row."""
    return jax.random.split(jax.random.key(seed), num_rows)


def make_batch(lengths: list[int], *, num_tokens: int = NUM_TOKENS, seed: int = 0) -> dict[str, jax.Array]:
    """Random tokens between [CLS] and [SEP], the first half of each text in the first segment."""
    ids = np.random.default_rng(seed).integers(5, VOCAB_SIZE, (len(lengths), num_tokens))
    for row, length in enumerate(lengths):
        ids[row, length:] = SPECIAL_IDS["pad"]
        if length:
            ids[row, 0] = SPECIAL_IDS["cls"]
            ids[row, length - 1] = SPECIAL_IDS["sep"]
    first = np.array([(length + 1) // 2 for length in lengths])
    for row, boundary in enumerate(first):
        if boundary > 2:
            ids[row, boundary - 1] = SPECIAL_IDS["sep"]
    return {
        "ids": jnp.asarray(ids, jnp.int32),
        "length": jnp.asarray(lengths, jnp.int32),
        "first_length": jnp.asarray(first, jnp.int32),
    }
