"""Losses, and the sampling that shares its work with one of them.

Shapes: `N` predictions, `E` embedding width, `V` vocabulary, `G` groups of words, `W` words in a group.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from stages.electra.layers import matmul

# Words in a group: about the square root of BERT's vocabulary, which makes the two draws equally short.
_GROUP_SIZE = 192


class WordPredictions(NamedTuple):
    """What the generator says at `N` positions.

    Attributes:
      loss_N: Cross-entropy of the target.
      best_N: The likeliest word.
      samples_N: A word drawn from the softmax of the logits over the temperature; carries no gradient.
    """

    loss_N: jax.Array
    best_N: jax.Array
    samples_N: jax.Array


def predict_words(
    x_NE: jax.Array,
    table_VE: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    *,
    key: jax.Array,
    temperature: float,
    dtype: DTypeLike,
) -> WordPredictions:
    """Cross-entropy and samples of the logits `x table^T + bias`."""
    # Whole groups of words, so that no array of N x V elements is ever padded: the table is much smaller.
    padding = -table_VE.shape[0] % _GROUP_SIZE
    table_VE = jnp.pad(table_VE, ((0, padding), (0, 0)))
    bias_V = jnp.pad(bias_V, (0, padding), constant_values=-jnp.inf)
    logits_NV = matmul(x_NE, table_VE.T, dtype=dtype) + bias_V
    target_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=1)[:, 0]
    loss_N = jax.nn.logsumexp(logits_NV, axis=1) - target_N
    frozen_NV = jax.lax.stop_gradient(logits_NV)
    scaled_NV = (frozen_NV - jnp.max(frozen_NV, axis=1, keepdims=True)) / temperature
    return WordPredictions(
        loss_N=loss_N,
        best_N=_argmax(frozen_NV.reshape(x_NE.shape[0], -1, _GROUP_SIZE)),
        samples_N=sample(key, jnp.exp(scaled_NV)),
    )


def _argmax(scores_NGW: jax.Array) -> jax.Array:
    """The first best word of all groups. XLA's argmax is slow on CPU, its max is not: find the group, then the word."""
    group_N = jnp.argmax(jnp.max(scores_NGW, axis=2), axis=1)
    scores_NW = jnp.take_along_axis(scores_NGW, group_N[:, None, None], axis=1)[:, 0]
    return (group_N * scores_NGW.shape[2] + jnp.argmax(scores_NW, axis=1)).astype(jnp.int32)


def sample(key: jax.Array, mass_NV: jax.Array) -> jax.Array:
    """Draws an index of each row in proportion to its mass.

    Inverts the cumulative distribution twice, of groups of words and within the group drawn, each with a
    uniform number of its own: 2 random numbers instead of V, no cumulative sum over V, and no word's share is
    off by more than rounding, about 1e-7 of its group's. A word without mass is never drawn.
    """
    num_rows, num_words = mass_NV.shape
    num_groups = -(-num_words // _GROUP_SIZE)
    padded_NV = jnp.pad(mass_NV, ((0, 0), (0, num_groups * _GROUP_SIZE - num_words)))
    mass_NGW = padded_NV.reshape(num_rows, num_groups, _GROUP_SIZE)
    group_key, word_key = jax.random.split(key)
    group_N = _invert(jax.random.uniform(group_key, (num_rows,)), jnp.sum(mass_NGW, axis=2))
    mass_NW = jnp.take_along_axis(mass_NGW, group_N[:, None, None], axis=1)[:, 0]
    word_N = _invert(jax.random.uniform(word_key, (num_rows,)), mass_NW)
    return group_N * _GROUP_SIZE + word_N


def _invert(uniform_N: jax.Array, mass_NW: jax.Array) -> jax.Array:
    """The first index with mass whose cumulative mass exceeds the given share of the whole."""
    cumulative_NW = jnp.cumsum(mass_NW, axis=1)
    threshold_N1 = uniform_N[:, None] * cumulative_NW[:, -1:]
    passed_NW = (cumulative_NW > threshold_N1) & (mass_NW > 0)
    # A parallel cumulative sum need not rise everywhere in its last bit, so that all mass may lie before the
    # threshold: then it is the last index with mass.
    last_N = mass_NW.shape[1] - 1 - jnp.argmax(jnp.flip(mass_NW > 0, axis=1), axis=1)
    return jnp.where(jnp.any(passed_NW, axis=1), jnp.argmax(passed_NW, axis=1), last_N).astype(jnp.int32)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`-log sigmoid(x)` where the label is true, else `-log sigmoid(-x)`; safe at any logit."""
    return jax.nn.softplus(jnp.where(labels, -logits, logits))
