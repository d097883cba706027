"""The arithmetic that everything else is built from.

Shapes: `N` rows, `I` inputs, `O` outputs, `V` vocabulary, `E` embedding width, `D` any width; `x` has any
leading axes. Parameters and results are float32. `dtype` is what matrix products take in: with bfloat16 they
still add up in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import Activation


def truncated_normal(key: jax.Array, shape: tuple[int, ...], *, stddev: float) -> jax.Array:
    """BERT's initialiser: a normal distribution cut at two standard deviations."""
    return stddev * jax.random.truncated_normal(key, -2, 2, shape)


def glorot_uniform(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """TensorFlow's default initialiser, which the original leaves in place for final task layers."""
    limit = np.sqrt(6 / sum(shape))
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def activate(x: jax.Array, activation: Activation) -> jax.Array:
    match activation:
        case Activation.GELU:
            return jax.nn.gelu(x, approximate=False)
        case Activation.GELU_NEW:
            return jax.nn.gelu(x, approximate=True)
        case Activation.RELU:
            return jax.nn.relu(x)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of `x` and scales the rest; without a key `x` stays as it is.

    A 32-bit random word decides about two elements. The rate is a multiple of 1/65536, and the scale is that
    of the rate used, so that the expectation is exact.
    """
    if key is None or rate == 0:
        return x
    threshold = round(rate * 2**16)
    *rows, width = x.shape
    words = jax.random.bits(key, (*rows, (width + 1) // 2), jnp.uint32)
    lanes = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., :width]
    return jnp.where(lanes >= threshold, x * (2**16 / (2**16 - threshold)), 0)


def split_key(key: jax.Array | None, num: int) -> list[jax.Array] | list[None]:
    """`num` keys from one; none from none."""
    return [None] * num if key is None else list(jax.random.split(key, num))


class Dense(nnx.Module):
    """`x W + b`."""

    def __init__(self, kernel_IO: jax.Array) -> None:
        self.kernel = nnx.Param(kernel_IO)
        self.bias = nnx.Param(jnp.zeros(kernel_IO.shape[1], jnp.float32))

    def __call__(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        kernel_IO = self.kernel[...]
        y_NO = matmul(x.reshape(-1, x.shape[-1]), kernel_IO, dtype=dtype) + self.bias[...]
        return y_NO.reshape(*x.shape[:-1], -1)


class LayerNorm(nnx.Module):
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last axis, in float32."""

    def __init__(self, width: int, *, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = jnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]


class Embedding(nnx.Module):
    """A table of vectors."""

    def __init__(self, table_VE: jax.Array) -> None:
        self.embedding = nnx.Param(table_VE)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(self.embedding[...], ids, axis=0, mode="clip")


def matmul(x_NI: jax.Array, w_IO: jax.Array, *, dtype: DTypeLike) -> jax.Array:
    """A product of two matrices, taken in `dtype`, added up in float32."""
    return jnp.matmul(x_NI.astype(dtype), w_IO.astype(dtype), preferred_element_type=jnp.float32)
