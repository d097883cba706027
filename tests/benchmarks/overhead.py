"""What the training loop costs beside its steps: reading shards, metrics, checkpoints.

    python tests/benchmarks/overhead.py --size small --batch-size 32 --sequence-length 128 --steps 12
    python tests/benchmarks/overhead.py --size tiny --batch-size 16 --steps 200 --checkpoint-every 100
    python tests/benchmarks/overhead.py --size small --batch-size 128 --host 4000    # host work alone

The same compiled step is timed alone on one batch, in the loop that trains, and in that loop with checkpoints. They
take turns; ratios are of medians. A checkpoint's cost is told for one in a thousand steps. A trace of the profiler, of
the loop with checkpoints, says what share of the time the devices stood still.

`--host STEPS` puts a step that returns at once in the place of the real one: what is left is the work of the host for a
step of the stage, with rows of metrics and checkpoints at the intervals that a config has by default.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import workload
from jax.sharding import Mesh
from upath import UPath

from cluster.config import ClusterConfig, Platform
from cluster.distributed import configure, global_batch
from cluster.mesh import make_mesh
from stages.context import Tracker
from stages.data.batches import host_batches
from stages.data.builders import Packing
from stages.data.order import ExampleOrder
from stages.data.rows import Layout, Rows
from stages.data.shard_index import ShardIndex
from stages.data.shards import ShardReader, ids_dtype, write_shard
from stages.electra.objectives.pretraining_loss import summarize
from stages.electra.sizes import Size
from stages.pretrain.config import PretrainConfig
from stages.training.checkpoint import Checkpoints, Kept
from stages.training.loop import Intervals, Window, run_loop
from stages.training.metrics import MetricsLog
from stages.training.state import TrainState, init_state

NEVER = 1 << 40
SKIPPED = 2  # first steps that are not measured


def write_shards(folder: UPath, shape: workload.Shape, *, num_batches: int) -> None:
    """So many batches of random full-length text."""
    random = np.random.default_rng(0)
    first = shape.sequence_length // 2 - 2
    lengths = first, shape.sequence_length - 3 - first
    segments = []
    for _ in range(num_batches * shape.batch_size):
        first, second = (random.integers(1000, workload.VOCAB_SIZE, length).tolist() for length in lengths)
        segments.append((first, second))
    layout = Layout(
        sequence_length=shape.sequence_length, special_ids=workload.SPECIAL_IDS, dtype=ids_dtype(workload.VOCAB_SIZE)
    )
    shard = write_shard(folder, file="train/shard-0.arrow", rows=Rows.of(segments, layout=layout))
    ShardIndex(
        sequence_length=shape.sequence_length,
        packing=Packing.PAIRS,
        vocab_size=workload.VOCAB_SIZE,
        tokenizer_sha256="",
        special_ids=workload.SPECIAL_IDS,
        counts={},
        train=(shard,),
        heldout=(),
    ).write(folder)


class Watched:
    """Batches that remember when each was asked for, without the first ones: the loop compiles before its first step.

    Args:
      trace: Folder for the profiler's trace; None for none.
    """

    def __init__(self, batches: Iterator[Any], *, trace: Path | None) -> None:
        self._batches = batches
        self._trace = trace
        self._times: list[float] = []
        self._busy: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._batches):
            if number == SKIPPED and self._trace is not None:
                jax.profiler.start_trace(str(self._trace))
            self._times.append(time.perf_counter())
            self._busy.append(time.thread_time())
            yield batch
        if self._trace is not None:
            jax.profiler.stop_trace()

    def seconds_a_step(self) -> float:
        """Mean between one batch and the next."""
        return (self._times[-1] - self._times[SKIPPED]) / (len(self._times) - 1 - SKIPPED)

    def busy_seconds_a_step(self) -> float:
        """Likewise of what the loop's own thread computes, without its waiting."""
        return (self._busy[-1] - self._busy[SKIPPED]) / (len(self._busy) - 1 - SKIPPED)


def run_training(
    step: workload.OurStep | workload.Program,
    shards: UPath,
    shape: workload.Shape,
    *,
    mesh: Mesh,
    steps: int,
    checkpoint_every: int,
    log_every: int = 4,
    trace: Path | None = None,
) -> Watched:
    """The batches of the loop as the pretraining stage runs it; its trace into `trace` where that is given."""
    reader = ShardReader(shards, "train")
    order = ExampleOrder(reader.num_rows, shape.batch_size, 0)
    batches = host_batches(reader, order, lambda rows: global_batch(mesh, rows), start_step=0, num_steps=steps)
    watched = Watched(batches, trace=trace)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(UPath(folder), keep=2, identity={})
        log = MetricsLog(UPath(folder) / "metrics.jsonl", tracker=Tracker(), until_step=0)

        def on_window(window: Window) -> None:
            metrics = summarize(window.sums) | {"throughput/steps_per_second": window.steps / window.seconds}
            log.record(metrics, step=window.step, split="train")

        def keep() -> Kept:
            log.flush()
            return Kept()

        run_loop(
            step.init_state(),
            window=Window(),
            intervals=Intervals(num_steps=steps, log=log_every, evaluate=NEVER, checkpoint=checkpoint_every),
            train_step=step.train_step,
            batches=watched,
            on_window=on_window,
            evaluate=lambda step, params: False,
            describe_rows=str,
            checkpoints=checkpoints,
            keep=keep,
        )
        checkpoints.close()
    return watched


def host_only(program: workload.Program) -> tuple[Any, Any]:
    """A train step that computes nothing, with the sums of a real one, and a function that makes its state.

    The state is of one number: the bytes of a checkpoint are the storage's work, in a thread of its own.
    """
    _, sums = jax.eval_shape(program.train_step, *program.arguments)

    def init() -> TrainState:
        params = {"nothing": jnp.zeros(8)}
        return init_state(params, optax.identity(), key=jax.random.key(0))

    def run(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        ones = {name: jnp.ones(value.shape, value.dtype) for name, value in sums.items()}
        return state._replace(step=state.step + 1), ones

    return jax.jit(run, donate_argnums=0), init


def time_host(shape: workload.Shape, *, mesh: Mesh, steps: int) -> None:
    """Prints what a step costs the host, and the part of it that keeps the loop's own thread busy."""
    program = workload.Program(shape, dtype="float32", mesh=mesh)
    defaults = {field.name: field.default for field in fields(PretrainConfig)}
    program.train_step, program.init_state = host_only(program)
    with tempfile.TemporaryDirectory() as name:
        write_shards(UPath(name), shape, num_batches=16)
        watched = run_training(
            program,
            UPath(name),
            shape,
            mesh=mesh,
            steps=steps,
            checkpoint_every=defaults["checkpoint_every"],
            log_every=defaults["log_every"],
        )
    print(f"{shape.batch_size} x {shape.sequence_length} tokens, {steps} steps that return at once")
    print(f"the loop's thread computes {watched.busy_seconds_a_step() * 1e3:.3f} ms a step")
    print(f"a step takes {watched.seconds_a_step() * 1e3:.3f} ms, with the reading of a batch, which goes on beside it")


def idle_share(folder: Path) -> float:
    """Share of the time between the first and the last event on a trace's devices in which none of them has one."""
    (path,) = folder.rglob("*.xplane.pb")
    spans = sorted(
        (event.start_ns, event.end_ns)
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        # A GPU's streams; on CPUs the threads that XLA computes on.
        if (plane.name.startswith("/device:") and line.name.startswith("Stream")) or line.name.startswith("tf_XLA")
        for event in line.events
    )
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=Size, default=Size.SMALL, choices=list(Size))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--platform", type=Platform, default=Platform.CPU, choices=[Platform.CPU, Platform.CUDA])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--steps", type=int, default=12, help="steps of a turn")
    parser.add_argument("--checkpoint-every", type=int, default=4, help="steps")
    parser.add_argument("--host", type=int, metavar="STEPS", help="time the host's work alone, over so many steps")
    options = parser.parse_args()
    on_gpu = {"accelerators_per_process": 1} if options.platform is Platform.CUDA else {}
    configure(ClusterConfig(platform=options.platform, cpus_per_process=2, **on_gpu))
    shape = workload.Shape(size=options.size, batch_size=options.batch_size, sequence_length=options.sequence_length)
    mesh = make_mesh()
    if options.host:
        time_host(shape, mesh=mesh, steps=options.host)
        return
    step = workload.OurStep(shape, dtype=options.dtype, mesh=mesh)
    step.run(2)
    seconds: dict[str, list[float]] = {"step": [], "loop": [], "loop with checkpoints": []}
    with tempfile.TemporaryDirectory() as name:
        folder = UPath(name)
        write_shards(folder, shape, num_batches=options.steps)

        def train(*, checkpoint_every: int, trace: Path | None = None) -> float:
            return run_training(
                step, folder, shape, mesh=mesh, steps=options.steps, checkpoint_every=checkpoint_every, trace=trace
            ).seconds_a_step()

        for turn in range(options.rounds):
            turns = [
                ("step", lambda: step.run(options.steps) / options.steps),
                ("loop", lambda: train(checkpoint_every=NEVER)),
                ("loop with checkpoints", lambda: train(checkpoint_every=options.checkpoint_every)),
            ]
            for kind, take in turns if turn % 2 == 0 else reversed(turns):
                seconds[kind].append(take())
        train(checkpoint_every=options.checkpoint_every, trace=Path(name) / "trace")
        idle = idle_share(Path(name) / "trace")
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    print(f"{shape.size}, {shape.batch_size} x {shape.sequence_length} tokens a step, {options.dtype}")
    for kind, median in medians.items():
        spread = f"{min(seconds[kind]) * 1e3:.2f} to {max(seconds[kind]) * 1e3:.2f}"
        print(f"{kind:<24}{median * 1e3:10.2f} ms a step ({spread})")
    loop = medians["loop"]
    checkpoint = (medians["loop with checkpoints"] - loop) * options.checkpoint_every
    print(f"reading and metrics: {loop / medians['step'] - 1:+.2%}")
    print(f"a checkpoint: {checkpoint * 1e3:.0f} ms; one in a thousand steps: {checkpoint / (1000 * loop):+.2%}")
    print(f"trace: the devices stood still in {idle:.2%} of the time")


if __name__ == "__main__":
    main()
