"""Samples the use of a stage's machine, under the names that MLflow's UI shows as system metrics."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Send = Callable[[Mapping[str, float]], None]


@contextmanager
def sampling(send: Send, *, seconds: float) -> Iterator[None]:
    """Samples in its own thread during a `with` block, every `seconds`; never if that is 0."""
    stop = threading.Event()
    thread = threading.Thread(target=_sample_on, args=(send, seconds, stop), name="system-metrics", daemon=True)
    if seconds > 0:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if seconds > 0:
            thread.join(timeout=5)


def _sample_on(send: Send, seconds: float, stop: threading.Event) -> None:
    import psutil

    psutil.cpu_percent()  # the first call has nothing to compare with
    gpus = _find_gpus()
    while not stop.wait(seconds):
        memory = psutil.virtual_memory()
        sample = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
        }
        for number, gpu in enumerate(gpus):
            sample |= {f"system/gpu_{number}_{name}": value for name, value in _sample_gpu(gpu).items()}
        send(sample)


def _find_gpus() -> list[Any]:
    """Handles of the NVIDIA GPUs; none without their library or driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # ImportError, or an error class of a library that may be absent
        return []


def _sample_gpu(gpu: Any) -> dict[str, float]:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return {
        "utilization_percentage": float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
        "memory_usage_megabytes": memory.used / 1e6,
        "memory_usage_percentage": 100 * memory.used / memory.total,
        "power_usage_watts": pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    }
