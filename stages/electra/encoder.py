"""The embeddings and the transformer encoder of BERT, as ELECTRA uses them (arXiv 2003.10555, section 3.1).

Shapes: `B` batch, `T` tokens, `S` tokens attended to, `E` embedding width, `D` model width, `H` heads,
`K` head width, `F` feed-forward width, `V` vocabulary.
"""

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

    def __call__(self, ids_BT: jax.Array, types_BT: jax.Array, *, key_B: jax.Array | None) -> jax.Array:
        num_tokens, num_positions = ids_BT.shape[1], self.position.embedding.shape[0]
        if num_tokens > num_positions:
            raise ValueError(f"a sequence has {num_tokens} tokens, the model max_position_embeddings {num_positions}")
        position_TE = self.position.embedding[...][:num_tokens]
        x_BTE = self.word(ids_BT) + position_TE[None] + self.token_type(types_BT)
        return dropout(self.layer_norm(x_BTE), self.dropout_rate, key_B)


class Attention(nnx.Module):
    """Self-attention of `H` heads, with its output projection."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        keys = jax.random.split(rngs_key, 4)
        width = config.hidden_size
        self.query = _dense(keys[0], config, width, width)
        self.key = _dense(keys[1], config, width, width)
        self.value = _dense(keys[2], config, width, width)
        self.output = _dense(keys[3], config, width, width)
        self.num_heads = config.num_attention_heads
        self.dropout_rate = config.attention_probs_dropout_prob

    def __call__(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        batch, num_tokens, width = x_BTD.shape

        def heads_first(y_BTD: jax.Array) -> jax.Array:
            return y_BTD.reshape(batch, num_tokens, self.num_heads, -1).transpose(0, 2, 1, 3)

        query_BHTK = heads_first(self.query(x_BTD, dtype=dtype))
        key_BHSK = heads_first(self.key(x_BTD, dtype=dtype))
        value_BHSK = heads_first(self.value(x_BTD, dtype=dtype))
        scale = (width // self.num_heads) ** -0.5
        scores_BHTS = product("bhtk,bhsk->bhts", query_BHTK * scale, key_BHSK, dtype)
        scores_BHTS = jnp.where(mask_BT[:, None, None, :], scores_BHTS, _MASKED)
        weights_BHTS = dropout(jax.nn.softmax(scores_BHTS, axis=-1), self.dropout_rate, key_B)
        context_BHTK = product("bhts,bhsk->bhtk", weights_BHTS, value_BHSK, dtype)
        context_BTD = context_BHTK.transpose(0, 2, 1, 3).reshape(batch, num_tokens, width)
        return self.output(context_BTD, dtype=dtype)


class Layer(nnx.Module):
    """Attention and feed-forward, each followed by dropout, the residual sum and LayerNorm ('post-LN')."""

    def __init__(self, config: ElectraConfig, *, rngs_key: jax.Array) -> None:
        keys = jax.random.split(rngs_key, 3)
        self.attention = Attention(config, rngs_key=keys[0])
        self.attention_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = _dense(keys[1], config, config.hidden_size, config.intermediate_size)
        self.output = _dense(keys[2], config, config.intermediate_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = config.hidden_act
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self,
        x_BTD: jax.Array,
        mask_BT: jax.Array,
        *,
        keys: list[jax.Array] | list[None],
        dtype: DTypeLike,
    ) -> jax.Array:
        """`keys` are three times [B]: of the attention's dropout, and of the two before a residual sum."""
        y_BTD = self.attention(x_BTD, mask_BT, key_B=keys[0], dtype=dtype)
        x_BTD = self.attention_layer_norm(x_BTD + dropout(y_BTD, self.dropout_rate, keys[1]))
        y_BTF = activate(self.intermediate(x_BTD, dtype=dtype), self.activation)
        y_BTD = self.output(y_BTF, dtype=dtype)
        return self.layer_norm(x_BTD + dropout(y_BTD, self.dropout_rate, keys[2]))


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

    def __call__(self, x_BTE: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        """Hidden states of the last layer, [B, T, D]. `mask_BT` is true at real tokens."""
        project = self.embeddings_project
        x_BTD = x_BTE if project is None else project(x_BTE, dtype=dtype)
        mask_BT = mask_BT.astype(bool)
        for layer, keys in zip(self.layers, split_keys(key_B, len(self.layers), 3), strict=True):
            x_BTD = layer(x_BTD, mask_BT, keys=keys, dtype=dtype)
        return x_BTD
