"""One command that says how this project does on an accelerator: right, how fast, how full, and whether it learns.

    python tests/benchmarks/accelerator.py                    # a GPU or TPU; about 8 minutes on one H100
    python tests/benchmarks/accelerator.py --self-test        # tiny shapes, on a CPU too

Needs jax, flax, optax and numpy, no Ray and no MLflow; torch with transformers and pytest if they are there. Its parts,
each of which says why where it cannot be done: golden one-step numbers against a CPU's; attention's kernel against
its plain path, and bfloat16 against float32, by the loss and the gradients of a step; steps of several shapes, and
torch's; pretraining on text that is made here. Returns 1 where a number is wrong.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs room beside it
if "--self-test" in sys.argv:
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # nearly all of its time goes into compiling
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "stages" / "electra"), str(Path(__file__).parent)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import workload  # noqa: E402

from cluster.devices import peak_flops  # noqa: E402
from cluster.distributed import global_batch  # noqa: E402
from cluster.mesh import make_mesh  # noqa: E402
from stages.electra.objectives.pretraining_loss import summarize  # noqa: E402
from stages.electra.sizes import Size  # noqa: E402

# Of a golden number, on a device that adds up in another order, with float32 products.
GOLDEN_TOLERANCE = 1e-3
# Of the loss and of the gradient's norm in bfloat16.
BFLOAT16_TOLERANCE = 2e-2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is done: `shapes` are timed, those of `packed` with rows of several texts."""

    shapes: tuple[workload.Shape, ...]
    packed: tuple[bool, ...]
    steps: int
    pretraining: workload.Shape
    pretraining_seconds: float


def of(size: Size, batch_size: int, sequence_length: int) -> workload.Shape:
    return workload.Shape(size=size, batch_size=batch_size, sequence_length=sequence_length)


FULL = Plan(
    shapes=(of(Size.SMALL, 128, 128), of(Size.BASE, 256, 512), of(Size.BASE, 64, 512)),
    packed=(False, False, True),
    steps=20,
    pretraining=of(Size.SMALL, 128, 128),
    pretraining_seconds=180,
)
TINY = Plan(
    shapes=(of(Size.TINY, 2, 16), of(Size.TINY, 2, 16)),
    packed=(False, True),
    steps=2,
    pretraining=of(Size.TINY, 4, 16),
    pretraining_seconds=1,
)


def packed_rows(shape: workload.Shape) -> dict[str, np.ndarray]:
    """Full rows of four texts each."""
    rows = shape.rows()
    begins = np.zeros(rows["ids"].shape, bool)
    begins[:, :: max(2, shape.sequence_length // 4)] = True
    rows["ids"] = np.where(begins, workload.SPECIAL_IDS["cls"], rows["ids"])
    return {**rows, "first_length": rows["length"], "begins": begins}


def golden() -> list[str]:
    """Compares a step of each objective with the numbers that a CPU gave; returns what is wrong."""
    try:
        import test_one_step as steps
    except ImportError as error:
        print(f"golden numbers: not compared ({error})")
        return []
    wrong = []
    with jax.default_matmul_precision("highest"):
        for case, fields in steps.CASES.items():
            found = steps.one_step(**fields)
            expected = steps.read((steps.GOLDEN / f"one-step-{case}.txt").read_text())
            worst = max(expected, key=lambda name: abs(found[name] - expected[name]) / max(abs(expected[name]), 1e-3))
            off = abs(found[worst] - expected[worst]) / max(abs(expected[worst]), 1e-3)
            print(f"golden {case:<32} furthest off: {worst} by {off:.1e} of itself")
            if off > GOLDEN_TOLERANCE:
                wrong.append(f"golden {case}: {worst} is {found[worst]:.7g}, a CPU gave {expected[worst]:.7g}")
    return wrong


def first_numbers(shape: workload.Shape, *, dtype: str, precision: str = "default") -> tuple[float, float]:
    """The loss of the first step, and the norm of its gradient."""
    with jax.default_matmul_precision(precision):
        program = workload.Program(shape, dtype=dtype, mesh=make_mesh())
        _, sums = program.train_step(program.init_state(), global_batch(make_mesh(), shape.rows()))
    return summarize(jax.device_get(sums))["loss/total"], float(sums["optimizer/gradient_norm"])


def numbers(shape: workload.Shape) -> list[str]:
    """The same step in float32, in bfloat16, and in bfloat16 without a kernel of attention; what is wrong."""
    found = {"float32": first_numbers(shape, dtype="float32", precision="highest")}
    found["bfloat16"] = first_numbers(shape, dtype="bfloat16")
    plain = plain_attention()
    if plain is not None:
        with plain:
            found["bfloat16, plain attention"] = first_numbers(shape, dtype="bfloat16")
    wrong = []
    for name, values in found.items():
        print(f"first step, {name:<28} loss {values[0]:.5f}, gradient's norm {values[1]:.5f}")
        for what, value, expected in zip(("loss", "gradient's norm"), values, found["float32"], strict=True):
            if not abs(value - expected) <= BFLOAT16_TOLERANCE * abs(expected):
                wrong.append(f"the {what} in {name} is {value:.5f}, in float32 {expected:.5f}")
    return wrong


def plain_attention() -> Any:
    """A context in which attention takes its plain path; None where the device has no other."""
    from unittest.mock import patch

    import stages.electra.attention as attention

    module: Any = next(
        (found for name, found in sorted(sys.modules.items())
         if name.startswith(attention.__name__) and hasattr(found, "choose_path") and hasattr(found, "attend")), None
    )  # fmt: skip
    if module is None or jax.default_backend() == "cpu":
        return None
    return patch.object(module, "choose_path", lambda *_, **__: module.AttentionPath.PLAIN)


def timed(name: str, shape: workload.Shape, run: Callable[[int], float], steps: int, *, note: str) -> None:
    """Prints the median of five turns of so many steps."""
    run(2)
    seconds = sorted(run(steps) / steps for _ in range(5))[2]
    peak = peak_flops("bfloat16")
    print(
        f"{shape.size} {shape.batch_size} x {shape.sequence_length} {name:<24}{seconds * 1e3:9.2f} ms "
        f"{shape.tokens / seconds:12,.0f} tokens/s  MFU {shape.flops / seconds / peak:6.1%}  {note}",
        flush=True,
    )


def time_ours(shape: workload.Shape, *, packed: bool, steps: int) -> None:
    started = time.perf_counter()
    step = workload.OurStep(
        shape, dtype="bfloat16", mesh=make_mesh(), rows=packed_rows(shape) if packed else shape.rows()
    )
    ready = time.perf_counter() - started
    memory = step.compiled.memory_analysis()
    size = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e9 if memory else float("nan")
    note = f"memory {size:.2f} GB, ready in {ready:.0f} s, host {host_seconds(step) * 1e3:.2f} ms a step"
    timed("packed" if packed else "", shape, step.run, steps, note=note)


def host_seconds(step: workload.OurStep, *, steps: int = 5) -> float:
    """Of giving a step to the device, which has no time to finish it: the least of a few."""
    step.run(1)
    times = [time.perf_counter()]
    for _ in range(steps):
        step.dispatch()
        times.append(time.perf_counter())
    step.run(1)
    return min(after - before for before, after in pairwise(times))


def time_torch(shape: workload.Shape, *, steps: int) -> None:
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    try:
        from torch_step import make_torch

        for compiled in (False, True) if device == "cuda" else (False,):
            run, memory, _ = make_torch(shape, dtype="bfloat16", compiled=compiled, device=device)
            name = f"torch {'compiled' if compiled else 'eager'}"
            run(2)
            timed(name, shape, run, steps, note=f"memory {memory() / 1e9:.2f} GB" if memory else "")
    except Exception as error:  # no part may take the others with it
        first = next(iter(str(error).splitlines()), "")
        print(f"{shape.size} torch: not measured ({type(error).__name__}: {first})", flush=True)


def made_text(shape: workload.Shape) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the synthetic corpus without end, a word a token."""
    from stages.sample.grammar import World
    from stages.sample.stories import documents

    ids: dict[str, int] = {}
    for seed in count():
        tokens = [
            ids.setdefault(word, 1000 + len(ids) % (workload.VOCAB_SIZE - 1000))
            for document in documents(World(seed), num_words=200_000)
            for line in document
            for word in line.lower().split()
        ]
        width = shape.sequence_length - 2
        table = np.array(tokens[: len(tokens) // width * width], np.int32).reshape(-1, width)
        edges = [np.full((len(table), 1), workload.SPECIAL_IDS[name], np.int32) for name in ("cls", "sep")]
        table = np.concatenate([edges[0], table, edges[1]], axis=1)
        np.random.default_rng(seed).shuffle(table)
        for first in range(0, len(table) - shape.batch_size + 1, shape.batch_size):
            length = np.full(shape.batch_size, shape.sequence_length, np.int32)
            yield {"ids": table[first : first + shape.batch_size], "length": length, "first_length": length}


def pretrain(shape: workload.Shape, *, seconds: float) -> list[str]:
    """Trains for so long and prints the loss as it falls; what is wrong."""
    mesh = make_mesh()
    optimizer = workload.OPTIMIZER
    program = workload.Program(shape, dtype="bfloat16", mesh=mesh)
    state, batches = program.init_state(), made_text(shape)
    state, sums = program.train_step(state, global_batch(mesh, next(batches)))
    first = last = summarize(jax.device_get(sums))["loss/total"]
    started = shown = time.perf_counter()
    for step in count(2):
        state, sums = program.train_step(state, global_batch(mesh, next(batches)))
        now = time.perf_counter()
        if now - shown > seconds / 12 or step % 200 == 0:  # a fetch now and then, or the device falls far behind
            metrics = summarize(jax.device_get(sums))
            last = metrics["loss/total"]
            if time.perf_counter() - shown > seconds / 12:
                shown = time.perf_counter()
                print(
                    f"pretraining: {shown - started:5.0f} s, step {step:6}, loss {last:.3f}, generator "
                    f"{metrics['loss/generator']:.3f}, AUC of replaced tokens {metrics['replaced/auc']:.3f}",
                    flush=True,
                )
        if now - started > seconds:
            break
    print(f"pretraining: rate rises to {optimizer.learning_rate:g} over {optimizer.warmup_steps:,} steps; ", end="")
    print(f"loss {first:.3f} at first, {last:.3f} at last")
    return [] if np.isfinite(last) and (last < first or seconds < 10) else [f"the loss went from {first} to {last}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true", help="tiny shapes: tries the benchmark itself")
    parser.add_argument("--seconds", type=float, help="of pretraining (default 180)")
    options = parser.parse_args()
    plan = TINY if options.self_test else FULL
    device = jax.local_devices()[0]
    print(f"{len(jax.local_devices())} x {device.device_kind}, jax {jax.__version__}, Python {sys.version.split()[0]}")
    if device.platform == "cpu" and not options.self_test:
        parser.error("this process has no accelerator: use --self-test, or tests/benchmarks/step.py for CPUs")
    wrong = [] if options.self_test else golden()  # on a CPU they are a test of their own
    wrong += numbers(plan.shapes[0])
    for shape, packed in zip(plan.shapes, plan.packed, strict=True):
        time_ours(shape, packed=packed, steps=plan.steps)
        if not packed:
            time_torch(shape, steps=plan.steps)
    wrong += pretrain(plan.pretraining, seconds=options.seconds or plan.pretraining_seconds)
    print(*(f"WRONG: {line}" for line in wrong), sep="\n") if wrong else print("All numbers are as they should be.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
