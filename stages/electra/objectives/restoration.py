"""Predicting the words of a text in which some were replaced: replace MLM and all-tokens MLM.

The objectives of arXiv 2003.10555, section 3.4. Replace MLM predicts the tokens that stood at the replaced positions;
all-tokens MLM those of every position, and may copy the token that it sees there.

Shapes: `B` batch, `T` tokens, `P` masked positions, `D` model width, `E` embedding width, `V` vocabulary.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from stages.electra.joint_model import Electra
from stages.electra.losses import word_losses
from stages.electra.objectives.corruption import Corrupted, vectors_at
from stages.electra.objectives.sums import Sums, Totals, count, ratio


def restoration_sums(
    model: Electra, ids_BT: jax.Array, corrupted: Corrupted, mask_BT: jax.Array, x_BTD: jax.Array, *, dtype: DTypeLike
) -> Sums:
    """Adds up the losses of predicting the text `ids_BT` from the corrupted one."""
    head, masked = model.discriminator_head, corrupted.masked
    table_VE, bias_V = model.embeddings_of_discriminator.word.embedding[...], head.bias[...]
    if model.copy_head is None:
        used = masked.weights_BP > 0
        x_BPE = head.transform(vectors_at(x_BTD, masked.positions_BP), dtype=dtype)
        losses, is_best = word_losses(x_BPE, table_VE, bias_V, masked.targets_BP, dtype=dtype)
    else:
        used = mask_BT
        losses, is_best = word_losses(head.transform(x_BTD, dtype=dtype), table_VE, bias_V, ids_BT, dtype=dtype)
        # A share of the probability is that of the token in the input, the rest is spread by the words' logits.
        copy_BT = model.copy_head(x_BTD, dtype=dtype)[..., 0]
        spread_BT, copied_BT = -jax.nn.softplus(copy_BT) - losses, -jax.nn.softplus(-copy_BT)
        is_same_BT = corrupted.ids_BT == ids_BT
        losses = -jnp.where(is_same_BT, jnp.logaddexp(copied_BT, spread_BT), spread_BT)
        is_best = jnp.where(copy_BT > 0, is_same_BT, is_best)
    return {
        "restoration/loss": jnp.sum(jnp.where(used, losses, 0)),
        "restoration/tokens": count(used),
        "restoration/correct": count(used & is_best),
    }


def restoration_metrics(total: Totals) -> dict[str, float]:
    """Makes metrics of the sums."""
    return {"restored/accuracy": ratio(total, "restoration/correct", "restoration/tokens")}
