"""What devices can do: their peak speed, their memory, and how fast they reach it and one another."""

import timeit
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, by its maker's data sheet.

    Attributes:
      kind: How JAX's device kind begins.
      peak: Dense FLOP/s of matrix products by number format; float32 is left out where the sheet has none.
      memory: Bytes.
      bandwidth: Bytes a second between memory and chip.
      link: Bytes a second that it sends to its neighbours, over all its links.
    """

    kind: str
    peak: Mapping[str, float]
    memory: float
    bandwidth: float
    link: float


# By the name that people use. NVIDIA's numbers are without sparsity; NVLink's and PCIe's are of one direction.
DEVICES = {
    "h100-pcie": Device(
        kind="NVIDIA H100 PCIe",
        peak={"bfloat16": 756e12, "float32": 51e12},
        memory=80 * GIB,
        bandwidth=2.0e12,
        link=64e9,
    ),
    "h100": Device(
        kind="NVIDIA H100", peak={"bfloat16": 989e12, "float32": 67e12}, memory=80 * GIB, bandwidth=3.35e12, link=450e9
    ),
    "h200": Device(
        kind="NVIDIA H200", peak={"bfloat16": 989e12, "float32": 67e12}, memory=141e9, bandwidth=4.8e12, link=450e9
    ),
    "a100-40gb": Device(
        kind="NVIDIA A100-SXM4-40GB",
        peak={"bfloat16": 312e12, "float32": 19.5e12},
        memory=40 * GIB,
        bandwidth=1.555e12,
        link=300e9,
    ),
    "a100": Device(
        kind="NVIDIA A100", peak={"bfloat16": 312e12, "float32": 19.5e12}, memory=80 * GIB, bandwidth=2.0e12, link=300e9
    ),
    "v4": Device(kind="TPU v4", peak={"bfloat16": 275e12}, memory=32 * GIB, bandwidth=1.2e12, link=300e9),
    "v5e": Device(kind="TPU v5 lite", peak={"bfloat16": 197e12}, memory=16 * GIB, bandwidth=0.82e12, link=200e9),
    "v5p": Device(kind="TPU v5", peak={"bfloat16": 459e12}, memory=95 * GIB, bandwidth=2.765e12, link=600e9),
    "v6e": Device(kind="TPU v6 lite", peak={"bfloat16": 918e12}, memory=32 * GIB, bandwidth=1.64e12, link=448e9),
}


def device_of(kind: str) -> Device | None:
    """The device of JAX's `device_kind`; None for one that is not in the table."""
    return next((device for device in DEVICES.values() if kind.startswith(device.kind)), None)


def peak_flops(dtype: str) -> float:
    """Peak FLOP/s of this process's devices together: from data sheets, or measured for a device without one."""
    import jax

    devices = jax.local_devices()
    known = device_of(devices[0].device_kind)
    return ((known and known.peak.get(dtype)) or _measure(dtype)) * len(devices)


def _measure(dtype: str, *, size: int = 1024) -> float:
    """FLOP/s of the fastest of several square matrix products on one device."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    seconds = min(timeit.repeat(lambda: multiply(a).block_until_ready(), number=1, repeat=5))
    return 2.0 * size**3 / seconds
