"""Which tokens of a batch a network may see, their types and their positions, all from the lengths of the texts.

Shapes: `B` batch, `T` tokens.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Layout(NamedTuple):
    """What a network is given of a batch beside its tokens.

    Attributes:
      mask_BT: True at real tokens.
      types_BT: 0 in the first segment, 1 in the second.
      positions_BT: Where they do not count from 0 in each row.
      text_BT: Where rows hold several texts, the number of each token's. Padding belongs to the last.
    """

    mask_BT: jax.Array
    types_BT: jax.Array
    positions_BT: jax.Array | None
    text_BT: jax.Array | None


def real_tokens(batch: Mapping[str, jax.Array]) -> jax.Array:
    """True at the tokens that are no padding, [B, T]."""
    return jnp.arange(batch["ids"].shape[1])[None] < batch["length"][:, None]


def segments(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Which tokens are real, and their types: 0 for the `first_length` first ones of a row, 1 for the others."""
    mask_BT = real_tokens(batch)
    is_second_BT = jnp.arange(mask_BT.shape[1])[None] >= batch["first_length"][:, None]
    return mask_BT, (mask_BT & is_second_BT).astype(jnp.int32)


def lay_out(batch: Mapping[str, jax.Array]) -> Layout:
    """Lays out rows of one text each or, where the batch says where texts begin, of several.

    Each of several begins where `begins`, bool [B, T], is true, sees itself alone and counts its positions from 0.
    """
    mask_BT, types_BT = segments(batch)
    if "begins" not in batch:
        return Layout(mask_BT, types_BT, None, None)
    begins_BT = batch["begins"]
    text_BT = jnp.cumsum(begins_BT, axis=1)
    place_1T = jnp.arange(begins_BT.shape[1])[None]
    positions_BT = place_1T - jax.lax.cummax(jnp.where(begins_BT, place_1T, 0), axis=1)
    return Layout(mask_BT, types_BT, positions_BT, text_BT)
