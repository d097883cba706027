"""Losses, and the sampling that shares its work with one of them.

Shapes: `N` predictions, `E` embedding width, `V` vocabulary, `G` groups of words, `W` words in a group, `C` classes,
`X` any axes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stages.electra.layers import product, sum_dtype

# Words in a group. The square root of BERT's vocabulary would be 175; whole vectors are faster.
_GROUP_SIZE = 256
# Predictions whose logits exist at once where every token has one.
_TOKENS_AT_ONCE = 2048
# Logit of the words that fill up the last group.
_NEVER = -1e30


class WordPredictions(NamedTuple):
    """The generator's predictions at `N` positions.

    Attributes:
      loss_N: Cross-entropy of the target. All that a gradient flows through.
      is_best_N: Whether no word is likelier than the target.
      samples_N: A word drawn from the softmax of the logits over the temperature.
    """

    loss_N: jax.Array
    is_best_N: jax.Array
    samples_N: jax.Array


def predict_words(
    x_NE: jax.Array,
    table_VE: jax.Array,
    bias_V: jax.Array,
    targets_N: jax.Array,
    *,
    uniform_N2: jax.Array,
    temperature: float,
    disallow_correct: bool = False,
    dtype: DTypeLike,
) -> WordPredictions:
    """Cross-entropy and samples of the logits `x table^T + bias`, in as few passes over [N, V] as possible.

    `uniform_N2` are the random numbers of the samples, two each. `disallow_correct` never draws the target.
    """
    words = _Words(*_predict(x_NE, table_VE, bias_V, targets_N, dtype))
    logits_NGW, sums_NG = jax.lax.stop_gradient((words.logits_NGW, words.sums_NG))
    best_N = jax.lax.stop_gradient(words.best_N)
    is_best_N = jax.lax.stop_gradient(words.target_N) >= best_N
    if disallow_correct:
        word_GW = jnp.arange(logits_NGW[0].size).reshape(logits_NGW.shape[1:])
        logits_NGW = jnp.where(word_GW[None] == targets_N[:, None, None], _NEVER, logits_NGW)
        best_N = jnp.max(logits_NGW, axis=(1, 2))
    if temperature != 1 or disallow_correct:
        sums_NG = jnp.sum(jnp.exp((logits_NGW - best_N[:, None, None]) / temperature), axis=2)

    def mass_of(group_N: jax.Array) -> jax.Array:
        logits_NW = jnp.take_along_axis(logits_NGW, group_N[:, None, None], axis=1)[:, 0]
        return jnp.exp((logits_NW - best_N[:, None]) / temperature)

    return WordPredictions(loss_N=words.loss_N, is_best_N=is_best_N, samples_N=sample(uniform_N2, sums_NG, mass_of))


def word_losses(
    x_BTE: jax.Array, table_VE: jax.Array, bias_V: jax.Array, targets_BT: jax.Array, *, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the target at every token, [B, T], and whether no word is likelier.

    A few rows at a time, and again in the backward pass: the logits of all tokens of a batch would fill the memory.
    """
    num_rows, num_tokens = targets_BT.shape
    most = max(1, _TOKENS_AT_ONCE // num_tokens)
    rows = max(number for number in range(1, min(most, num_rows) + 1) if num_rows % number == 0)

    @jax.checkpoint
    def part(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        words = _Words(*_predict(inputs[0], table_VE, bias_V, inputs[1], dtype))
        return words.loss_N, jax.lax.stop_gradient(words.target_N >= words.best_N)

    parts = (x_BTE.reshape(-1, rows * num_tokens, x_BTE.shape[-1]), targets_BT.reshape(-1, rows * num_tokens))
    loss, is_best = jax.lax.map(part, parts)
    return loss.reshape(targets_BT.shape), is_best.reshape(targets_BT.shape)


def guess_evenly(
    key_N: jax.Array, targets_N: jax.Array, *, num_words: int, disallow_correct: bool = False
) -> WordPredictions:
    """Words drawn evenly from all, for an ELECTRA without a generator. No word is the likeliest."""
    num_choices = num_words - disallow_correct
    choices_N = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_choices))(key_N)
    return WordPredictions(
        loss_N=jnp.full(targets_N.shape, np.log(num_words), jnp.float32),
        is_best_N=jnp.zeros(targets_N.shape, bool),
        samples_N=choices_N + (choices_N >= targets_N) if disallow_correct else choices_N,
    )


class _Words(NamedTuple):
    loss_N: jax.Array
    target_N: jax.Array  # logit of the target
    best_N: jax.Array  # highest logit
    sums_NG: jax.Array  # of exp(logit - best)
    logits_NGW: jax.Array


def _whole_groups(table_VE: jax.Array) -> jax.Array:
    """The table, padded rather than the logits: it is the narrow side."""
    return jnp.pad(table_VE, ((0, -len(table_VE) % _GROUP_SIZE), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _predict(x_NE: jax.Array, table_VE: jax.Array, bias_V: jax.Array, targets_N: jax.Array, dtype: DTypeLike) -> _Words:
    bias_V = jnp.pad(bias_V, (0, -len(bias_V) % _GROUP_SIZE), constant_values=_NEVER)
    logits_NV = product("ne,ve->nv", x_NE, _whole_groups(table_VE), dtype) + bias_V[None]
    target_N = jnp.take_along_axis(logits_NV, targets_N[:, None], axis=1)[:, 0]
    best_N = jnp.max(logits_NV, axis=1)
    logits_NGW = logits_NV.reshape(len(logits_NV), -1, _GROUP_SIZE)
    sums_NG = jnp.sum(jnp.exp(logits_NGW - best_N[:, None, None]), axis=2)
    loss_N = jnp.log(jnp.sum(sums_NG, axis=1)) + best_N - target_N
    return _Words(loss_N, target_N, best_N, sums_NG, logits_NGW)


def _predict_forward(
    x_NE: jax.Array, table_VE: jax.Array, bias_V: jax.Array, targets_N: jax.Array, dtype: DTypeLike
) -> Any:
    words = _predict(x_NE, table_VE, bias_V, targets_N, dtype)
    return words, (x_NE, table_VE, targets_N, words.loss_N + words.target_N, words.logits_NGW)


def _predict_backward(dtype: DTypeLike, kept: Any, grads: _Words) -> Any:
    """Only the loss has a gradient: softmax minus target, times what comes in."""
    x_NE, table_VE, targets_N, log_sum_N, logits_NGW = kept
    num_words = len(table_VE)
    shares_NV = jnp.exp(logits_NGW.reshape(len(x_NE), -1) - log_sum_N[:, None])
    is_target_NV = jnp.arange(shares_NV.shape[1])[None] == targets_N[:, None]
    grad_NV = (shares_NV - is_target_NV) * grads.loss_N[:, None]
    # [E, V] first, then turned: XLA would turn the wide side, which takes three times as long on a CPU. And
    # a product with ones adds up the columns twenty times as fast as a sum over the rows does.
    grad_EV = jax.lax.optimization_barrier(product("ne,nv->ev", x_NE, grad_NV, dtype))
    ones_N = jnp.ones(len(x_NE), sum_dtype(dtype))
    return (
        product("nv,ve->ne", grad_NV, _whole_groups(table_VE), dtype),
        grad_EV.T[:num_words],
        product("n,nv->v", ones_N, grad_NV, sum_dtype(dtype))[:num_words],
        np.zeros(targets_N.shape, jax.dtypes.float0),
    )


_predict.defvjp(_predict_forward, _predict_backward)


def sample(uniform_N2: jax.Array, sums_NG: jax.Array, mass_of: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Draws an index of each row in proportion to its mass.

    Inverts the cumulative distribution twice, of groups of words and within the group drawn, each with a
    uniform number of its own: 2 random numbers instead of V, no cumulative sum over V, and no word's share is
    off by more than rounding, about 1e-7 of its group's. A word without mass is never drawn.

    Args:
      uniform_N2: Independent random numbers in [0, 1).
      sums_NG: Mass of each group.
      mass_of: Masses [N, W] of the words of one group a row, given as [N].
    """
    group_N = _invert(uniform_N2[:, 0], sums_NG)
    mass_NW = mass_of(group_N)
    word_N = _invert(uniform_N2[:, 1], mass_NW)
    return group_N * mass_NW.shape[1] + word_N


def _invert(uniform_N: jax.Array, mass_NW: jax.Array) -> jax.Array:
    """The first index with mass whose cumulative mass exceeds the given share of the whole."""
    cumulative_NW = jnp.cumsum(mass_NW, axis=1)
    threshold_N1 = uniform_N[:, None] * cumulative_NW[:, -1:]
    passed_NW = (cumulative_NW > threshold_N1) & (mass_NW > 0)
    # A parallel cumulative sum need not rise everywhere in its last bit, so that all mass may lie before the
    # threshold: then it is the last index with mass.
    last_N = mass_NW.shape[1] - 1 - jnp.argmax(jnp.flip(mass_NW > 0, axis=1), axis=1)
    return jnp.where(jnp.any(passed_NW, axis=1), jnp.argmax(passed_NW, axis=1), last_N).astype(jnp.int32)


def cross_entropy(logits_XC: jax.Array, labels_X: jax.Array) -> jax.Array:
    """`-log softmax` at each label, [X]."""
    chosen_X = jnp.take_along_axis(logits_XC, labels_X[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_XC, axis=-1) - chosen_X


def binary_cross_entropy(logits_X: jax.Array, labels_X: jax.Array) -> jax.Array:
    """`-log sigmoid(x)` where the label is true, else `-log sigmoid(-x)`; safe at any logit.

    Labels that are numbers are shares from 0 to 1, which weigh the two: transformers' multi-label loss allows them.
    """
    if labels_X.dtype == bool:
        return jax.nn.softplus(jnp.where(labels_X, -logits_X, logits_X))
    return jax.nn.softplus(logits_X) - labels_X * logits_X
