"""A whole fine-tuning run: examples, features, training, scores, files."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from upath import UPath

from cluster.mesh import make_mesh, replicated
from cluster.storage import local_copy, write_text
from stages.context import StageContext
from stages.electra.config import ElectraConfig, HeadKind
from stages.electra.files.model_folder import load_backbone
from stages.examples import load
from stages.finetune.artifacts import write_results
from stages.finetune.config import DeclaredConfig, FinetuneConfig, Init, published_layer_decay, published_learning_rate
from stages.finetune.training import Window, num_steps, train
from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Evaluation, Features, Split, Task, TaskData, TaskOptions, load_work
from stages.tasks.buckets import bucket_lengths
from stages.tasks.model import init_model, make_layer_scale, make_predict, make_task_loss
from stages.tasks.prediction import EVAL_BATCH_SIZE, BatchShape, predict_rows
from stages.tasks.registry import make_task
from stages.tasks.tokens import WordPiece
from stages.training.config import OptimizerConfig
from stages.training.metrics import MetricsLog
from stages.training.optimizer import make_optimizer, make_schedule, parameter_table
from stages.training.state import init_state, make_train_step

logger = logging.getLogger(__name__)

_NUM_WINDOWS = 50  # rows of training metrics that a run writes
_MUCH_CUT = 0.01  # share of texts that are too long, above which it is said
_FAULTS = {
    "training": (WarningKind.SKIPPED, "cannot be trained on"),
    "scored": (WarningKind.OUT_OF_REACH, "cannot be answered right"),
}
_FLAT = 0.97  # a last loss above this share of a constant guess's means that nothing was learned


class _Trained(NamedTuple):
    """What an attempt came to: the parameters that are kept, the step and the scores that are theirs, all windows."""

    params: Any
    step: int
    evaluation: Evaluation
    windows: Sequence[Window]


def finetune(config: FinetuneConfig, context: StageContext) -> None:
    """Trains, scores and writes what `stages.finetune.stage.run` promises. JAX is configured already."""
    started = time.perf_counter()
    with ExitStack() as stack:
        _finetune(config, context, folder=_model_folder(config, context, stack), started=started)


def _finetune(config: FinetuneConfig, context: StageContext, *, folder: UPath, started: float) -> None:
    network, backbone = load_backbone(folder)
    config = _resolved(config, network)
    mesh = _make_mesh(config)
    tokenizer = _read_tokenizer(folder, network)

    task = _make_task(config)
    data = _read_data(task, config, context)
    train_features, dev_features = (
        task.features(examples, tokenizer, labels=data.labels, split=split)
        for examples, split in ((data.train, Split.TRAIN), (data.dev, Split.DEV))
    )
    if not train_features.num_rows:
        why = f": {train_features.faults[0]}" if train_features.faults else ""
        raise ValueError(f"{data.train_file}: none of its {len(data.train)} examples can be trained on{why}")

    # The order of things random: model by key(seed), batches by (seed, epoch), dropout by (step, seed).
    def init(seed: int) -> tuple[Any, Any]:
        return init_model(
            task.kind,
            config=network,
            num_labels=len(data.labels),
            seed=seed,
            backbone=backbone if config.init == Init.PRETRAINED else None,
            head=config.head,
        )

    graphdef, params = init(config.seed)
    num_parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    steps = num_steps(train_features.num_rows, batch_size=config.batch_size, epochs=config.epochs)
    optimizer_config = OptimizerConfig(
        learning_rate=config.learning_rate or 0.0,
        num_steps=steps,
        warmup_steps=round(steps * config.warmup_fraction),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
    layer_scale = make_layer_scale(
        num_layers=network.num_hidden_layers,
        decay=config.layer_decay or 1.0,
        offset=config.layer_decay_offset,
    )
    write_text(context.output / "parameters.txt", parameter_table(params, lr_scale=layer_scale))
    optimizer = make_optimizer(optimizer_config, lr_scale=layer_scale)
    dtype = str(config.compute_dtype)
    train_step = make_train_step(make_task_loss(graphdef, task.kind, dtype=dtype), optimizer, seed=0, mesh=mesh)
    predict = make_predict(graphdef, dtype=dtype, mesh=mesh)
    schedule = make_schedule(optimizer_config)

    lengths = np.concatenate([train_features.lengths, dev_features.lengths])
    buckets = bucket_lengths(lengths, max_length=config.max_length, epochs=config.epochs)
    shape = BatchShape(batch_size=config.batch_size, buckets=buckets, pad=tokenizer.pad, mesh=mesh)
    context.tracker.params(
        {
            "num_parameters": num_parameters,
            "num_processes": jax.process_count(),
            "steps": steps,
            "train_examples": len(data.train),
            "dev_examples": len(data.dev),
            "train_rows": train_features.num_rows,
            "dev_rows": dev_features.num_rows,
            "padded_lengths": str(buckets),
            "published/learning_rate": config.learning_rate,
            "published/layer_decay": config.layer_decay,
        }
        | {f"train/{name}": count for name, count in train_features.counts.items()}
    )

    def attempt(seed: int) -> _Trained:
        # A run that was interrupted, or learnt nothing, starts again: its rows belong to work that was lost.
        log = MetricsLog(context.output / "metrics.jsonl", until_step=-1)
        windows: list[Window] = []
        best: _Trained | None = None
        num_waits = 0

        def on_window(window: Window) -> None:
            windows.append(window)
            metrics = {
                "loss/total": window.loss,
                "optimizer/learning_rate": float(schedule(window.step - 1)),
                "optimizer/gradient_norm": window.sums["optimizer/gradient_norm"] / window.steps,
                "throughput/examples_per_second": window.sums["examples"] / window.seconds,
                "throughput/tokens_per_second": window.sums["tokens"] / window.seconds,
            }
            log.append({"step": window.step, "split": "train"} | metrics)
            log.flush()
            context.tracker.metrics(metrics, step=window.step)
            context.tracker.progress(
                window.step,
                steps,
                unit="steps",
                loss=window.loss,
                examples_per_second=metrics["throughput/examples_per_second"],
            )

        def on_evaluation(step: int, params: Any) -> bool:
            nonlocal best, num_waits
            logger.info("%s: scoring %d rows", task.name, dev_features.num_rows)
            wide = replace(shape, batch_size=-(-EVAL_BATCH_SIZE // jax.device_count()) * jax.device_count())
            logits = predict_rows(params, dev_features, shape=wide, predict=predict)
            found = task.evaluate(data.dev, dev_features, logits, labels=data.labels)
            log.append({"step": step, "split": "dev"} | dict(found.scores))
            log.flush()
            context.tracker.metrics({f"dev/{name}": value for name, value in found.scores.items()}, step=step)
            logger.info("%s: step %d of %d: %s", task.name, step, steps, _as_text(found.scores))
            score = found.scores[task.primary]
            if config.patience is None or best is None or score > best.evaluation.scores[task.primary]:
                # Copied: the next step uses these parameters up.
                best, num_waits = _Trained(jax.device_get(params), step, found, windows), 0
            else:
                num_waits += 1
            return num_waits == config.patience

        state = init_state(init(seed)[1], optimizer)
        train(
            state if mesh is None else jax.device_put(jax.device_get(state), replicated(mesh)),
            train_features,
            steps=steps,
            seed=seed,
            shape=shape,
            train_step=train_step,
            log_every=max(1, steps // _NUM_WINDOWS),
            on_window=on_window,
            evaluate_every=max(1, -(-steps // config.evaluations)),
            on_evaluation=on_evaluation,
        )
        assert best is not None  # the last step is always followed by an evaluation
        return best

    lost: list[str] = []
    for number in range(config.retries + 1):
        trained = attempt(config.seed if number == 0 else _other_seed(config.seed, number))
        evaluation, windows = trained.evaluation, trained.windows
        warnings = _warnings(
            config,
            task,
            evaluation=evaluation,
            features={"training": train_features, "scored": dev_features},
            data=data,
            windows=windows,
        )
        degenerate = [warning.text for warning in warnings if warning.kind is WarningKind.DEGENERATE]
        if not degenerate:
            break
        lost += degenerate[:1]
    if number:
        text = f"attempt {number + 1}, with other draws; before it: {'; '.join(lost[:number])}"
        warnings.append(RunWarning(WarningKind.RETRIED, text))
    write_results(
        config,
        context,
        task=task,
        data=data,
        network=network,
        folder=folder,
        params=trained.params,
        evaluation=evaluation,
        warnings=warnings,
        result={
            "task": str(config.task),
            "seed": config.seed,
            "init": str(config.init),
            "head": str(config.head),
            "primary": task.primary,
            "scores": dict(evaluation.scores),
            "num_parameters": num_parameters,
            "train_examples": len(data.train),
            "train_rows": train_features.num_rows,
            "dev_examples": len(data.dev),
            "dev_rows": dev_features.num_rows,
            "steps": steps,
            "scored_step": trained.step,
            "attempts": number + 1,
            "learning_rate": config.learning_rate,
            "layer_decay": config.layer_decay,
            "last_loss": windows[-1].loss,
            "counts": {"train": dict(train_features.counts), "dev": dict(dev_features.counts)},
            "faults": {"train": list(train_features.faults), "dev": list(dev_features.faults)},
            "details": dict(evaluation.details),
            # The median, which the windows that waited for a compilation do not move.
            "examples_per_second": float(np.median([window.sums["examples"] / window.seconds for window in windows])),
            "seconds": time.perf_counter() - started,
        },
    )


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


def _other_seed(seed: int, attempt: int) -> int:
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])


def _model_folder(config: FinetuneConfig, context: StageContext, stack: ExitStack) -> UPath:
    """The model's folder on this machine; that of a hub id is downloaded."""
    location = os.path.expanduser(context.expand(config.model))
    path = UPath(location)
    if path.is_dir():
        return UPath(stack.enter_context(local_copy(path)))
    load_backbone(location)  # says what is wrong with a location that is neither
    from huggingface_hub import snapshot_download

    return UPath(snapshot_download(location, allow_patterns=["*.json", "*.safetensors", "vocab.txt"]))


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


def _read_tokenizer(folder: UPath, network: ElectraConfig) -> WordPiece:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder}: no tokenizer.json; a model is fine-tuned with its own tokenizer, which transformers' "
            "AutoTokenizer writes (save_pretrained) where there is a vocab.txt"
        )
    tokenizer = WordPiece.from_file(path)
    if tokenizer.vocab_size > network.vocab_size:
        raise ValueError(
            f"{path} has {tokenizer.vocab_size} tokens, the model's vocab_size is {network.vocab_size}: "
            "they do not belong together"
        )
    return tokenizer


def _make_task(config: FinetuneConfig) -> Task:
    options = TaskOptions(
        max_length=config.max_length,
        doc_stride=config.doc_stride,
        max_question_length=config.max_question_length,
        max_answer_length=config.max_answer_length,
        n_best=config.n_best,
        double_unordered=config.double_unordered,
        bioes=config.head is HeadKind.ORIGINAL,
    )
    return make_task(config.task, options, form=config.form if isinstance(config, DeclaredConfig) else None)


def _read_data(task: Task, config: FinetuneConfig, context: StageContext) -> TaskData:
    data = load(task, data=config.data, train_file=config.train_file, eval_file=config.eval_file, context=context)
    return replace(
        data,
        train=evenly(data.train, config.max_train_examples),
        dev=evenly(data.dev, config.max_eval_examples),
    )


def evenly(examples: Sequence[Any], count: int | None) -> Sequence[Any]:
    """At most `count` examples, evenly spaced: files are often sorted by source or article."""
    if count is None or count >= len(examples):
        return examples
    return [examples[index * len(examples) // count] for index in range(count)]


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
    last = windows[-max(1, len(windows) // 10) :]
    loss = sum(window.sums["loss"] for window in last) / max(1.0, sum(window.sums["targets"] for window in last))
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
