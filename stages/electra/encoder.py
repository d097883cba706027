"""The embeddings and the transformer encoder of BERT, as ELECTRA uses them (arXiv 2003.10555, section 3.1).

Shapes: `B` batch, `T` tokens, `S` tokens attended to, `E` embedding width, `D` model width, `H` heads,
`K` head width, `F` feed-forward width, `V` vocabulary, `L` layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import ElectraConfig
from stages.electra.layers import Dense, Embedding, LayerNorm, activate, dropout, product, split_keys, truncated_normal

# Added where attention may not look. Finite, so that a row of nothing but padding attends evenly to all of
# it instead of dividing zero by zero.
_MASKED = -1e9


def _dense(key: jax.Array, config: ElectraConfig, num_inputs: int, num_outputs: int) -> Dense:
    return Dense(truncated_normal(key, (num_inputs, num_outputs), stddev=config.initializer_range))


class Embeddings(nnx.Module):
    """Word, position and token type vectors, added and normalised."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        keys = jax.random.split(rngs_key, 3)
        width, stddev = config.embedding_size, config.initializer_range
        self.word = Embedding(truncated_normal(keys[0], (config.vocab_size, width), stddev=stddev))
        self.position = Embedding(truncated_normal(keys[1], (config.max_position_embeddings, width), stddev=stddev))
        self.token_type = Embedding(truncated_normal(keys[2], (config.type_vocab_size, width), stddev=stddev))
        self.layer_norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self,
        ids_BT: jax.Array,
        types_BT: jax.Array,
        *,
        key_B: jax.Array | None,
        positions_BT: jax.Array | None = None,
    ) -> jax.Array:
        return self.combine(self.word(ids_BT), types_BT, key_B=key_B, positions_BT=positions_BT)

    def combine(
        self,
        word_BTE: jax.Array,
        types_BT: jax.Array,
        *,
        key_B: jax.Array | None,
        positions_BT: jax.Array | None = None,
    ) -> jax.Array:
        """The embeddings of words whose vectors are known. Positions count from 0 if they are not given."""
        num_tokens, num_positions = word_BTE.shape[1], self.position.embedding.shape[0]
        if positions_BT is not None:
            position_BTE = self.position(positions_BT)
        elif num_tokens <= num_positions:
            position_BTE = self.position.embedding[...][:num_tokens][None]
        else:
            raise ValueError(f"a sequence has {num_tokens} tokens, the model max_position_embeddings {num_positions}")
        x_BTE = word_BTE + position_BTE + self.token_type(types_BT)
        return dropout(self.layer_norm(x_BTE), self.dropout_rate, key_B)


class Attention(nnx.Module):
    """Attention of `H` heads from one sequence to another or to itself, with its output projection."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        keys = jax.random.split(rngs_key, 4)
        width = config.hidden_size
        self.query = _dense(keys[0], config, width, width)
        self.key = _dense(keys[1], config, width, width)
        self.value = _dense(keys[2], config, width, width)
        self.output = _dense(keys[3], config, width, width)
        self.num_heads = config.num_attention_heads
        self.dropout_rate = config.attention_probs_dropout_prob

    def __call__(
        self,
        x_BTD: jax.Array,
        source_BSD: jax.Array,
        mask_B1TS: jax.Array,
        *,
        key_B: jax.Array | None,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, jax.Array]:
        """The result [B, T, D] and the weights [B, H, T, S] that made it."""
        batch, num_tokens, width = x_BTD.shape

        def heads_first(y_BSD: jax.Array) -> jax.Array:
            return y_BSD.reshape(batch, -1, self.num_heads, width // self.num_heads).transpose(0, 2, 1, 3)

        query_BHTK = heads_first(self.query(x_BTD, dtype=dtype))
        key_BHSK = heads_first(self.key(source_BSD, dtype=dtype))
        value_BHSK = heads_first(self.value(source_BSD, dtype=dtype))
        scale = (width // self.num_heads) ** -0.5
        scores_BHTS = product("bhtk,bhsk->bhts", query_BHTK * scale, key_BHSK, dtype)
        scores_BHTS = jnp.where(mask_B1TS, scores_BHTS, _MASKED)
        weights_BHTS = dropout(jax.nn.softmax(scores_BHTS, axis=-1), self.dropout_rate, key_B)
        context_BHTK = product("bhts,bhsk->bhtk", weights_BHTS, value_BHSK, dtype)
        context_BTD = context_BHTK.transpose(0, 2, 1, 3).reshape(batch, num_tokens, width)
        return self.output(context_BTD, dtype=dtype), weights_BHTS


class CrossAttention(nnx.Module):
    """A decoder's attention to the states of another encoder, with its dropout, residual sum and LayerNorm."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        self.attention = Attention(config, rngs_key=rngs_key)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self,
        x_BTD: jax.Array,
        source_BSD: jax.Array,
        mask_B1TS: jax.Array,
        *,
        key_B: jax.Array | None,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, jax.Array]:
        keys = split_keys(key_B, 2)
        y_BTD, weights_BHTS = self.attention(x_BTD, source_BSD, mask_B1TS, key_B=keys[0], dtype=dtype)
        return self.layer_norm(x_BTD + dropout(y_BTD, self.dropout_rate, keys[1])), weights_BHTS


class Source(NamedTuple):
    """What a decoder attends to besides itself: states of another encoder, and where they are real."""

    x_BSD: jax.Array
    mask_BS: jax.Array


class Layer(nnx.Module):
    """Attention and feed-forward, each followed by dropout, the residual sum and LayerNorm ('post-LN')."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        keys = jax.random.split(rngs_key, 3)
        self.attention = Attention(config, rngs_key=keys[0])
        self.attention_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross = (
            CrossAttention(config, rngs_key=jax.random.fold_in(rngs_key, 3)) if config.add_cross_attention else None
        )
        self.intermediate = _dense(keys[1], config, config.hidden_size, config.intermediate_size)
        self.output = _dense(keys[2], config, config.intermediate_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = config.hidden_act
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self,
        x_BTD: jax.Array,
        mask_B1TS: jax.Array,
        *,
        keys: list[jax.Array] | list[None],
        dtype: DTypeLike,
        source: Source | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """The next states, and the weights of self- and of cross-attention.

        `keys` are three times [B]: of the attention's dropout, and of the two before a residual sum.
        """
        y_BTD, weights_BHTS = self.attention(x_BTD, x_BTD, mask_B1TS, key_B=keys[0], dtype=dtype)
        x_BTD = self.attention_layer_norm(x_BTD + dropout(y_BTD, self.dropout_rate, keys[1]))
        crossed_BHTS = None
        if self.cross is not None and source is not None:
            key_B = None if keys[1] is None else jax.vmap(jax.random.fold_in, (0, None))(keys[1], 0)
            mask_B11S = source.mask_BS[:, None, None, :]
            x_BTD, crossed_BHTS = self.cross(x_BTD, source.x_BSD, mask_B11S, key_B=key_B, dtype=dtype)
        y_BTF = activate(self.intermediate(x_BTD, dtype=dtype), self.activation)
        y_BTD = self.output(y_BTF, dtype=dtype)
        return self.layer_norm(x_BTD + dropout(y_BTD, self.dropout_rate, keys[2])), weights_BHTS, crossed_BHTS


class Encoded(NamedTuple):
    """What the encoder computes on its way; what nobody reads is not kept in a compiled program.

    Attributes:
      last_BTD: Hidden states of the last layer.
      hidden_states: What enters the first layer, then what each layer gives: L + 1 times [B, T, D].
      attentions: Weights [B, H, T, T] of each layer, after dropout.
      cross_attentions: Weights [B, H, T, S] of each layer of a decoder that was given a source.
    """

    last_BTD: jax.Array
    hidden_states: tuple[jax.Array, ...]
    attentions: tuple[jax.Array, ...]
    cross_attentions: tuple[jax.Array, ...]


class Encoder(nnx.Module):
    """The layers, after a projection where the embedding width is not the model's."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        keys = jax.random.split(rngs_key, config.num_hidden_layers + 1)
        self.embeddings_project = (
            None
            if config.embedding_size == config.hidden_size
            else _dense(keys[0], config, config.embedding_size, config.hidden_size)
        )
        self.layers = nnx.List([Layer(config, rngs_key=key) for key in keys[1:]])
        self.is_causal = config.is_decoder

    def __call__(
        self,
        x_BTE: jax.Array,
        mask_BT: jax.Array,
        *,
        key_B: jax.Array | None,
        dtype: DTypeLike,
        source: Source | None = None,
    ) -> Encoded:
        """`mask_BT` is true at real tokens. A decoder sees only what came before; `source` is what it crosses to."""
        project = self.embeddings_project
        x_BTD = x_BTE if project is None else project(x_BTE, dtype=dtype)
        mask_B1TS = mask_BT.astype(bool)[:, None, None, :]
        if self.is_causal:
            mask_B1TS = mask_B1TS & jnp.tri(mask_BT.shape[1], dtype=bool)
        hidden_states, attentions, crossed = [x_BTD], [], []
        for layer, keys in zip(self.layers, split_keys(key_B, len(self.layers), 3), strict=True):
            x_BTD, weights_BHTS, crossed_BHTS = layer(x_BTD, mask_B1TS, keys=keys, dtype=dtype, source=source)
            hidden_states.append(x_BTD)
            attentions.append(weights_BHTS)
            if crossed_BHTS is not None:
                crossed.append(crossed_BHTS)
        return Encoded(x_BTD, tuple(hidden_states), tuple(attentions), tuple(crossed))
