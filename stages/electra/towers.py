"""A cloze model: it predicts every token of a text from all the others (Electric, arXiv 2012.08561, section 2.3).

Shapes: `B` batch, `T` tokens, `E` embedding width, `D` width of one tower.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import ElectraConfig, Rematerialize
from stages.electra.encoder import Encoded, Encoder
from stages.electra.layers import split_keys


class TwoTowers(nnx.Module):
    """One encoder that reads a text from left to right and one from right to left."""

    def __init__(
        self, config: ElectraConfig, *, key: jax.Array, rematerialize: Rematerialize = Rematerialize.NONE
    ) -> None:
        keys = jax.random.split(key)
        tower = replace(config, is_decoder=True)
        self.rightward = Encoder(tower, key=keys[0], rematerialize=rematerialize)
        self.leftward = Encoder(tower, key=keys[1], rematerialize=rematerialize)

    def __call__(
        self,
        x_BTE: jax.Array,
        mask_BT: jax.Array,
        text_BT: jax.Array | None = None,
        *,
        key_B: jax.Array | None,
        dtype: DTypeLike,
    ) -> Encoded:
        """Encodes what stands to the left and to the right of each token, side by side: `last_BTD` is [B, T, 2 D].

        Raises:
          ValueError: Rows hold several texts.
        """
        if text_BT is not None:
            raise ValueError("two towers read one text a row, and these rows hold several")
        keys = split_keys(key_B, 2)
        before_BTD = self.rightward(x_BTE, mask_BT, key_B=keys[0], dtype=dtype).last_BTD
        after_BTD = self.leftward(x_BTE[:, ::-1], mask_BT[:, ::-1], key_B=keys[1], dtype=dtype).last_BTD[:, ::-1]
        # Nothing comes before the first token or after the last, so the vectors of padding must not count.
        around = ((0, 0), (1, 1), (0, 0))
        before_BTD, after_BTD = (
            jnp.pad(jnp.where(mask_BT[..., None], x_BTD, 0), around) for x_BTD in (before_BTD, after_BTD)
        )
        both_BT2D = jnp.concatenate([before_BTD[:, :-2], after_BTD[:, 2:]], axis=-1)
        return Encoded(both_BT2D, hidden_states=(), attentions=(), cross_attentions=(), cache=None)
