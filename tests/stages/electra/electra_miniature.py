"""A model small enough for every test, and a batch with everything in it that real ones have."""

import jax
import jax.numpy as jnp
import numpy as np

from stages.electra.config import ElectraConfig, ModelConfig, Size

VOCAB_SIZE = 200
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
NUM_TOKENS = 24


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


def perturb(params: dict, *, scale: float = 0.1) -> dict:
    """Moves every parameter off its initial value, biases and LayerNorms too: equal ones hide swapped names."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(99), len(leaves))
    moved = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


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
