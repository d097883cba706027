"""The losses of the fine-tuned heads as transformers defines them, each a mean over all labels.

Shapes: `B` batch, `T` tokens, `C` classes, `X` any axes.
"""

import jax
import jax.numpy as jnp

from stages.electra.config import IGNORED, ProblemType
from stages.electra.losses import binary_cross_entropy, cross_entropy


def mean_cross_entropy(logits_XC: jax.Array, labels_X: jax.Array, *, ignored: int = IGNORED) -> jax.Array:
    """Mean of `-log softmax` at the labels other than `ignored`; 0 where all are."""
    weights_X = labels_X != ignored
    return mean(cross_entropy(logits_XC, jnp.where(weights_X, labels_X, 0)), weights_X)


def mean(values_X: jax.Array, weights_X: jax.Array) -> jax.Array:
    """Mean of the values whose weight is true; 0 where none is."""
    return jnp.sum(jnp.where(weights_X, values_X, 0)) / jnp.maximum(jnp.sum(weights_X), 1)


def replaced_token_loss(logits_BT: jax.Array, labels_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Binary cross-entropy of 'this token was replaced' over the real tokens."""
    return mean(binary_cross_entropy(logits_BT, labels_BT.astype(bool)), mask_BT.astype(bool))


def next_word_loss(logits_BTV: jax.Array, labels_BT: jax.Array) -> jax.Array:
    """Each token's logits against the label of the token after it."""
    return mean_cross_entropy(logits_BTV[:, :-1], labels_BT[:, 1:])


def span_loss(logits_BT2: jax.Array, starts_B: jax.Array, ends_B: jax.Array) -> jax.Array:
    """Mean of the cross-entropies of start and end; a place behind the last token is not trained on."""
    num_tokens = logits_BT2.shape[1]
    losses = [
        mean_cross_entropy(logits_BT2[..., side], jnp.clip(places_B.reshape(-1), 0, num_tokens), ignored=num_tokens)
        for side, places_B in enumerate((starts_B, ends_B))
    ]
    return (losses[0] + losses[1]) / 2


def sequence_loss(logits_BC: jax.Array, labels: jax.Array, problem_type: ProblemType | None) -> jax.Array:
    """Squared error, cross-entropy, or binary cross-entropy of each class.

    Without a type: regression for one class, one class of several for whole numbers, else any of several.

    Raises:
      ValueError: The labels have not the shape that the type asks for.
    """
    num_labels = logits_BC.shape[1]
    if problem_type is None:
        if num_labels == 1:
            problem_type = ProblemType.REGRESSION
        elif jnp.issubdtype(labels.dtype, jnp.integer):
            problem_type = ProblemType.SINGLE_LABEL
        else:
            problem_type = ProblemType.MULTI_LABEL
    if problem_type is ProblemType.SINGLE_LABEL:
        return mean_cross_entropy(logits_BC, labels.reshape(-1))
    if labels.size != logits_BC.size:
        raise ValueError(f"labels have shape {labels.shape}, {problem_type} needs {logits_BC.shape}")
    labels_BC = labels.reshape(logits_BC.shape)
    if problem_type is ProblemType.REGRESSION:
        return jnp.mean(jnp.square(logits_BC - labels_BC))
    return jnp.mean(binary_cross_entropy(logits_BC, labels_BC.astype(logits_BC.dtype)))
