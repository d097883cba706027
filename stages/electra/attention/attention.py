"""Attention: one function, computed step by step or by a kernel, and the layers around it.

Shapes: `B` batch, `T` tokens, `S` tokens attended to, `D` model width, `H` heads, `K` head width.
"""

from enum import StrEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from stages.electra.attention.attention_kernels import Platform
from stages.electra.attention.flash_attention import flash_attention
from stages.electra.attention.sight import Sight
from stages.electra.config import ElectraConfig
from stages.electra.layers import (
    PRODUCT,
    WEIGHTS,
    Dense,
    LayerNorm,
    dropout,
    product,
    split_keys,
    sum_dtype,
    truncated_normal,
)
from stages.electra.sharding import target_platform

# Added where attention may not look. Finite, so that a row of nothing but padding attends evenly to all of
# it instead of dividing zero by zero.
_MASKED = -1e9
_KERNEL_WIDTH = 128  # of a head at most: twice that of all published models


class AttentionPath(StrEnum):
    """How attention is computed. The kernel never writes the weights to memory, and so cannot give them."""

    PLAIN = "plain"
    KERNEL = "kernel"


def choose_path(
    sight: Sight, *, num_tokens: int, head_width: int, dtype: DTypeLike, with_weights: bool
) -> AttentionPath:
    """The kernel, on what has one, for tokens that attend to their own sequence and do not give the weights."""
    has_kernel = (
        target_platform() in list(Platform)
        and not _is_old_gpu()
        and sight.place is None
        and sight.real_BS.shape[1] == num_tokens
        and head_width <= _KERNEL_WIDTH
        and jnp.dtype(dtype).itemsize <= 4
    )
    return AttentionPath.KERNEL if has_kernel and not with_weights else AttentionPath.PLAIN


def _is_old_gpu() -> bool:
    """Whether this process computes on NVIDIA's cards from before Ampere, for which Triton does not compile."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    return str(capability).startswith(("5.", "6.", "7."))


def attend(
    query_BTHK: jax.Array,
    key_BSHK: jax.Array,
    value_BSHK: jax.Array,
    sight: Sight,
    *,
    dtype: DTypeLike,
    dropout_rate: float = 0.0,
    key_B: jax.Array | None = None,
    with_weights: bool = False,
    path: AttentionPath | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Sums of the values, weighted by softmax(query key / sqrt(K)), and the weights.

    A query that may look nowhere gets the even mean of all values. Both paths drop the same weights.

    Args:
      dtype: What the products take in; they add up in float32.
      dropout_rate: Of the weights, drawn from `key_B`, without which there is none.
      with_weights: Whether the weights [B, H, T, S] are wanted, after dropout.
      path: None takes what `choose_path` says. Where there is no kernel, it is interpreted.

    Raises:
      ValueError: The kernel is to give weights, or to look at other tokens than a sequence's own.
    """
    num_tokens, _, width = query_BTHK.shape[1:]
    if path is None:
        path = choose_path(sight, num_tokens=num_tokens, head_width=width, dtype=dtype, with_weights=with_weights)
    scale = width**-0.5
    if path is AttentionPath.KERNEL:
        if with_weights or sight.place is not None or sight.real_BS.shape[1] != num_tokens:
            raise ValueError("the kernel of attention has no weights to return, and no tokens but those that look")
        platform = target_platform()
        has_kernel = platform in list(Platform)
        context_BTHK = flash_attention(
            (query_BTHK * scale).astype(dtype),
            key_BSHK.astype(dtype),
            value_BSHK.astype(dtype),
            sight,
            platform=Platform(platform) if has_kernel else Platform.TPU,
            dropout_rate=dropout_rate,
            key_B=key_B,
            interpret=not has_kernel,
        )
        return context_BTHK.astype(sum_dtype(dtype)), None
    operands = (checkpoint_name(x, PRODUCT) for x in (query_BTHK, key_BSHK, value_BSHK))
    query_BHTK, key_BHSK, value_BHSK = (x.transpose(0, 2, 1, 3) for x in operands)
    scores_BHTS = product("bhtk,bhsk->bhts", query_BHTK * scale, key_BHSK, dtype)
    scores_BHTS = jnp.where(sight.table(num_tokens), scores_BHTS, _MASKED)
    weights_BHTS = checkpoint_name(jax.nn.softmax(scores_BHTS, axis=-1), WEIGHTS)
    weights_BHTS = dropout(weights_BHTS, dropout_rate, key_B)
    context_BHTK = checkpoint_name(product("bhts,bhsk->bhtk", weights_BHTS, value_BHSK, dtype), PRODUCT)
    return context_BHTK.transpose(0, 2, 1, 3), weights_BHTS if with_weights else None


class Memory(NamedTuple):
    """Keys and values of the tokens that a layer of a decoder has seen, with room for those to come."""

    key_BSHK: jax.Array
    value_BSHK: jax.Array

    def write(self, key_BTHK: jax.Array, value_BTHK: jax.Array, *, place: jax.Array) -> "Memory":
        """The memory with these tokens written in, from `place` on."""
        return Memory(
            jax.lax.dynamic_update_slice_in_dim(self.key_BSHK, key_BTHK, place, axis=1),
            jax.lax.dynamic_update_slice_in_dim(self.value_BSHK, value_BTHK, place, axis=1),
        )


class Cache(NamedTuple):
    """What a decoder remembers of the tokens before: the layers' memory, with a leading axis of layers, and how many
    tokens there are.
    """

    memory: Memory
    num_tokens: jax.Array

    @classmethod
    def empty(cls, config: ElectraConfig, *, batch_size: int, max_length: int) -> "Cache":
        """A cache of no tokens yet, with room for `max_length`."""
        heads = config.num_attention_heads
        shape = (config.num_hidden_layers, batch_size, max_length, heads, config.hidden_size // heads)
        nothing = jnp.zeros(shape, jnp.float32)
        return cls(Memory(nothing, nothing), jnp.int32(0))

    @property
    def max_length(self) -> int:
        """How many tokens it has room for."""
        return int(self.memory.key_BSHK.shape[2])


class Attended(NamedTuple):
    """The result [B, T, D], the weights [B, H, T, S] where they are wanted, and the memory where there is one."""

    x_BTD: jax.Array
    weights_BHTS: jax.Array | None
    memory: Memory | None


class Attention(nnx.Module):
    """Attention of `H` heads from one sequence to another or to itself, with its output projection."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        shape, stddev = (config.hidden_size, config.hidden_size), config.initializer_range
        self.query = Dense(truncated_normal(keys[0], shape, stddev=stddev))
        self.key = Dense(truncated_normal(keys[1], shape, stddev=stddev))
        self.value = Dense(truncated_normal(keys[2], shape, stddev=stddev))
        self.output = Dense(truncated_normal(keys[3], shape, stddev=stddev))
        self.num_heads = config.num_attention_heads
        self.dropout_rate = config.attention_probs_dropout_prob

    def __call__(
        self,
        x_BTD: jax.Array,
        source_BSD: jax.Array,
        sight: Sight,
        *,
        key_B: jax.Array | None,
        dtype: DTypeLike,
        with_weights: bool = False,
        memory: Memory | None = None,
        place: jax.Array | None = None,
    ) -> Attended:
        """Attends from `x_BTD` to `source_BSD`, which is written into a `memory`, if there is one, from `place` on."""
        batch, num_tokens, width = x_BTD.shape

        def in_heads(y_BSD: jax.Array) -> jax.Array:
            return y_BSD.reshape(batch, -1, self.num_heads, width // self.num_heads)

        query_BTHK = in_heads(self.query(x_BTD, dtype=dtype, is_kept=False))
        key_BSHK = in_heads(self.key(source_BSD, dtype=dtype, is_kept=False))
        value_BSHK = in_heads(self.value(source_BSD, dtype=dtype, is_kept=False))
        if memory is not None and place is not None:
            memory = memory.write(key_BSHK, value_BSHK, place=place)
            key_BSHK, value_BSHK = memory
        context_BTHK, weights_BHTS = attend(
            query_BTHK,
            key_BSHK,
            value_BSHK,
            sight,
            dtype=dtype,
            dropout_rate=self.dropout_rate,
            key_B=key_B,
            with_weights=with_weights,
        )
        context_BTD = context_BTHK.reshape(batch, num_tokens, width)
        return Attended(self.output(context_BTD, dtype=dtype), weights_BHTS, memory)


class Source(NamedTuple):
    """What a decoder attends to besides itself: states of another encoder, and where they are real."""

    x_BSD: jax.Array
    mask_BS: jax.Array


class CrossAttention(nnx.Module):
    """A decoder's attention to the states of another encoder, with its dropout, residual sum and LayerNorm."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        self.attention = Attention(config, key=key)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self, x_BTD: jax.Array, source: Source, *, key_B: jax.Array | None, dtype: DTypeLike, with_weights: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """The next states and, where they are wanted, the weights."""
        keys = split_keys(key_B, 2)
        sight = Sight(real_BS=source.mask_BS)
        found = self.attention(x_BTD, source.x_BSD, sight, key_B=keys[0], dtype=dtype, with_weights=with_weights)
        return self.layer_norm(x_BTD + dropout(found.x_BTD, self.dropout_rate, keys[1])), found.weights_BHTS
