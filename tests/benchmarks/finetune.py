"""Our fine-tuning against that of transformers' `Trainer`, in float32 on CPUs, loop and input included.

    python tests/benchmarks/finetune.py --rounds 7 --steps 10
    python tests/benchmarks/finetune.py --tasks mrpc --mrpc data/glue/MRPC --model google-small

The Trainer and `jax` get the same batches: the same rows in the same order, padded to the task's longest input.
`jax/buckets` is how the project trains: rows of like length together, padded to one of a few lengths. Random weights,
dropout on, the published settings. Each contestant is a process of its own, made ready once; then they take turns.
Ratios are of medians, to the Trainer: above 1 is faster. CPU time, of all threads, still tells something on a machine
that is busy with other work. Compilation is before the turns, and told apart.
"""

import argparse
import os
import platform
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Contestant, Turns, take_turns
from upath import UPath

from cluster.config import ClusterConfig
from cluster.distributed import configure, process_environment
from stages.electra.config import ElectraConfig
from stages.tasks.base import Features, Split, TaskOptions
from stages.tasks.named import TASKS, TaskDefaults, TaskName

BASELINE = "torch/trainer"
CONTESTANTS = (BASELINE, "jax", "jax/buckets")
FOLDERS = {TaskName.MRPC: Path("data/glue/MRPC"), TaskName.CONLL2000: Path("data/conll2000")}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained on, the same for all contestants.

    Attributes:
      task: Its published settings.
      config: Of the network, with the task's classes.
      features: Training rows.
      lengths: Of the rows of both splits, by which those to pad to are chosen.
      pad: Id of [PAD].
    """

    task: TaskDefaults
    config: ElectraConfig
    features: Features
    lengths: np.ndarray
    pad: int


def read_work(options: argparse.Namespace) -> Work:
    """Rows as a fine-tuning run makes them."""
    from stages.electra.files.model_folder import load_backbone
    from stages.electra.tokenizer import build_tokenizer
    from stages.tasks.registry import make_task
    from stages.tasks.tokens import WordPiece

    if options.model:
        config, _ = load_backbone(options.model)
        tokenizer = WordPiece.from_file(UPath(options.model) / "tokenizer.json")
    else:
        config = ElectraConfig()
        tokenizer = WordPiece(build_tokenizer(options.vocab.read_text().split("\n")[:-1], lowercase=True))
    name = TaskName(options.task)
    task = make_task(name, TaskOptions(max_length=TASKS[name].max_length))
    data = task.load(UPath(getattr(options, name)))
    train, dev = (
        task.features(examples, tokenizer, labels=data.labels, split=split)
        for examples, split in ((data.train, Split.TRAIN), (data.dev, Split.DEV))
    )
    return Work(
        task=TASKS[name],
        config=config.change(num_labels=len(data.labels), hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1),
        features=train,
        lengths=np.concatenate([train.lengths, dev.lengths]),
        pad=tokenizer.pad,
    )


def num_turned_steps(options: argparse.Namespace) -> int:
    """Steps of a contestant: it ends before the one after its last turn."""
    return options.warmup + options.rounds * options.steps + 1


def serve_ours(work: Work, options: argparse.Namespace, *, bucketed: bool) -> None:
    import jax

    from stages.finetune.config import published_layer_decay, published_learning_rate
    from stages.tasks.buckets import bucket_lengths, make_batch, num_steps, training_batches
    from stages.tasks.model import init_model, make_layer_scale, make_task_loss
    from stages.tasks.prediction import BatchShape
    from stages.training.config import OptimizerConfig
    from stages.training.loop import Intervals, Window, run_loop
    from stages.training.optimizer import make_optimizer
    from stages.training.state import init_state, make_train_step

    config, features, longest = work.config, work.features, work.task.max_length
    buckets = bucket_lengths(work.lengths, max_length=longest, epochs=work.task.epochs) if bucketed else (longest,)
    shape = BatchShape(batch_size=options.batch_size, buckets=buckets, pad=work.pad)
    steps = num_steps(features.num_rows, batch_size=options.batch_size, epochs=work.task.epochs)
    steps = max(steps, num_turned_steps(options))
    graphdef, params = init_model(work.task.kind, config=config, num_labels=config.num_labels, seed=0)
    optimizer = make_optimizer(
        OptimizerConfig(
            learning_rate=published_learning_rate(config.hidden_size), steps=steps, warmup_steps=steps // 10
        ),
        lr_scale=make_layer_scale(
            num_layers=config.num_hidden_layers, decay=published_layer_decay(config.hidden_size), offset=1
        ),
    )
    step = make_train_step(make_task_loss(graphdef, work.task.kind, dtype="float32"), optimizer)

    state, sums = init_state(params, optimizer, key=jax.random.key(0)), {}
    started = time.perf_counter()
    bucket_of = np.searchsorted(buckets, features.lengths)
    for bucket in np.unique(bucket_of):
        rows = np.nonzero(bucket_of == bucket)[0][: options.batch_size]
        batch = make_batch(features, rows, buckets=buckets, batch_size=options.batch_size, pad=work.pad)
        state, sums = step(state, batch)
    jax.block_until_ready(sums)
    facts = {"buckets": [int(length) for length in buckets], "compilation": time.perf_counter() - started}
    turns = Turns(facts, finish=lambda: jax.block_until_ready(sums))

    class TurnStep:
        """The step, which waits for its turn."""

        lower = step.lower

        def __call__(self, state: Any, batch: Any) -> Any:
            nonlocal sums
            turns.before_step()
            state, sums = step(state, batch)
            return state, sums

    order = training_batches(features.lengths, buckets=buckets, batch_size=options.batch_size, seed=0)
    run_loop(
        state,
        window=Window(),
        intervals=Intervals(num_steps=steps, log=max(1, steps // 50), evaluate=steps, checkpoint=steps),
        train_step=TurnStep(),
        batches=(shape.make(features, rows) for rows in order),
        on_window=lambda window: None,
        evaluate=lambda step, params: True,
        describe_rows=str,
    )


def serve_trainer(work: Work, options: argparse.Namespace) -> None:
    from itertools import islice

    from torch_trainer import train

    from stages.tasks.buckets import make_batch, training_batches

    longest = work.task.max_length
    order = training_batches(work.features.lengths, buckets=(longest,), batch_size=options.batch_size, seed=0)
    batches = [
        make_batch(work.features, rows, buckets=(longest,), batch_size=len(rows), pad=work.pad)
        for rows in islice(order, num_turned_steps(options))
    ]
    train(work.config, work.task.kind, batches, threads=options.threads, start=lambda: Turns({}))


def serve(options: argparse.Namespace) -> None:
    """A contestant's process."""
    work = read_work(options)
    if options.contestant == BASELINE:
        serve_trainer(work, options)
    else:
        serve_ours(work, options, bucketed=options.contestant == "jax/buckets")


def report(contestants: list[Contestant], *, batch_size: int) -> str:
    """A Markdown table."""
    medians = {one.name: statistics.median(one.seconds) for one in contestants}
    cpu_medians = {one.name: statistics.median(one.cpu_seconds) for one in contestants}
    lines = ["| step | ms | ratio | CPU ms | ratio | examples/s | compilation |", f"|{' --- |' * 7}"]
    for one in contestants:
        cells = [one.name]
        for times in (medians, cpu_medians):
            ratio = f"{times[BASELINE] / times[one.name]:.2f}" if BASELINE in times else "-"
            cells += [f"{times[one.name] * 1e3:.0f}", ratio]
        cells.append(f"{batch_size / medians[one.name]:.1f}")
        cells.append(f"{one.facts['compilation']:.0f} s for {one.facts['buckets']}" if one.facts else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(FOLDERS), choices=list(FOLDERS), type=TaskName)
    for task, folder in FOLDERS.items():
        parser.add_argument(f"--{task}", type=Path, default=folder, help="folder of its files")
    parser.add_argument("--model", help="Hugging Face folder of the sizes and the tokenizer; default ELECTRA-small")
    parser.add_argument("--vocab", type=Path, default=Path("data/vocab/vocab.txt"), help="where no model is given")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=10, help="steps of a turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--only", nargs="*", default=CONTESTANTS, choices=CONTESTANTS, help="contestants")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cluster = ClusterConfig(cpus_per_process=options.threads, compilation_cache=None)
    if options.contestant:
        configure(cluster)
        serve(options)
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "transformers", "accelerate"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, {packages}")
    for task in options.tasks:
        names = ("mrpc", "conll2000", "vocab", "batch_size", "threads", "rounds", "steps", "warmup")
        arguments = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
        arguments += [f"--task={task}", *([f"--model={options.model}"] if options.model else [])]
        # The environment that the project gives its processes; torch has its own.
        contestants = [
            Contestant(name, arguments, environment=None if name == BASELINE else process_environment(cluster))
            for name in options.only
        ]
        take_turns(contestants, rounds=1, steps=options.warmup)
        for one in contestants:
            one.forget()
        take_turns(contestants, rounds=options.rounds, steps=options.steps)
        print(f"\n{task}, batches of {options.batch_size}\n\n{report(contestants, batch_size=options.batch_size)}")
        for one in contestants:
            one.close()


if __name__ == "__main__":
    main()
