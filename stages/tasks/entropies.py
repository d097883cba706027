"""Cross-entropies of predictions, and the entropy that the best constant guess comes to. Imports jax where it computes.

C classes, X any axes.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax


def cross_entropy(logits_XC: "jax.Array", labels_X: "jax.Array") -> "jax.Array":
    """`-log softmax` at each label, [X]."""
    import jax
    import jax.numpy as jnp

    chosen_X = jnp.take_along_axis(logits_XC, labels_X[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_XC, axis=-1) - chosen_X


def binary_cross_entropy(logits_X: "jax.Array", labels_X: "jax.Array") -> "jax.Array":
    """`-log sigmoid(x)` where the label is 1, `-log sigmoid(-x)` where it is 0, [X]."""
    import jax

    return jax.nn.softplus(logits_X) - labels_X * logits_X


def entropy(weights: Iterable[float]) -> float:
    """-sum of w log(w / sum of all w): the entropy of shares, of weights the smallest loss of a constant guess."""
    positive = [float(weight) for weight in weights if weight > 0]
    return -sum(weight * math.log(weight / sum(positive)) for weight in positive)
