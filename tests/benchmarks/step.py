"""Our pretraining step against the same step in torch over transformers' modules.

    python tests/benchmarks/step.py --size small --batch-size 32 --sequence-length 128
    python tests/benchmarks/step.py --size base --batch-size 64 --sequence-length 512 --device cuda

Same maths in both: masking on the device, generator, samples from it, discriminator, dropout, one clip, Adam, decay.
Each contestant is a process of its own, in the environment that training gives its processes (large pages among it),
made ready once; then they take turns, step by step. A ratio is of the two turns of a round, to torch eager in float32:
above 1 is faster. Its quartiles are given. Memory is a process's largest resident size on CPUs, what was allocated on
a GPU.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contestants import Contestant, resident_bytes, take_turns

from cluster.config import ClusterConfig, Platform
from cluster.distributed import process_environment

CONTESTANTS = ("torch/eager", "torch/compile", "jax")
DTYPES = ("float32", "bfloat16")
BASELINE = "torch/eager/float32"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A contestant that waits for its turn.

    Attributes:
      run: Seconds of so many steps.
      memory: Largest number of bytes so far.
      peak: FLOP/s that the hardware can do; None where the contestant cannot tell.
      device: What it runs on.
    """

    run: Callable[[int], float]
    memory: Callable[[], int]
    peak: float | None
    device: str


def make_ours(shape: Any, *, dtype: str) -> Ready:
    import jax
    import workload

    from cluster.devices import peak_flops
    from cluster.mesh import make_mesh

    peak = peak_flops(dtype)
    step = workload.OurStep(shape, dtype=dtype, mesh=make_mesh())
    device = jax.local_devices()[0]

    def memory() -> int:
        stats = device.memory_stats() if device.platform != "cpu" else None
        return stats["peak_bytes_in_use"] if stats else resident_bytes()

    return Ready(run=step.run, memory=memory, peak=peak, device=device.device_kind)


def serve(options: argparse.Namespace) -> None:
    """A contestant's process: says when it is ready, then runs as many steps as each line of its input says."""
    os.environ["JAX_PLATFORMS"] = options.device
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    from workload import Shape

    shape = Shape(size=options.size, batch_size=options.batch_size, sequence_length=options.sequence_length)
    framework, _, dtype = options.contestant.rpartition("/")
    if framework == "jax":
        ready = make_ours(shape, dtype=dtype)
    else:
        from torch_step import make_torch

        run, memory, device = make_torch(
            shape, dtype=dtype, compiled=framework == "torch/compile", device=options.device
        )
        ready = Ready(run=run, memory=memory or resident_bytes, peak=None, device=device)
    ready.run(options.warmup)
    print(json.dumps({"peak": ready.peak, "device": ready.device, "flops": shape.flops}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        print(json.dumps({"seconds": ready.run(steps) / steps, "memory": ready.memory()}), flush=True)


def report(contestants: list[Contestant], *, tokens: int) -> str:
    """A Markdown table; MFU against the peak that our process of the same number format found."""
    base = next((one.seconds for one in contestants if one.name == BASELINE), None)
    medians = {one.name: statistics.median(one.seconds) for one in contestants}
    peaks = {one.name.rpartition("/")[2]: one.facts["peak"] for one in contestants if one.facts["peak"]}
    lines = ["| step | ms | ratio (quartiles) | tokens/s | MFU | memory |", "| --- | --- | --- | --- | --- | --- |"]
    for one in contestants:
        seconds, peak = medians[one.name], peaks.get(one.name.rpartition("/")[2])
        ratio = "-"
        if base is not None:
            ratios = [theirs / ours for theirs, ours in zip(base, one.seconds, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        mfu = f"{one.facts['flops'] / seconds / peak:.1%}" if peak else "-"
        memory = f"{one.memory / 2**30:.2f} GiB"
        lines.append(f"| {one.name} | {seconds * 1e3:.1f} | {ratio} | {tokens / seconds:,.0f} | {mfu} | {memory} |")
    return "\n".join(lines)


def large_pages() -> str:
    """When the kernel gives them, the word in brackets."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return path.read_text().strip() if path.exists() else "unknown"


def main() -> None:
    names = [f"{contestant}/{dtype}" for contestant in CONTESTANTS for dtype in DTYPES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["tiny", "small", "base", "large"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=21, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--only", nargs="*", default=names, choices=names, help="contestants")
    parser.add_argument("--contestant", choices=names, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        serve(options)
        return
    arguments = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in
                 ("size", "batch_size", "sequence_length", "device", "warmup")]  # fmt: skip
    on_gpu = {"accelerators_per_process": 1} if options.device == "cuda" else {}
    cluster = ClusterConfig(platform=Platform(options.device), cpus_per_process=os.cpu_count() or 1, **on_gpu)
    environment = process_environment(cluster)
    contestants = [Contestant(name, arguments, environment=environment) for name in options.only]
    take_turns(contestants, rounds=options.rounds, steps=options.steps)
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "transformers"))
    print(
        f"{options.size}, {options.batch_size} x {options.sequence_length} tokens a step, "
        f"{contestants[0].facts['device']}, {os.cpu_count()} cores, {packages}\n"
        f"large pages: {large_pages()}; {environment.get('GLIBC_TUNABLES', 'no GLIBC_TUNABLES')}\n"
    )
    print(report(contestants, tokens=options.batch_size * options.sequence_length))
    for one in contestants:
        one.close()


if __name__ == "__main__":
    main()
