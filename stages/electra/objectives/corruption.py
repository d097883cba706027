"""Masks tokens for the generator, and writes its samples into the text for the discriminator.

The objective of arXiv 2003.10555, section 3.1. Every row has a key of its own, so that nothing here depends on
how the rows of a batch are spread over devices.

Shapes: `B` batch, `T` tokens, `P` most masked positions of a sequence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from stages.electra.layers import split_keys
from stages.electra.objectives.objective import Masking, max_masked


class Masked(NamedTuple):
    """Masked sequences. Slots beyond a sequence's own number of masked positions have weight 0.

    Attributes:
      ids_BT: The text with [MASK]s, which the generator sees.
      positions_BP: The positions that it must predict.
      targets_BP: The tokens that stood there.
      weights_BP: 1.0 at the slots in use, else 0.0.
    """

    ids_BT: jax.Array
    positions_BP: jax.Array
    targets_BP: jax.Array
    weights_BP: jax.Array


class Guesses(NamedTuple):
    """What the generator predicted, at the masked positions [B, P] or at every token [B, T].

    Attributes:
      counted: Where a prediction counts.
      losses: Cross-entropy of the right token.
      is_best: Whether no token was likelier.
    """

    counted: jax.Array
    losses: jax.Array
    is_best: jax.Array


class Corrupted(NamedTuple):
    """A batch as the two networks see it.

    Attributes:
      masked: The generator's input and targets.
      guesses: The generator's predictions.
      samples_BP: The tokens drawn from them.
      ids_BT: The text with the samples, which the discriminator sees.
      replaced_BT: True at the tokens that count as replaced.
      noise_logit_BT: Log-odds of each token being noise, known beforehand: the discriminator's logit is added to
        them. Without a gradient. None where nothing is known.
    """

    masked: Masked
    guesses: Guesses
    samples_BP: jax.Array
    ids_BT: jax.Array
    replaced_BT: jax.Array
    noise_logit_BT: jax.Array | None = None


def num_masked(length_B: jax.Array, *, mask_fraction: float, maximum: int) -> jax.Array:
    """How many positions are masked in sequences of these lengths, [CLS] and [SEP] counted.

    The product is float32 and a half goes to the even number, as in the original: at a fraction of 0.25 half
    up would differ at 63 lengths up to 512.
    """
    wanted_B = jnp.round(length_B.astype(jnp.float32) * jnp.float32(mask_fraction)).astype(jnp.int32)
    return jnp.clip(wanted_B, 1, maximum)


def mask_tokens(
    key_B: jax.Array,
    ids_BT: jax.Array,
    length_B: jax.Array,
    *,
    unmaskable_ids: tuple[int, ...],
    mask_id: int,
    mask_fraction: float,
    mask_probability: float,
    masking: Masking = Masking.DISTINCT,
) -> Masked:
    """Draws positions evenly from those that do not hold one of `unmaskable_ids`.

    The original draws with replacement and so masks fewer positions than it means to (its issue 41): of the 19 that
    it means to mask of 128 tokens, 17.7.
    """
    choice_key_B, show_key_B = split_keys(key_B, 2)
    num_tokens = ids_BT.shape[1]
    maximum = max_masked(num_tokens, mask_fraction)
    candidate_BT = jnp.arange(num_tokens)[None] < length_B[:, None]
    for unmaskable_id in unmaskable_ids:
        candidate_BT &= ids_BT != unmaskable_id

    num_candidates_B = jnp.sum(candidate_BT, axis=1, dtype=jnp.int32)
    count_B = num_masked(length_B, mask_fraction=mask_fraction, maximum=maximum)
    match masking:
        case Masking.DISTINCT:
            positions_BP = _draw_distinct(choice_key_B, candidate_BT, maximum)
            count_B = jnp.minimum(count_B, num_candidates_B)
        case Masking.ORIGINAL:
            positions_BP = _draw_with_replacement(choice_key_B, candidate_BT, num_candidates_B, maximum)
            count_B = jnp.where(num_candidates_B > 0, count_B, 0)
    used_BP = jnp.arange(maximum)[None] < count_B[:, None]

    targets_BP = jnp.take_along_axis(ids_BT, positions_BP, axis=1)
    hidden_BP = jax.vmap(lambda key: jax.random.uniform(key, (maximum,)))(show_key_B) < mask_probability
    return Masked(
        ids_BT=write(ids_BT, positions_BP, jnp.full_like(targets_BP, mask_id), where_BP=used_BP & hidden_BP),
        positions_BP=positions_BP,
        targets_BP=targets_BP,
        weights_BP=used_BP.astype(jnp.float32),
    )


def _draw_distinct(key_B: jax.Array, candidate_BT: jax.Array, maximum: int) -> jax.Array:
    """The largest of independent equal draws: Gumbel top-k where all weights are alike. 31 random bits."""
    bits_BT = jax.vmap(lambda key: jax.random.bits(key, candidate_BT.shape[1:], jnp.uint32))(key_B)
    draws_BT = (bits_BT >> 1).astype(jnp.int32)
    return jax.lax.top_k(jnp.where(candidate_BT, draws_BT, -1), maximum)[1]


def _draw_with_replacement(
    key_B: jax.Array, candidate_BT: jax.Array, num_candidates_B: jax.Array, maximum: int
) -> jax.Array:
    candidates_BT = jnp.argsort(~candidate_BT, axis=1, stable=True)  # candidates first
    draw = jax.vmap(lambda key, num: jax.random.randint(key, (maximum,), 0, jnp.maximum(num, 1)))
    return jnp.take_along_axis(candidates_BT, draw(key_B, num_candidates_B), axis=1)


def replace_tokens(ids_BT: jax.Array, masked: Masked, samples_BP: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The original sequences with the generator's samples written in, and which tokens differ from before."""
    corrupted_BT = write(ids_BT, masked.positions_BP, samples_BP, where_BP=masked.weights_BP > 0)
    return corrupted_BT, corrupted_BT != ids_BT


def write(ids_BT: jax.Array, positions_BP: jax.Array, values_BP: jax.Array, *, where_BP: jax.Array) -> jax.Array:
    """`ids_BT` with `values_BP` at `positions_BP`, of the slots that are true in `where_BP`.

    Where a position occurs several times, the rounded-down mean of its values is written, as by the original
    (its `scatter_update`): of two samples that is most often a third word.
    """

    def write_row(ids_T: jax.Array, positions_P: jax.Array, values_P: jax.Array, where_P: jax.Array) -> jax.Array:
        nothing_T = jnp.zeros_like(ids_T)
        sum_T = nothing_T.at[positions_P].add(jnp.where(where_P, values_P, 0))
        count_T = nothing_T.at[positions_P].add(where_P.astype(ids_T.dtype))
        return jnp.where(count_T > 0, sum_T // jnp.maximum(count_T, 1), ids_T)

    return jax.vmap(write_row)(ids_BT, positions_BP, values_BP, where_BP)


def vectors_at(x_BTD: jax.Array, positions_BP: jax.Array) -> jax.Array:
    """The vectors at these positions, [B, P, D]."""
    return jnp.take_along_axis(x_BTD, positions_BP[..., None], axis=1)
