"""One process's part of pretraining: data, model, state, checkpoint, loop, result, in this order."""

import time
from collections.abc import Iterator
from dataclasses import asdict

import jax
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import process_allgather

from cluster.devices import peak_flops
from cluster.distributed import global_batch
from cluster.mesh import make_mesh
from cluster.storage import write_json, write_text
from stages.context import StageContext
from stages.data.batches import host_batches
from stages.data.order import ExampleOrder
from stages.data.shards import ShardReader
from stages.electra.files.continuation import load_networks
from stages.electra.files.model_folder import save_parameters
from stages.electra.flops import pretraining_step_flops
from stages.electra.joint_model import Electra, split
from stages.electra.locality import look_at_neighbours
from stages.electra.objectives.corruption import max_masked
from stages.electra.objectives.pretraining_loss import make_pretraining_loss, summarize
from stages.electra.sharding import RULES
from stages.pretrain.config import PretrainConfig
from stages.training.checkpoint import Checkpoints, Kept
from stages.training.keys import Stream, stream_key
from stages.training.loop import Intervals, Window, fetch, run_loop
from stages.training.metrics import MetricsLog
from stages.training.optimizer import make_optimizer, make_schedule, parameter_table
from stages.training.sharding import make_shardings
from stages.training.state import Params, TrainState, init_state, make_eval_step, make_train_step


def pretrain(config: PretrainConfig, context: StageContext) -> None:
    """One process's part. Order of things: data, model, state, checkpoint, loop, result.

    Restore order: the newest readable checkpoint of this stage, else `init_from`, else fresh weights.
    """
    started = time.perf_counter()
    is_first = jax.process_index() == 0
    if is_first:
        context.tracker.phase("making the networks")
    mesh = make_mesh(context.cluster.mesh)
    tensor = mesh.shape["tensor"]
    num_parts = mesh.size // tensor * config.gradient_accumulation_steps
    if config.batch_size % num_parts:
        raise ValueError(
            f"pretrain.batch_size is {config.batch_size}, must be a multiple of {num_parts}: {mesh.size} devices "
            f"{f'/ cluster.mesh.tensor {tensor} ' if tensor > 1 else ''}"
            f"x gradient_accumulation_steps {config.gradient_accumulation_steps}"
        )

    shard_folder = context.inputs["shard"]
    train_rows, heldout_rows = ShardReader(shard_folder, "train"), ShardReader(shard_folder, "heldout")
    index = train_rows.index
    order = ExampleOrder(train_rows.num_rows, config.batch_size, config.seed)

    objective = config.objective.resolve(config.model.size)
    discriminator, generator = objective.networks(*config.model.resolve(index.vocab_size))

    def init_model() -> tuple[nnx.GraphDef, Params]:
        model = Electra(
            discriminator,
            generator,
            kind=objective.kind,
            embedding_sharing=config.model.embedding_sharing,
            shared_encoder=config.model.shared_encoder,
            rematerialize=config.rematerialize,
            key=stream_key(config.seed, Stream.PRETRAINING_WEIGHTS),
        )
        graphdef, params = split(model)
        if config.model.local_attention:
            networks = {"discriminator": discriminator, "generator": generator}
            waves_key = stream_key(config.seed, Stream.PRETRAINING_WAVES)
            params = look_at_neighbours(params, networks, key=waves_key)
        return graphdef, params

    graphdef, abstract_params = jax.eval_shape(init_model)
    loss_fn = make_pretraining_loss(
        graphdef,
        objective=objective,
        special_ids=index.special_ids,
        vocab_size=index.vocab_size,
        dtype=str(config.compute_dtype),
    )
    optimizer = make_optimizer(config)

    def fresh() -> TrainState:
        return init_state(init_model()[1], optimizer, key=stream_key(config.seed, Stream.PRETRAINING_STEPS))

    shardings = make_shardings(jax.eval_shape(fresh), rules=RULES, mesh=mesh)
    state = jax.jit(fresh, out_shardings=shardings)()
    train_step = make_train_step(
        loss_fn, optimizer, mesh=mesh, shardings=shardings, accumulation_steps=config.gradient_accumulation_steps
    )
    heldout_key = stream_key(config.seed, Stream.HELDOUT)
    eval_step = make_eval_step(loss_fn, key=heldout_key, mesh=mesh, shardings=shardings)

    identity = {"shards": index.hash}
    checkpoints = Checkpoints(
        context.output, keep=config.keep_checkpoints, milestones=config.milestone_steps, identity=identity
    )
    restored = checkpoints.restore_newest(state)
    if restored is not None:
        state = restored.state
    elif config.init_from is not None:
        loaded = load_networks(
            discriminator=(config.init_from.discriminator, discriminator),
            generator=(config.init_from.generator, generator),
            revisions=config.init_from.revisions,
            embedding_sharing=config.model.embedding_sharing,
            shared_encoder=config.model.shared_encoder,
        )
        places = {name: shardings.params[name] for name in loaded}
        state = state._replace(params=state.params | jax.device_put(loaded, places, may_alias=False))
    first_step = int(state.step)
    passed_over = restored.passed_over if restored is not None else ()

    num_masked = max_masked(index.sequence_length, objective.mask_fraction or 0.0)
    flops = pretraining_step_flops(
        discriminator,
        generator,
        batch_size=config.batch_size,
        sequence_length=index.sequence_length,
        num_masked=num_masked,
        kind=objective.kind,
    )
    peak = peak_flops(str(config.compute_dtype)) * jax.process_count()
    schedule = make_schedule(config)

    tracker = context.tracker if is_first else None
    log = MetricsLog(context.output / "metrics.jsonl", tracker=tracker, until_step=first_step)

    def on_window(window: Window) -> None:
        sums, steps, seconds = window.sums, window.steps, window.seconds
        metrics = summarize(sums) | {
            "optimizer/learning_rate": float(schedule(window.step - 1)),
            "optimizer/gradient_norm": float(sums["optimizer/gradient_norm"]) / steps,
            "throughput/tokens_per_second": float(sums["batch/tokens"]) / seconds,
            "throughput/examples_per_second": config.batch_size * steps / seconds,
            "throughput/mfu": flops * steps / seconds / peak,
        }
        log.record(metrics, step=window.step, split="train")

    def evaluate(step: int, params: Params) -> bool:
        log.phase("evaluating on held-out text")
        total: dict[str, np.ndarray] = {}
        batches = _heldout_batches(heldout_rows, config=config, pad_id=index.special_ids["pad"])
        for number, rows in enumerate(batches):
            sums = fetch(eval_step(params, global_batch(mesh, rows), number))
            total = {name: total.get(name, 0.0) + value.astype(np.float64) for name, value in sums.items()}
        log.record(summarize(total), step=step, split="heldout")
        return False

    def keep() -> Kept:
        log.flush()
        return Kept()

    def on_step(step: int) -> None:
        log.progress(step, config.steps, rate="tokens_per_second")

    networks = {"discriminator": discriminator, "generator": generator}
    if objective.kind.traits.has_towers:
        networks.pop("generator")  # two towers are no network that others could load
    if is_first:
        write_text(context.output / "parameters.txt", parameter_table(abstract_params))
        write_json(
            context.output / "model" / "config.json", {name: asdict(one) for name, one in networks.items() if one}
        )
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
            | ({"passed_over_checkpoints": "; ".join(passed_over)} if passed_over else {})
        )

    on_step(first_step)  # a resumed run counts from there
    batches = host_batches(
        train_rows,
        order,
        lambda rows: global_batch(mesh, rows),
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
            milestones=config.milestone_steps | {config.steps},
        ),
        train_step=train_step,
        batches=batches,
        on_window=on_window,
        evaluate=evaluate,
        describe_rows=lambda step: f"rows of this batch: {order.indices(step).tolist()}",
        window=Window.from_json(restored.window if restored is not None else {}),
        checkpoints=checkpoints,
        keep=keep,
        on_step=on_step,
        on_phase=log.phase,
    )
    log.phase("saving the last checkpoint and the model")
    checkpoints.close()

    params = process_allgather(state.params, tiled=True)
    if is_first:
        save_parameters(context.output / "model" / "parameters.safetensors", params)
        write_json(
            context.output / "result.json",
            {
                "steps": config.steps,
                "train": log.last("train"),
                "heldout": log.last("heldout"),
                "seconds_of_last_attempt": time.perf_counter() - started,
                "resumed_from_step": first_step,
                "passed_over_checkpoints": passed_over,
                "num_processes": jax.process_count(),
                "device_kind": jax.devices()[0].device_kind,
            },
        )


def _heldout_batches(reader: ShardReader, *, config: PretrainConfig, pad_id: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of the held-out batches, always the same ones; missing rows are all padding."""

    rows_each = config.batch_size // jax.process_count()
    for start in range(0, min(reader.num_rows, config.eval_batches * config.batch_size), config.batch_size):
        first = start + jax.process_index() * rows_each
        rows = reader.rows(np.arange(min(first, reader.num_rows), min(first + rows_each, reader.num_rows)))
        missing = rows_each - len(rows["length"])
        yield {
            name: np.pad(
                values, ((0, missing), *[(0, 0)] * (values.ndim - 1)), constant_values=pad_id if name == "ids" else 0
            )
            for name, values in rows.items()
        }
