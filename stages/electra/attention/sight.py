"""Which tokens each token of a sequence may look at: the whole table for plain attention, and bounds for the kernels.

The table is a matter of four facts, none larger than the tokens: which are real, which text each belongs to, whether
a token sees what comes after it, and how far it sees. A kernel works out the part of the table that it is at, and
skips the blocks of it in which nobody sees anybody.

Shapes: `B` batch, `T` tokens, `S` tokens looked at, `Q` blocks of tokens.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

BLANK = -2  # the number, as a looking token, of one that may look nowhere
_UNREAL = -1


@partial(
    jax.tree_util.register_dataclass, data_fields=["real_BS", "text_BT", "place"], meta_fields=["is_causal", "window"]
)
@dataclass(frozen=True, kw_only=True)
class Sight:
    """What decides whether a token may look at another.

    Attributes:
      real_BS: True at the tokens that may be looked at: not at padding.
      text_BT: Where rows hold several texts one after another, the number of each token's, from 0 on: a token, padding
        too, sees its own text alone.
      is_causal: Whether a token sees only itself and what comes before.
      window: How many tokens away it sees at most, on either side.
      place: Where the first looking token stands among those looked at, which are all that a decoder's memory has
        room for. None where tokens look at their own sequence.
    """

    real_BS: jax.Array
    text_BT: jax.Array | None = None
    is_causal: bool = False
    window: int | None = None
    place: jax.Array | None = None

    def table(self, num_tokens: int) -> jax.Array:
        """True where a token may look, [B, 1, T or 1, S]."""
        table_B1TS = self.real_BS[:, None, None]
        if self.text_BT is not None:
            table_B1TS = table_B1TS & (self.text_BT[:, :, None] == self.text_BT[:, None])[:, None]
        if self.is_causal or self.window is not None:
            first = 0 if self.place is None else self.place
            place_T1 = first + jnp.arange(num_tokens)[:, None]
            place_1S = jnp.arange(self.real_BS.shape[1])[None]
            reach_TS = reaches(place_T1, place_1S, is_causal=self.is_causal, window=self.window)
            table_B1TS = table_B1TS & reach_TS[None, None]
        return table_B1TS

    def numbers(self) -> tuple[jax.Array, jax.Array]:
        """Numbers of the tokens, int32 [B, T], as looking and as looked at: equal where both are of one text.

        A token that may look nowhere has the number `BLANK`. Each text is in one piece, with holes or without.
        """
        text_BT = jnp.zeros(self.real_BS.shape, jnp.int32) if self.text_BT is None else self.text_BT.astype(jnp.int32)
        seen_BT = jnp.where(self.real_BS, text_BT, _UNREAL)
        sees_BT = self._sees_nearest(text_BT, seen_BT, jnp.arange(text_BT.shape[1]))
        if not self.is_causal:
            sees_BT |= self._sees_nearest(text_BT[:, ::-1], seen_BT[:, ::-1], jnp.arange(text_BT.shape[1]))[:, ::-1]
        return jnp.where(sees_BT, text_BT, BLANK), seen_BT

    def _sees_nearest(self, text_BT: jax.Array, seen_BT: jax.Array, place_T: jax.Array) -> jax.Array:
        """Whether a token sees the nearest real one at or before its place: if not, then none before it."""
        real_BT = seen_BT != _UNREAL
        nearest_BT = jax.lax.cummax(jnp.where(real_BT, place_T[None], -1), axis=1)
        number_BT = jnp.take_along_axis(seen_BT, jnp.maximum(nearest_BT, 0), axis=1)
        sees_BT = (nearest_BT >= 0) & (number_BT == text_BT)
        return sees_BT if self.window is None else sees_BT & (place_T[None] - nearest_BT <= self.window)


def reaches(place_T1: jax.Array, place_1S: jax.Array, *, is_causal: bool, window: int | None) -> jax.Array:
    """Whether a token at the one place sees as far as the other place, and in that direction."""
    away_TS = place_T1 - place_1S
    sees_TS = away_TS >= 0 if is_causal else jnp.ones(away_TS.shape, bool)
    return sees_TS if window is None else sees_TS & (jnp.abs(away_TS) <= window)
