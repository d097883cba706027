"""Telling replaced tokens from original ones: the discriminator's part of ELECTRA and of Electric.

Shapes: `B` batch, `T` tokens, `D` model width, `S` score bins.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stages.electra.joint_model import Electra
from stages.electra.losses import binary_cross_entropy
from stages.electra.objectives.corruption import Corrupted
from stages.electra.objectives.sums import Sums, Totals, count, ratio

# The AUC is computed from counts of logits in equal bins between these bounds, since counts can be added up.
# Scores in one bin count as ties.
_NUM_SCORE_BINS = 2048
_SCORE_BOUND = 16.0


def detection_sums(
    model: Electra, corrupted: Corrupted, mask_BT: jax.Array, x_BTD: jax.Array, *, dtype: DTypeLike
) -> Sums:
    """Adds up the losses and hits of 'this token was replaced', over the real tokens."""
    logits_BT = model.discriminator_head(x_BTD, dtype=dtype)
    if corrupted.noise_logit_BT is not None:
        logits_BT += corrupted.noise_logit_BT
    replaced_BT = corrupted.replaced_BT & mask_BT
    flagged_BT = (logits_BT > 0) & mask_BT
    return {
        "discriminator/tokens": count(mask_BT),
        "discriminator/loss": jnp.sum(mask_BT * binary_cross_entropy(logits_BT, replaced_BT)),
        "discriminator/correct": count(mask_BT & (flagged_BT == replaced_BT)),
        "replaced/tokens": count(replaced_BT),
        "replaced/flagged": count(flagged_BT),
        "replaced/found": count(flagged_BT & replaced_BT),
        "replaced/scores": _histogram(logits_BT, replaced_BT),
        "original/scores": _histogram(logits_BT, mask_BT & ~replaced_BT),
    }


def _histogram(logits_BT: jax.Array, counted_BT: jax.Array) -> jax.Array:
    share_BT = (logits_BT + _SCORE_BOUND) / (2 * _SCORE_BOUND)
    bin_BT = jnp.clip((share_BT * _NUM_SCORE_BINS).astype(jnp.int32), 0, _NUM_SCORE_BINS - 1)
    zeros_S = jnp.zeros(_NUM_SCORE_BINS, jnp.float32)
    return zeros_S.at[bin_BT.reshape(-1)].add(counted_BT.reshape(-1).astype(jnp.float32))


def detection_metrics(total: Totals) -> dict[str, float]:
    """Makes metrics of the sums. Where nothing was replaced or flagged, recall or precision is 0."""
    return {
        "discriminator/accuracy": ratio(total, "discriminator/correct", "discriminator/tokens"),
        "replaced/precision": ratio(total, "replaced/found", "replaced/flagged"),
        "replaced/recall": ratio(total, "replaced/found", "replaced/tokens"),
        "replaced/share": ratio(total, "replaced/tokens", "batch/tokens"),
        "replaced/auc": area_under_curve(total["replaced/scores"], total["original/scores"]),
    }


def area_under_curve(positives_S: np.ndarray, negatives_S: np.ndarray) -> float:
    """Chance that a positive scores above a negative, a tie half, from counts in bins of rising score.

    0.5 unless there are both.
    """
    num_pairs = positives_S.sum() * negatives_S.sum()
    if num_pairs == 0:
        return 0.5
    below_S = np.cumsum(negatives_S) - negatives_S
    return float(np.sum(positives_S * (below_S + negatives_S / 2)) / num_pairs)
