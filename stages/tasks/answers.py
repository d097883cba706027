"""The network of question answering: independent or joint spans, and a logit for 'there is no answer here'.

B batch, T tokens, D model width, H width of a hidden layer, K starts that are followed up.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import Activation, ElectraConfig, HeadKind
from stages.electra.layers import Dense, activate, glorot_uniform, product, split_keys, truncated_normal
from stages.electra.network import Network

BEAM_SIZE = 20  # starts whose ends are scored, in the joint head: google-research/electra's
_WIDTH = 512  # of hidden layers, likewise
_NOWHERE = -1e9  # logit of what cannot be chosen


class PairHead(nnx.Module):
    """A logit of two vectors: dense, gelu, dense."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key)
        shape = (2 * config.hidden_size, _WIDTH)
        self.dense = Dense(truncated_normal(keys[0], shape, stddev=config.initializer_range))
        self.prediction = Dense(glorot_uniform(keys[1], (_WIDTH, 1)))


class EndHead(PairHead):
    """Logits of every token as the last of an answer that starts at a given one, of the vectors of both."""

    def __call__(self, x_BTD: jax.Array, starts_BK: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """[B, T, K]. One product for the tokens and one for the starts: the layer is linear in both."""
        width = x_BTD.shape[-1]
        of_end_DH, of_start_DH = self.dense.kernel[:width], self.dense.kernel[width:]
        start_BKD = jnp.take_along_axis(x_BTD, starts_BK[..., None], axis=1)
        ends_BTH = product("btd,dh->bth", x_BTD, of_end_DH, dtype) + self.dense.bias[None, None]
        starts_KBH = jnp.moveaxis(product("bkd,dh->bkh", start_BKD, of_start_DH, dtype), 1, 0)

        def of_start(start_BH: jax.Array) -> jax.Array:
            hidden_BTH = activate(ends_BTH + start_BH[:, None, :], Activation.GELU)
            return self.prediction(hidden_BTH, dtype=jnp.float32)[..., 0]

        # One start after the other: [B, T, K, H] would not fit in memory.
        return jnp.moveaxis(jax.lax.map(of_start, starts_KBH), 0, -1)


class AnswerabilityHead(PairHead):
    """A logit for 'no answer in this window', [B].

    The vectors are that of [CLS], and the mean of all tokens, weighted by their probability to begin the answer.
    """

    def __call__(self, x_BTD: jax.Array, starts_BT: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        summary_BD = jnp.einsum("bt,btd->bd", jax.nn.softmax(starts_BT), x_BTD, preferred_element_type=jnp.float32)
        both = jnp.concatenate([x_BTD[:, 0], summary_BD], axis=-1)
        return self.prediction(activate(self.dense(both, dtype=dtype), Activation.GELU), dtype=jnp.float32)[:, 0]


class AnswerHead(nnx.Module):
    """Logits of spans, and of 'no answer' where a question may have none.

    In the original's head an answer begins and ends in the second segment, its [SEP] included, or is [CLS]: neither the
    probabilities nor the summary for 'no answer' see the question (google-research/electra's `answer_mask`). The
    Hugging Face kind sees all tokens; without 'no answer' it is transformers' own head.
    """

    def __init__(self, config: ElectraConfig, *, kind: HeadKind, unanswerable: bool, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        is_joint = kind is HeadKind.ORIGINAL
        self.prediction = Dense(glorot_uniform(keys[0], (config.hidden_size, 1 if is_joint else 2)))
        self.end = EndHead(config, key=keys[1]) if is_joint else None
        self.unanswerable = AnswerabilityHead(config, key=keys[2]) if unanswerable else None

    def __call__(
        self, x_BTD: jax.Array, mask_BT: jax.Array, types_BT: jax.Array, *, start_B: jax.Array | None, dtype: DTypeLike
    ) -> jax.Array:
        """With `start_B`, the ends for this start, as training wants it; without, for the likeliest in the context."""
        second_BT = mask_BT & (types_BT == 1)
        choices_BT = mask_BT if self.end is None else second_BT.at[:, 0].set(True)
        spans_BTC = jnp.where(choices_BT[..., None], self.prediction(x_BTD, dtype=jnp.float32), _NOWHERE)
        starts_BT = spans_BTC[..., 0]
        parts = [spans_BTC]
        if self.end is not None:
            if start_B is None:
                # The context is all of the second segment but its last token, [SEP].
                context_BT = second_BT & jnp.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))
                count = min(BEAM_SIZE, x_BTD.shape[1])
                starts_BK = jax.lax.top_k(jnp.where(context_BT, starts_BT, _NOWHERE), count)[1]
            else:
                starts_BK = start_B[:, None]
            ends_BTK = jnp.where(choices_BT[..., None], self.end(x_BTD, starts_BK, dtype=dtype), _NOWHERE)
            # log p(start) and log p(end | start): of ends of different starts, only these can be compared.
            parts = [jax.nn.log_softmax(logits, axis=1) for logits in (spans_BTC, ends_BTK)]
        if self.unanswerable is not None:
            none_B = self.unanswerable(x_BTD, starts_BT, dtype=dtype)
            parts.append(jnp.broadcast_to(none_B[:, None, None], (*starts_BT.shape, 1)))
        return jnp.concatenate(parts, axis=-1)


class AnswerNetwork(Network):
    """Logits of a question with a window of its context, [B, T, C]. No dropout before the head, as in the original.

    First, of each token as the first of the answer. Then, of each as the last: one where start and end are independent;
    where they are joint, log probabilities for every start that is followed up, in the order of theirs, the earlier of
    equal ones first. Last, where a question may have no answer, that of 'none', the same at every token.
    """

    def __init__(self, config: ElectraConfig, *, kind: HeadKind, unanswerable: bool, key: jax.Array) -> None:
        super().__init__(config, key=key)
        self.head = AnswerHead(config, kind=kind, unanswerable=unanswerable, key=jax.random.split(key, 3)[2])

    def __call__(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        *,
        start_B: jax.Array | None = None,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """As the head, of token ids."""
        keys = split_keys(key_B, 2)
        x_BTD = self.encode(ids_BT, mask_BT, types_BT, key_B=keys[0], dtype=dtype).last_BTD
        return self.head(x_BTD, mask_BT, types_BT, start_B=start_B, dtype=dtype)
