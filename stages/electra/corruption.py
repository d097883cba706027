"""Which tokens the generator must guess, and what the discriminator is then shown.

The objective of arXiv 2003.10555, section 3.1. Every row has a key of its own, so that nothing here depends on
how the rows of a batch are spread over devices.

Shapes: `B` batch, `T` tokens, `P` most masked positions of a sequence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from stages.electra.layers import split_keys


class Masked(NamedTuple):
    """Masked sequences. Slots beyond a sequence's own number of masked positions have weight 0.

    Attributes:
      ids_BT: What the generator sees.
      positions_BP: Where it must guess.
      targets_BP: The tokens that stood there.
      weights_BP: 1.0 at the slots in use, else 0.0.
    """

    ids_BT: jax.Array
    positions_BP: jax.Array
    targets_BP: jax.Array
    weights_BP: jax.Array


def max_masked(num_tokens: int, mask_fraction: float) -> int:
    """The most positions that a sequence of `num_tokens` can have masked."""
    # The original's max_predictions_per_seq. A sequence must have one slot, however short it is.
    return max(1, int((mask_fraction + 0.005) * num_tokens))


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
) -> Masked:
    """Chooses positions without replacement, evenly among those that do not hold one of `unmaskable_ids`.

    The original draws with replacement and so masks fewer positions than it means to (its issue 41).
    """
    choice_key_B, show_key_B = split_keys(key_B, 2)
    num_tokens = ids_BT.shape[1]
    maximum = max_masked(num_tokens, mask_fraction)
    candidate_BT = jnp.arange(num_tokens)[None] < length_B[:, None]
    for unmaskable_id in unmaskable_ids:
        candidate_BT &= ids_BT != unmaskable_id

    # The largest of independent equal draws: Gumbel top-k where all weights are alike. 31 random bits.
    bits_BT = jax.vmap(lambda key: jax.random.bits(key, (num_tokens,), jnp.uint32))(choice_key_B)
    draws_BT = (bits_BT >> 1).astype(jnp.int32)
    _, positions_BP = jax.lax.top_k(jnp.where(candidate_BT, draws_BT, -1), maximum)
    count_B = num_masked(length_B, mask_fraction=mask_fraction, maximum=maximum)
    count_B = jnp.minimum(count_B, jnp.sum(candidate_BT, axis=1, dtype=jnp.int32))
    used_BP = jnp.arange(maximum)[None] < count_B[:, None]

    targets_BP = jnp.take_along_axis(ids_BT, positions_BP, axis=1)
    hidden_BP = jax.vmap(lambda key: jax.random.uniform(key, (maximum,)))(show_key_B) < mask_probability
    shown_BP = jnp.where(used_BP & hidden_BP, mask_id, targets_BP)
    return Masked(
        ids_BT=write(ids_BT, positions_BP, shown_BP),
        positions_BP=positions_BP,
        targets_BP=targets_BP,
        weights_BP=used_BP.astype(jnp.float32),
    )


def replace_tokens(ids_BT: jax.Array, masked: Masked, samples_BP: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The original sequences with the generator's samples written in, and which tokens differ from before."""
    written_BP = jnp.where(masked.weights_BP > 0, samples_BP, masked.targets_BP)
    corrupted_BT = write(ids_BT, masked.positions_BP, written_BP)
    return corrupted_BT, corrupted_BT != ids_BT


def write(ids_BT: jax.Array, positions_BP: jax.Array, values_BP: jax.Array) -> jax.Array:
    """`ids_BT` with `values_BP` at `positions_BP`, which are distinct in each row."""
    return jax.vmap(lambda ids_T, positions_P, values_P: ids_T.at[positions_P].set(values_P))(
        ids_BT, positions_BP, values_BP
    )
