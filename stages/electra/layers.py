"""The arithmetic that everything else is built from.

Shapes: `N` rows, `I` inputs, `O` outputs, `V` vocabulary, `E` embedding width, `B` batch, `X` any further axes;
`x` has any axes. Parameters and results are float32. `dtype` is what matrix products take in: with bfloat16 they
still add up in float32.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from stages.electra.config import Activation

# Names of what a forward pass may keep for the backward pass (`stages.electra.encoder`).
PRODUCT, WEIGHTS = "product", "weights"


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
        case Activation.TANH:
            return jnp.tanh(x)


def dropout(x_BX: jax.Array, rate: float, key_B: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of the elements and scales the rest; without keys nothing happens.

    The random words are a keyed hash of each element's place, not threefry: a BERT layer draws a word for every
    activation, threefry took longer than the LayerNorm it feeds and most of the time to compile the step
    (0.6 s a call against 0.04 s), and it fuses with nothing.
    """
    if key_B is None or rate == 0:
        return x_BX
    keep_BX = hashed_words(key_B, x_BX.shape[1:]) >= first_kept(rate)
    return jnp.where(keep_BX, x_BX / (1 - rate), 0)


def first_kept(rate: float) -> np.uint32:
    """The smallest word with which `dropout` keeps an element."""
    return np.uint32(round(rate * 2**32))


def hashed_words(key_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random uint32 [B, *shape], of statistical quality only, for masks that decide no more than what is dropped."""
    place_X = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(1, *shape)
    seed_2BX = jax.random.key_data(key_B).T.reshape(2, -1, *[1] * len(shape))
    return hash_place(place_X, seed_2BX[0], seed_2BX[1])


def hash_place(place: jax.Array, first_seed: jax.Array, second_seed: jax.Array) -> jax.Array:
    """The word, uint32, of the element with this number in its row, by the two words of the row's key."""
    return _mix(_mix(place ^ first_seed) ^ second_seed)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit words that flips each output bit with even odds for each input bit.

    Constants: C. Wellons, 'Prospecting for Hash Functions', 2018 (lowbias32).
    """
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def key_array(key_B: jax.Array, *shape: int) -> jax.Array:
    """Keys [*shape, B], in one draw."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, shape))(key_B), 0, -1)


def split_keys(key_B: jax.Array | None, number: int) -> list[Any]:
    """As many keys [B], in one draw; no keys give as many None."""
    return [None] * number if key_B is None else list(key_array(key_B, number))


def sum_dtype(dtype: DTypeLike) -> Any:
    """What products of `dtype` add up in: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def product(subscripts: str, x: jax.Array, y: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`jnp.einsum(subscripts, x, y)` of operands rounded to `dtype`, added up in float32 or, of float64, in that.

    Every index occurs in two of the three. So the gradients are products too, and take their operands in
    `dtype` as well: left to JAX they would be float32 products, the incoming gradient being float32.
    """
    return jnp.einsum(subscripts, x.astype(dtype), y.astype(dtype), preferred_element_type=sum_dtype(dtype))


def _product_forward(subscripts: str, x: jax.Array, y: jax.Array, dtype: DTypeLike) -> Any:
    x, y = x.astype(dtype), y.astype(dtype)
    return product(subscripts, x, y, dtype), (x, y)


def _product_backward(subscripts: str, dtype: DTypeLike, kept: Any, grad: jax.Array) -> Any:
    (x, y), (inputs, output) = kept, subscripts.split("->")
    x_indices, y_indices = inputs.split(",")
    return (
        product(f"{output},{y_indices}->{x_indices}", grad, y, dtype),
        product(f"{x_indices},{output}->{y_indices}", x, grad, dtype),
    )


product.defvjp(_product_forward, _product_backward)


class Dense(nnx.Module):
    """`x W + b`."""

    def __init__(self, kernel_IO: jax.Array) -> None:
        self.kernel = nnx.Param(kernel_IO)
        self.bias = nnx.Param(jnp.zeros(kernel_IO.shape[1], jnp.float32))

    def __call__(self, x: jax.Array, *, dtype: DTypeLike, is_kept: bool = True) -> jax.Array:
        """The result, by the name `PRODUCT` unless who asks names what it makes of it."""
        # Leading axes merged: one large matrix product is faster than many small ones.
        y_NO = product("ni,io->no", x.reshape(-1, x.shape[-1]), self.kernel[...], dtype) + self.bias[None]
        y = y_NO.reshape(*x.shape[:-1], -1)
        return checkpoint_name(y, PRODUCT) if is_kept else y


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
        scale, bias = (jnp.expand_dims(param[...], range(x.ndim - 1)) for param in (self.scale, self.bias))
        return centred * jax.lax.rsqrt(variance + self.eps) * scale + bias


class Embedding(nnx.Module):
    """A table of vectors."""

    def __init__(self, table_VE: jax.Array) -> None:
        self.embedding = nnx.Param(table_VE)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(self.embedding[...], ids, axis=0, mode="clip")
