"""What sits on top of an encoder.

Shapes: `B` batch, `T` tokens, `D` model width, `E` embedding width, `P` masked positions, `V` vocabulary,
`C` classes. Logits are float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import Activation, ElectraConfig, HeadKind, SummaryType
from stages.electra.layers import (
    Dense,
    LayerNorm,
    activate,
    dropout,
    glorot_uniform,
    product,
    split_keys,
    sum_dtype,
    truncated_normal,
)


class GeneratorHead(nnx.Module):
    """Vocabulary logits: dense to the embedding width, gelu, LayerNorm, the word table transposed, bias.

    `num_inputs` is the width of the input, if it is not the model's.
    """

    def __init__(self, config: ElectraConfig, *, num_inputs: int | None = None, key: jax.Array) -> None:
        shape = (num_inputs or config.hidden_size, config.embedding_size)
        self.dense = Dense(truncated_normal(key, shape, stddev=config.initializer_range))
        self.layer_norm = LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))

    def transform(self, x_BPD: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """The vectors that the word table is multiplied by, [B, P, E]."""
        # gelu whatever `hidden_act` says: Hugging Face fixes it here, and so do all released weights.
        return self.layer_norm(activate(self.dense(x_BPD, dtype=dtype), Activation.GELU))

    def __call__(self, x_BPD: jax.Array, table_VE: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        x_BPE = self.transform(x_BPD, dtype=dtype)
        x_NE = x_BPE.reshape(-1, x_BPE.shape[-1])
        logits_NV = product("ne,ve->nv", x_NE, table_VE, dtype) + self.bias[None]
        return logits_NV.reshape(*x_BPD.shape[:-1], -1)


class DiscriminatorHead(nnx.Module):
    """A logit for 'this token was replaced' at every token."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key)
        width = config.hidden_size
        self.dense = Dense(truncated_normal(keys[0], (width, width), stddev=config.initializer_range))
        self.prediction = Dense(glorot_uniform(keys[1], (width, 1)))
        self.activation = config.hidden_act

    def __call__(self, x_BTD: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        x_BTD = activate(self.dense(x_BTD, dtype=dtype), self.activation)
        return self.prediction(x_BTD, dtype=sum_dtype(dtype))[..., 0]


class ClassificationHead(nnx.Module):
    """Logits from the vector of [CLS]: dropout, dense, gelu, dropout, dense. The original: dropout, dense."""

    def __init__(self, config: ElectraConfig, *, num_labels: int, kind: HeadKind, key: jax.Array) -> None:
        keys = jax.random.split(key)
        width = config.hidden_size
        self.dense = (
            Dense(truncated_normal(keys[0], (width, width), stddev=config.initializer_range))
            if kind is HeadKind.HUGGINGFACE
            else None
        )
        self.prediction = Dense(glorot_uniform(keys[1], (width, num_labels)))
        self.dropout_rate = config.head_dropout

    def __call__(self, x_BTD: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        keys = split_keys(key_B, 2)
        x_BD = dropout(x_BTD[:, 0], self.dropout_rate, keys[0])
        if self.dense is not None:
            x_BD = activate(self.dense(x_BD, dtype=dtype), Activation.GELU)
            x_BD = dropout(x_BD, self.dropout_rate, keys[1])
        return self.prediction(x_BD, dtype=jnp.float32)


class TokenHead(nnx.Module):
    """Logits at every token: dropout, dense. With two labels, the start and end of an answer."""

    def __init__(self, config: ElectraConfig, *, num_labels: int, dropout_rate: float, key: jax.Array) -> None:
        self.prediction = Dense(glorot_uniform(key, (config.hidden_size, num_labels)))
        self.dropout_rate = dropout_rate

    def __call__(self, x_BTD: jax.Array, *, key_B: jax.Array | None) -> jax.Array:
        return self.prediction(dropout(x_BTD, self.dropout_rate, key_B), dtype=jnp.float32)


class ChoiceHead(nnx.Module):
    """A logit for each text, [B]: one token's vector, or the mean over all; dense, activation, dropout; dense."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key)
        width = config.hidden_size
        self.summary = (
            Dense(truncated_normal(keys[0], (width, width), stddev=config.initializer_range))
            if config.summary_use_proj
            else None
        )
        self.prediction = Dense(glorot_uniform(keys[1], (width, 1)))
        self.summary_type = config.summary_type
        self.activation = config.summary_activation
        self.dropout_rate = config.summary_last_dropout

    def __call__(self, x_BTD: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        match self.summary_type:
            case SummaryType.FIRST:
                x_BD = x_BTD[:, 0]
            case SummaryType.LAST | SummaryType.CLS_INDEX:
                x_BD = x_BTD[:, -1]
            case SummaryType.MEAN:
                x_BD = jnp.mean(x_BTD, axis=1)
        if self.summary is not None:
            x_BD = self.summary(x_BD, dtype=dtype)
        if self.activation is not None:
            x_BD = activate(x_BD, self.activation)
        return self.prediction(dropout(x_BD, self.dropout_rate, key_B), dtype=jnp.float32)[:, 0]
