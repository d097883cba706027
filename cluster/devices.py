"""The peak speed of a device."""

import timeit

import jax
import jax.numpy as jnp

# Dense peak in FLOP/s by the start of JAX's device kind and the data type: NVIDIA's and Google's data sheets.
_PEAK_FLOPS = {
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 67e12},
    "NVIDIA H100": {"bfloat16": 989e12, "float32": 67e12},
    "NVIDIA A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}


def peak_flops(dtype: str) -> float:
    """Peak FLOP/s of this process's devices together: from data sheets, or measured for a device without one."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    known = next((peaks for start, peaks in _PEAK_FLOPS.items() if kind.startswith(start)), {})
    return (known.get(dtype) or _measure(dtype)) * len(devices)


def _measure(dtype: str, *, size: int = 1024) -> float:
    """FLOP/s of the fastest of several square matrix products on one device."""
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    seconds = min(timeit.repeat(lambda: multiply(a).block_until_ready(), number=1, repeat=5))
    return 2.0 * size**3 / seconds
