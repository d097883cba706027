"""Pretrains generator and discriminator together on the shards, in any number of JAX processes."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from stages.context import StageContext
from stages.electra.config import ModelConfig, ObjectiveConfig
from stages.training.config import ComputeDtype, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretraining of one generator and discriminator.

    Attributes:
      seed: Of initial weights, order of examples, masks, samples and dropout.
      model: Size preset and the fields that differ from it.
      objective: Masking and loss weights.
      steps: Updates in all.
      batch_size: Examples a step, over all processes.
      learning_rate: Peak learning rate.
      warmup_steps: Steps over which it rises from 0.
      log_every: Steps between rows of training metrics.
      eval_every: Steps between evaluations on held-out text.
      eval_batches: Batches of held-out text an evaluation reads at most.
      checkpoint_every: Steps between checkpoints, a multiple of log_every.
      keep_checkpoints: How many of the newest stay.
    """

    model: ModelConfig
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    seed: int = 0
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-6
    compute_dtype: ComputeDtype = ComputeDtype.FLOAT32
    log_every: int = 100
    eval_every: int = 1000
    eval_batches: int = 16
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "log_every",
            "eval_every",
            "eval_batches",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every is {self.checkpoint_every}, must be a multiple of log_every = {self.log_every}: "
                "a resumed run could not repeat the row that a checkpoint cuts"
            )
        _ = self.optimizer  # checks its part of the fields

    @property
    def optimizer(self) -> OptimizerConfig:
        """The optimizer's hyperparameters."""
        return OptimizerConfig(
            learning_rate=self.learning_rate,
            num_steps=self.steps,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            adam_b1=self.adam_b1,
            adam_b2=self.adam_b2,
            adam_eps=self.adam_eps,
        )


def run(config: PretrainConfig, context: StageContext) -> None:
    """Trains to `config.steps`, from the newest checkpoint in the stage's folder where there is one.

    Raises:
      ValueError: The batch cannot be split over the devices, or the shards do not fit the model.
      NonFiniteError: A loss became infinite or not a number.
    """
    from cluster.launch import launch
    from cluster.storage import read_json

    index = read_json(context.inputs["shard"] / "index.json")
    discriminator, _ = config.model.resolve(index["vocab_size"])
    if index["sequence_length"] > discriminator.max_position_embeddings:
        raise ValueError(
            f"the shards' sequence_length is {index['sequence_length']}, the model has positions for "
            f"{discriminator.max_position_embeddings}: lower shard.sequence_length or raise "
            "pretrain.model.max_position_embeddings"
        )
    if config.batch_size % context.cluster.num_processes:
        raise ValueError(
            f"pretrain.batch_size is {config.batch_size}, must be a multiple of "
            f"cluster.num_processes = {context.cluster.num_processes}"
        )
    context.tracker.dataset(name="shards", source=str(context.inputs["shard"]), context="training")
    launch(
        _train,
        {"config": config, "context": context},
        cluster=context.cluster,
        storage=context.output / "ray",
    )
    context.tracker.artifact(context.output / "metrics.jsonl")
    context.tracker.artifact(context.output / "parameters.txt")


def _train(config: PretrainConfig, context: StageContext) -> None:
    """One process's part. Order of things: data, model, state, checkpoint, loop, result.

    Restore order: the newest readable checkpoint of this stage, else fresh weights.
    """
    import time

    import jax
    import numpy as np

    from cluster.devices import peak_flops
    from cluster.distributed import global_batch
    from cluster.mesh import make_mesh, replicated
    from cluster.storage import read_json, write_json, write_text
    from stages.data.batches import host_batches
    from stages.data.order import ExampleOrder
    from stages.data.shards import ShardReader
    from stages.electra.corruption import max_masked
    from stages.electra.flops import pretraining_step_flops
    from stages.electra.model import Electra, split
    from stages.electra.pretraining import make_pretraining_loss, summarize
    from stages.training.checkpoint import Checkpoints
    from stages.training.loop import Intervals, Recorder, fetch, run_loop
    from stages.training.metrics import MetricsLog
    from stages.training.optimizer import make_optimizer, make_schedule, parameter_table
    from stages.training.state import init_state, make_eval_step, make_train_step

    started = time.perf_counter()
    is_first = jax.process_index() == 0
    mesh = make_mesh()
    if config.batch_size % jax.device_count():
        raise ValueError(
            f"pretrain.batch_size is {config.batch_size}, must be a multiple of {jax.device_count()} devices"
        )

    shard_folder = context.inputs["shard"]
    index = read_json(shard_folder / "index.json")
    train_rows, heldout_rows = ShardReader(shard_folder, "train"), ShardReader(shard_folder, "heldout")
    order = ExampleOrder(train_rows.num_rows, config.batch_size, config.seed)

    discriminator, generator = config.model.resolve(index["vocab_size"])
    # Two keys of one seed: initial weights never share bits with the steps' masks.
    step_seed, eval_seed = config.seed, config.seed + 0x5EED
    objective = config.objective.resolve(config.model.size)

    def init_model() -> tuple[Any, Any]:
        return split(Electra(discriminator, generator, rngs_key=jax.random.key(config.seed)))

    graphdef, abstract_params = jax.eval_shape(init_model)
    loss_fn = make_pretraining_loss(
        graphdef,
        objective=objective,
        special_ids=index["special_ids"],
        vocab_size=index["vocab_size"],
        dtype=str(config.compute_dtype),
    )
    optimizer = make_optimizer(config.optimizer)

    def fresh() -> Any:
        return init_state(init_model()[1], optimizer)

    state = jax.jit(fresh, out_shardings=replicated(mesh))()
    train_step = make_train_step(loss_fn, optimizer, seed=step_seed, mesh=mesh)
    eval_step = make_eval_step(loss_fn, seed=eval_seed, mesh=mesh)

    identity = {"shards": hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()}
    checkpoints = Checkpoints(context.output / "checkpoints", keep=config.keep_checkpoints, identity=identity)
    state = checkpoints.restore_newest(state) or state
    first_step = int(state.step)

    num_masked = max_masked(index["sequence_length"], objective.mask_fraction or 0.0)
    flops = pretraining_step_flops(
        discriminator,
        generator,
        batch_size=config.batch_size,
        sequence_length=index["sequence_length"],
        num_masked=num_masked,
    )
    peak = peak_flops(str(config.compute_dtype)) * jax.process_count()
    schedule = make_schedule(config.optimizer)

    def rates(sums: dict[str, np.ndarray], steps: int, seconds: float, step: int) -> dict[str, float]:
        return {
            "optimizer/learning_rate": float(schedule(step - 1)),
            "optimizer/gradient_norm": float(sums["optimizer/gradient_norm"]) / steps,
            "throughput/tokens_per_second": float(sums["discriminator/tokens"]) / seconds,
            "throughput/examples_per_second": config.batch_size * steps / seconds,
            "throughput/mfu": flops * steps / seconds / peak,
        }

    def evaluate(params: Any) -> dict[str, np.ndarray]:
        total: dict[str, np.ndarray] = {}
        batches = _heldout_batches(heldout_rows, config=config, pad_id=index["special_ids"]["pad"])
        for number, rows in enumerate(batches):
            sums = fetch(eval_step(params, global_batch(mesh, rows), number))
            total = {name: total.get(name, 0.0) + value.astype(np.float64) for name, value in sums.items()}
        return total

    recorder = Recorder(
        log=MetricsLog(context.output / "metrics.jsonl", until_step=first_step) if is_first else None,
        tracker=context.tracker if is_first else None,
        summarize=summarize,
        rates=rates,
    )
    if is_first:
        write_text(context.output / "parameters.txt", parameter_table(abstract_params))
        context.tracker.params(
            {
                "num_parameters": sum(int(np.prod(x.shape)) for x in jax.tree.leaves(abstract_params)),
                "num_processes": jax.process_count(),
                "num_devices": jax.device_count(),
                "device_kind": jax.devices()[0].device_kind,
                "peak_flops": peak,
                "epochs": config.steps * config.batch_size / train_rows.num_rows,
                "resumed_from_step": first_step,
            }
        )

    batches = host_batches(
        train_rows,
        order,
        start_step=first_step,
        num_steps=config.steps - first_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    state = run_loop(
        state,
        intervals=Intervals(
            num_steps=config.steps,
            log=config.log_every,
            evaluate=config.eval_every,
            checkpoint=config.checkpoint_every,
        ),
        train_step=train_step,
        batches=(global_batch(mesh, rows) for rows in batches),
        evaluate=evaluate,
        checkpoints=checkpoints,
        recorder=recorder,
        describe_batch=lambda step: str(order.indices(step).tolist()),
    )
    checkpoints.close()

    if is_first:
        assert recorder.log is not None
        _save_model(context, discriminator=discriminator, generator=generator, params=state.params)
        write_json(
            context.output / "result.json",
            {
                "steps": config.steps,
                "train": recorder.log.last("train"),
                "heldout": recorder.log.last("heldout"),
                "seconds_of_last_attempt": time.perf_counter() - started,
                "resumed_from_step": first_step,
                "num_processes": jax.process_count(),
                "device_kind": jax.devices()[0].device_kind,
            },
        )


def _heldout_batches(reader: Any, *, config: PretrainConfig, pad_id: int) -> Iterator[dict[str, Any]]:
    """This process's rows of the held-out batches, always the same ones; missing rows are all padding."""
    import jax
    import numpy as np

    rows_each = config.batch_size // jax.process_count()
    for start in range(0, min(reader.num_rows, config.eval_batches * config.batch_size), config.batch_size):
        first = start + jax.process_index() * rows_each
        rows = reader.rows(np.arange(min(first, reader.num_rows), min(first + rows_each, reader.num_rows)))
        missing = rows_each - len(rows["length"])
        yield {
            "ids": np.pad(rows["ids"], ((0, missing), (0, 0)), constant_values=pad_id),
            "length": np.pad(rows["length"], (0, missing)),
            "first_length": np.pad(rows["first_length"], (0, missing)),
        }


def _save_model(context: StageContext, *, discriminator: Any, generator: Any, params: Any) -> None:
    """Writes the trained parameters by name, float32, and the two configs beside them."""
    import jax
    import numpy as np
    from safetensors.numpy import save

    from cluster.storage import write_bytes, write_json
    from stages.training.optimizer import parameter_paths

    paths = jax.tree.leaves(parameter_paths(params))
    arrays = dict(zip(paths, (np.asarray(x.addressable_data(0)) for x in jax.tree.leaves(params)), strict=True))
    write_bytes(context.output / "model" / "parameters.safetensors", save(arrays))
    write_json(
        context.output / "model" / "config.json",
        {"discriminator": asdict(discriminator), "generator": asdict(generator)},
    )
