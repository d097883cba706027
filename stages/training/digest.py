"""Digests that notice damage: of arrays, whatever mesh or host they lie on, and of what JSON can say.

The digest of an array is a sum, modulo 2^32, of each element's bits hashed with its place. The devices compute it where
the array lies, and addition has no order, so it is the same on any mesh and known to every process. Elements are hashed
one to one: a change of one element always changes the sum, other changes do so but for one in 2^32.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def digest_arrays(tree: Any) -> dict[str, str]:
    """The digest of each array by its path (`state/params/…`). All processes call it together."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # One by one: on CPU, sums over several devices that run at once wait for each other's threads, until XLA aborts.
    return {jax.tree_util.keystr(path, simple=True, separator="/"): f"{int(_digest(x)):08x}" for path, x in leaves}


def digest_json(value: object) -> str:
    """SHA-256 of a value's JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


@jax.jit
def _digest(array: jax.Array) -> jax.Array:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}")).astype(jnp.uint32)
    place, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):  # no reshape: that would gather an array that lies in parts
        place += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    # An odd factor keeps places apart; then the finalizer of MurmurHash3 (Appleby), which maps 32 bits one to one.
    mixed = bits ^ (place * jnp.uint32(0x9E3779B1))
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
