"""A whole fine-tuning run: examples, features, training, scores, files.

It goes on from its newest checkpoint, in whichever attempt that is. Checkpoints change no result, and leave nothing
behind when a run is done.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from upath import UPath

from cluster.mesh import make_mesh, replicated
from cluster.storage import write_text
from stages.context import StageContext
from stages.data.batches import made_ahead
from stages.electra.config import ElectraConfig
from stages.electra.files.locate import find_folder
from stages.electra.files.model_folder import load_backbone
from stages.finetune.artifacts import write_results
from stages.finetune.attempt import Attempt, Best
from stages.finetune.config import FinetuneConfig, Init, published_layer_decay, published_learning_rate
from stages.finetune.inputs import find_task, read_examples, read_tokenizer
from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Evaluation, Features, Split, Task, TaskData, load_work
from stages.tasks.buckets import bucket_lengths, num_steps, training_batches
from stages.tasks.model import init_model, make_layer_scale, make_predict, make_task_loss
from stages.tasks.prediction import EVAL_BATCH_SIZE, BatchShape, predict_rows
from stages.training.checkpoint import Checkpoints, Kept
from stages.training.checkpoint_folder import remove_checkpoints
from stages.training.config import OptimizerConfig
from stages.training.keys import Stream, stream_key
from stages.training.loop import Intervals, Window, run_loop
from stages.training.metrics import MetricsLog
from stages.training.optimizer import make_optimizer, make_schedule, parameter_table
from stages.training.state import Params, TrainState, init_state, make_train_step

logger = logging.getLogger(__name__)

_NUM_WINDOWS = 50  # rows of training metrics that a run writes
# Steps: minutes of a small model on two cores. Writing a checkpoint takes less than a hundredth of that.
CHECKPOINT_EVERY = 500
_MUCH_CUT = 0.01  # share of texts that are too long, above which it is said
_FAULTS = {
    "training": (WarningKind.SKIPPED, "cannot be trained on"),
    "scored": (WarningKind.OUT_OF_REACH, "cannot be answered right"),
}
_FLAT = 0.97  # a last loss above this share of a constant guess's means that nothing was learned


def finetune(config: FinetuneConfig, context: StageContext) -> None:
    """Trains, scores and writes what `stages.finetune.stage.run` promises. JAX is configured already."""
    started = time.perf_counter()
    with ExitStack() as stack:
        folder = find_folder(context.expand(config.model), stack=stack, revision=config.revision)
        _finetune(config, context, folder=UPath(folder), started=started)


def _finetune(config: FinetuneConfig, context: StageContext, *, folder: UPath, started: float) -> None:
    is_first = jax.process_index() == 0
    context.tracker.phase("reading the model and the examples")
    network, backbone = load_backbone(folder)
    config = _resolved(config, network)
    mesh = _make_mesh(config)
    tokenizer = read_tokenizer(folder, network)

    task = find_task(config)
    data = read_examples(task, config, context)
    train_features, dev_features = (
        task.features(examples, tokenizer, labels=data.labels, split=split)
        for examples, split in ((data.train, Split.TRAIN), (data.dev, Split.DEV))
    )
    if not train_features.num_rows:
        why = f": {train_features.faults[0]}" if train_features.faults else ""
        raise ValueError(f"{data.train_file}: none of its {len(data.train)} examples can be trained on{why}")

    def init(seed: int) -> tuple[nnx.GraphDef, Params]:
        return init_model(
            task.kind,
            config=network,
            num_labels=len(data.labels),
            seed=seed,
            backbone=backbone if config.init == Init.PRETRAINED else None,
            head=config.head,
        )

    graphdef, abstract_params = jax.eval_shape(lambda: init(config.seed))
    steps = num_steps(train_features.num_rows, batch_size=config.batch_size, epochs=config.epochs)
    optimizer_config = OptimizerConfig(
        learning_rate=config.learning_rate or 0.0,
        steps=steps,
        warmup_steps=round(steps * config.warmup_fraction),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
    layer_scale = make_layer_scale(
        num_layers=network.num_hidden_layers, decay=config.layer_decay or 1.0, offset=config.layer_decay_offset
    )
    if is_first:
        write_text(context.output / "parameters.txt", parameter_table(abstract_params, lr_scale=layer_scale))
    optimizer = make_optimizer(optimizer_config, lr_scale=layer_scale)
    dtype = str(config.compute_dtype)
    train_step = make_train_step(make_task_loss(graphdef, task.kind, dtype=dtype), optimizer, mesh=mesh)
    predict = make_predict(graphdef, dtype=dtype, mesh=mesh)
    schedule = make_schedule(optimizer_config)

    lengths = np.concatenate([train_features.lengths, dev_features.lengths])
    buckets = bucket_lengths(lengths, max_length=config.max_length, epochs=config.epochs)
    shape = BatchShape(batch_size=config.batch_size, buckets=buckets, pad=tokenizer.pad, mesh=mesh)

    def score(params: Params) -> Evaluation:
        wide = replace(shape, batch_size=-(-EVAL_BATCH_SIZE // jax.device_count()) * jax.device_count())
        logits = predict_rows(params, dev_features, shape=wide, predict=predict)
        return task.evaluate(data.dev, dev_features, logits)

    make_state = jax.jit(
        lambda params, seed: init_state(params, optimizer, key=stream_key(seed, Stream.FINETUNING_STEPS)),
        out_shardings=None if mesh is None else replicated(mesh),
    )

    def fresh(attempt: Attempt) -> TrainState:
        seed = attempt.seed(config.seed)
        params = init(seed)[1]
        # An argument: as a constant every seed would compile its own.
        return make_state(params if mesh is None else jax.device_get(params), np.uint32(seed % 2**32))

    attempt = Attempt()
    state, window = fresh(attempt), Window()
    identity = {"config": repr(replace(config, model="")), "rows": _hash(train_features, dev_features)}
    checkpoints = Checkpoints(context.output, keep=2, identity=identity)
    if (restored := checkpoints.restore_newest(state)) is not None:
        state, window = restored.state, Window.from_json(restored.window)
        attempt = Attempt.from_kept(restored.kept)
        started -= attempt.seconds
    counts = {
        "num_parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(abstract_params)),
        "steps": steps,
        "train_examples": len(data.train),
        "train_rows": train_features.num_rows,
        "dev_examples": len(data.dev),
        "dev_rows": dev_features.num_rows,
        "resumed_from_step": int(state.step),
    }
    context.tracker.params(
        counts
        | {
            "num_processes": jax.process_count(),
            "padded_lengths": str(buckets),
            "published/learning_rate": config.learning_rate,
            "published/layer_decay": config.layer_decay,
        }
        | {f"train/{name}": count for name, count in train_features.counts.items()}
    )

    def train(attempt: Attempt, state: TrainState, window: Window) -> Best:
        tracker = context.tracker if is_first else None
        log = MetricsLog(context.output / "metrics.jsonl", tracker=tracker, until_step=int(state.step))
        seed = attempt.seed(config.seed)

        def rows_from(step: int) -> Iterator[np.ndarray]:
            lengths, batch_size = train_features.lengths, config.batch_size
            return training_batches(lengths, buckets=buckets, batch_size=batch_size, seed=seed, start_step=step)

        def describe_rows(step: int) -> str:
            examples = train_features.examples[next(rows_from(step))]
            return f"training examples of this batch: {sorted(set(examples.tolist()))}"

        def on_window(window: Window) -> None:
            attempt.windows.append(window)
            metrics = {
                "loss/total": _loss([window]),
                "optimizer/learning_rate": float(schedule(window.step - 1)),
                "optimizer/gradient_norm": float(window.sums["optimizer/gradient_norm"]) / window.steps,
                "throughput/examples_per_second": float(window.sums["examples"]) / window.seconds,
                "throughput/tokens_per_second": float(window.sums["tokens"]) / window.seconds,
            }
            log.record(metrics, step=window.step, split="train")
            log.flush()

        def evaluate(step: int, params: Params) -> bool:
            logger.info("%s: scoring %d rows", task.name, dev_features.num_rows)
            log.phase(f"scoring {dev_features.num_rows:,} rows")
            found = score(params)
            log.record(found.scores, step=step, split="dev")
            log.flush()
            logger.info("%s: step %d of %d: %s", task.name, step, steps, _as_text(found.scores))
            primary, best = found.scores[task.primary], attempt.best
            if step == steps if config.patience is None else best is None or primary > best.score:
                # Copied: the next step uses these parameters up.
                attempt.best, attempt.num_waits = Best(step, primary, jax.device_get(params), found), 0
            else:
                attempt.num_waits += 1
            return attempt.num_waits == config.patience

        def keep() -> Kept:
            log.flush()
            return attempt.kept(seconds=time.perf_counter() - started)

        run_loop(
            state,
            intervals=Intervals(
                num_steps=steps,
                log=max(1, steps // _NUM_WINDOWS),
                evaluate=max(1, -(-steps // config.evaluations)),
                checkpoint=CHECKPOINT_EVERY,
            ),
            train_step=train_step,
            batches=made_ahead(lambda rows: shape.make(train_features, rows), rows_from(int(state.step))),
            on_window=on_window,
            evaluate=evaluate,
            describe_rows=describe_rows,
            window=window,
            checkpoints=checkpoints,
            keep=keep,
            on_step=lambda step: log.progress(step, steps, rate="examples_per_second"),
            on_phase=log.phase,
        )
        assert attempt.best is not None  # the last step is always followed by an evaluation
        return attempt.best

    while True:
        best, windows = train(attempt, state, window), attempt.windows
        evaluation = best.evaluation or score(jax.device_put(best.params))
        warnings = _warnings(
            config,
            task,
            evaluation=evaluation,
            features={"training": train_features, "scored": dev_features},
            data=data,
            windows=windows,
        )
        degenerate = [warning.text for warning in warnings if warning.kind is WarningKind.DEGENERATE]
        if not degenerate or attempt.number == config.retries:
            break
        attempt = Attempt(number=attempt.number + 1, lost=(*attempt.lost, degenerate[0]))
        state, window = fresh(attempt), Window()
        checkpoints.start_over(state, kept=attempt.kept(seconds=time.perf_counter() - started))
    if attempt.number:
        text = f"attempt {attempt.number + 1}, with other draws; before it: {'; '.join(attempt.lost)}"
        warnings.append(RunWarning(WarningKind.RETRIED, text))
    warnings += [RunWarning(WarningKind.DAMAGED, text) for text in (restored.passed_over if restored else ())]
    checkpoints.close()
    if not is_first:
        return
    write_results(
        config,
        context,
        task=task,
        data=data,
        network=network,
        folder=folder,
        params=best.params,
        evaluation=evaluation,
        warnings=warnings,
        result={
            "task": str(config.task),
            "seed": config.seed,
            "init": str(config.init),
            "head": str(config.head),
            "primary": task.primary,
            "scores": dict(evaluation.scores),
            **counts,
            "scored_step": best.step,
            "attempts": attempt.number + 1,
            "learning_rate": config.learning_rate,
            "layer_decay": config.layer_decay,
            "last_loss": _loss(windows[-1:]),
            "counts": {"train": dict(train_features.counts), "dev": dict(dev_features.counts)},
            "faults": {"train": list(train_features.faults), "dev": list(dev_features.faults)},
            "details": dict(evaluation.details),
            "examples_per_second": float(np.median([window.sums["examples"] / window.seconds for window in windows])),
            "seconds": time.perf_counter() - started,
        },
    )
    remove_checkpoints(context.output)


def _make_mesh(config: FinetuneConfig) -> Mesh | None:
    """Over the devices of all processes; None where there is one process, which keeps to one device."""
    if jax.process_count() == 1:
        return None
    mesh = make_mesh()
    if config.batch_size % mesh.size:
        raise ValueError(
            f"finetune.tasks.{config.task}.batch_size is {config.batch_size}, must be a multiple of the {mesh.size} "
            f"devices of cluster.finetune_processes = {jax.process_count()}"
        )
    return mesh


def _hash(*features: Features) -> str:
    """Of all that a model is told of these rows, by which a checkpoint knows its run's data."""
    digest = hashlib.sha256()
    for each in features:
        for values in (each.first_length, each.ids, *each.labels.values()):
            for value in [values] if isinstance(values, np.ndarray) else values:
                digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()


def _loss(windows: Sequence[Window]) -> float:
    """Mean over the targets of all steps of these windows."""
    loss, targets = (sum(float(window.sums[name]) for window in windows) for name in ("loss", "targets"))
    return loss / max(1.0, targets)


def _resolved(config: FinetuneConfig, network: ElectraConfig) -> FinetuneConfig:
    """Fills in what was published for a model of this width, and checks what the model limits."""
    if config.max_length > network.max_position_embeddings:
        raise ValueError(
            f"max_length is {config.max_length}, the model {config.model} has positions for "
            f"{network.max_position_embeddings}: lower finetune.tasks.{config.task}.max_length"
        )
    return replace(
        config,
        learning_rate=config.learning_rate or published_learning_rate(network.hidden_size),
        layer_decay=config.layer_decay or published_layer_decay(network.hidden_size),
    )


def _warnings(
    config: FinetuneConfig,
    task: Task,
    *,
    evaluation: Evaluation,
    features: Mapping[str, Features],
    data: TaskData,
    windows: Sequence[Window],
) -> list[RunWarning]:
    warnings = [*data.warnings, *evaluation.warnings]
    loss = _loss(windows[-max(1, len(windows) // 10) :])
    constant = load_work(task.kind).constant_loss(features["training"])
    if constant > 0 and loss > _FLAT * constant:
        text = f"flat loss, {loss:.3f} over the last steps; a guess that ignores the input has {constant:.3f}"
        warnings.append(RunWarning(WarningKind.DEGENERATE, text))
    if config.max_eval_examples is not None and config.max_eval_examples <= len(data.dev):
        text = f"scored on {len(data.dev)} examples only: not comparable to published scores"
        warnings.append(RunWarning(WarningKind.FEW_EXAMPLES, text))
    for what, rows in features.items():
        num_examples = len(data.train if what == "training" else data.dev)
        if rows.faults:
            kind, then = _FAULTS[what]
            more = f"; result.json lists all {len(rows.faults)}" if len(rows.faults) > 1 else ""
            text = f"{len(rows.faults)} of {num_examples} {what} examples {then}: {rows.faults[0]}{more}"
            warnings.append(RunWarning(kind, text))
        if (cut := rows.counts.get("truncated", 0)) > num_examples * _MUCH_CUT:
            text = f"{cut} of {rows.num_rows} {what} texts were cut at max_length = {config.max_length} tokens"
            warnings.append(RunWarning(WarningKind.TRUNCATED, text))
    return warnings


def _as_text(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
