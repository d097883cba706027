"""Question answering where a context may hold no answer: spans, and a logit for 'there is none'.

B batch, T tokens, D model width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import Activation, ElectraConfig
from stages.electra.layers import Dense, activate, glorot_uniform, truncated_normal
from stages.electra.networks import Network

_WIDTH = 512  # of the hidden layer, as in google-research/electra


class AnswerHead(nnx.Module):
    """Logits [B, T, 3]: first token, last token, and, the same at every token, 'no answer in this window'.

    The third comes from the vector of [CLS] beside the mean of all tokens, weighted by their probability to be
    the first of the answer: dense, gelu, dense.
    """

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        keys = jax.random.split(rngs_key, 3)
        width = config.hidden_size
        self.prediction = Dense(glorot_uniform(keys[0], (width, 2)))
        self.dense = Dense(truncated_normal(keys[1], (2 * width, _WIDTH), stddev=config.initializer_range))
        self.unanswerable = Dense(glorot_uniform(keys[2], (_WIDTH, 1)))

    def __call__(self, x_BTD: jax.Array, mask_BT: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        spans_BT2 = self.prediction(x_BTD, dtype=jnp.float32)
        weights_BT = jax.nn.softmax(jnp.where(mask_BT, spans_BT2[..., 0], -1e9), axis=-1)
        summary_BD = jnp.einsum("bt,btd->bd", weights_BT, x_BTD, preferred_element_type=jnp.float32)
        both = jnp.concatenate([x_BTD[:, 0], summary_BD], axis=-1)
        hidden = activate(self.dense(both, dtype=dtype), Activation.GELU)
        logit_B1 = self.unanswerable(hidden, dtype=jnp.float32)
        none_BT1 = jnp.broadcast_to(logit_B1[:, None, :], (*spans_BT2.shape[:2], 1))
        return jnp.concatenate([spans_BT2, none_BT1], axis=-1)


class AnswerabilityNetwork(Network):
    """Logits of spans and of 'no answer', [B, T, 3]. Without dropout before the head, as in the original."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        super().__init__(config, rngs_key=rngs_key)
        self.head = AnswerHead(config, rngs_key=jax.random.split(rngs_key, 3)[2])

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        return self.head(x_BTD, mask_BT, dtype=dtype)
