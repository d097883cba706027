"""Telling text from noise of a known distribution: Electric, arXiv 2012.08561.

Its generator is a pair of towers (`stages.electra.towers`) that predict each token from all others.

Shapes: `B` batch, `T` tokens, `P` drawn positions, `D` width of both towers, `E` embedding width, `V` vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stages.electra.joint_model import Electra
from stages.electra.losses import word_losses
from stages.electra.objectives.corruption import Corrupted, Guesses, vectors_at


def with_known_noise(
    corrupted: Corrupted,
    model: Electra,
    ids_BT: jax.Array,
    x_BTD: jax.Array,
    *,
    is_word_BT: jax.Array,
    noise_fraction: float,
    dtype: DTypeLike,
) -> Corrupted:
    """The corrupted batch as Electric trains on it.

    The generator, whose hidden states of the text `ids_BT` are `x_BTD`, predicts every word. What was drawn is noise,
    even where it is the token that stood there; and each token's probability as noise is known.
    """
    masked, samples_BP = corrupted.masked, corrupted.samples_BP
    head, table_VE = model.generator_head, model.embeddings_of_generator.word.embedding[...]
    x_BTE, bias_V = head.transform(x_BTD, dtype=dtype), head.bias[...]
    loss_BT, is_best_BT = word_losses(x_BTE, table_VE, bias_V, ids_BT, dtype=dtype)
    # The sample's log-probability is that of the text's own token and the difference of their logits.
    rise_BP = bias_V[samples_BP] - bias_V[masked.targets_BP]
    rise_BPE = vectors_at(x_BTE, masked.positions_BP) * (table_VE[samples_BP] - table_VE[masked.targets_BP])
    rise_BP += jnp.sum(rise_BPE, axis=-1)
    place = (jnp.arange(len(ids_BT))[:, None], masked.positions_BP)
    log_noise_BT = jax.lax.stop_gradient((-loss_BT).at[place].add(masked.weights_BP * rise_BP))
    return corrupted._replace(
        guesses=Guesses(counted=is_word_BT, losses=loss_BT, is_best=is_best_BT),
        replaced_BT=jnp.zeros_like(corrupted.replaced_BT).at[place].set(masked.weights_BP > 0),
        noise_logit_BT=log_noise_BT + np.log(noise_fraction / (1 - noise_fraction)),
    )
