"""The peak speed of a device."""

import time

import jax
import jax.numpy as jnp

# Dense peak in FLOP/s by (start of JAX's device kind, data type): NVIDIA's and Google's data sheets.
_PEAK_FLOPS = {
    ("NVIDIA H200", "bfloat16"): 989e12,
    ("NVIDIA H100", "bfloat16"): 989e12,
    ("NVIDIA A100", "bfloat16"): 312e12,
    ("NVIDIA H200", "float32"): 67e12,
    ("NVIDIA H100", "float32"): 67e12,
    ("NVIDIA A100", "float32"): 19.5e12,
    ("TPU v4", "bfloat16"): 275e12,
    ("TPU v5 lite", "bfloat16"): 197e12,
    ("TPU v5", "bfloat16"): 459e12,
    ("TPU v6 lite", "bfloat16"): 918e12,
}


def peak_flops(dtype: str) -> float:
    """Peak FLOP/s of this process's devices together: from data sheets, or measured for a device without one."""
    devices = jax.local_devices()
    for (kind, of_dtype), peak in _PEAK_FLOPS.items():
        if devices[0].device_kind.startswith(kind) and dtype == of_dtype:
            return peak * len(devices)
    return measured_matmul_flops(dtype) * len(devices)


def measured_matmul_flops(dtype: str, *, size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of the fastest of several square matrix products on one device."""
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        multiply(a).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
