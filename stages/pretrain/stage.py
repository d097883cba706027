"""Pretrains generator and discriminator together on the shards, in any number of JAX processes."""

import logging

from cluster.storage import read_json
from stages.context import StageContext
from stages.data.shard_index import ShardIndex
from stages.pretrain.config import PretrainConfig

VERSION = 2

logger = logging.getLogger(__name__)


def run(config: PretrainConfig, context: StageContext) -> None:
    """Trains to `config.steps`, from the newest checkpoint in the stage's folder where there is one.

    Raises:
      ValueError: The batch cannot be split over the devices, or the shards do not fit the model.
      NonFiniteError: A loss became infinite or not a number.
    """
    from cluster.launch import launch

    index = ShardIndex.read(context.inputs["shard"])
    discriminator, _ = config.model.resolve(index.vocab_size)
    if index.sequence_length > discriminator.max_position_embeddings:
        raise ValueError(
            f"the shards' sequence_length is {index.sequence_length}, the model has positions for "
            f"{discriminator.max_position_embeddings}: lower shard.sequence_length or raise "
            "pretrain.model.max_position_embeddings"
        )
    if config.batch_size % context.cluster.num_processes:
        raise ValueError(
            f"pretrain.batch_size is {config.batch_size}, must be a multiple of "
            f"cluster.num_processes = {context.cluster.num_processes}"
        )
    context.tracker.dataset(name="shards", source=str(context.inputs["shard"]), context="training")
    count = context.cluster.num_processes
    context.tracker.phase(f"starting {count} training process{'es' if count > 1 else ''}")
    launch(_in_process, {"config": config, "context": context}, cluster=context.cluster, storage=context.output / "ray")
    result = read_json(context.output / "result.json")
    if auc := (result["heldout"] or {}).get("replaced/auc"):
        context.tracker.conclude(f"held-out AUC {auc:.3f}")
    for passed_over in result["passed_over_checkpoints"]:
        logger.warning("%s", passed_over)  # the processes' own words are not in this one's log
    context.tracker.artifact(context.output / "metrics.jsonl")
    context.tracker.artifact(context.output / "parameters.txt")


def _in_process(config: PretrainConfig, context: StageContext) -> None:
    """One process's part. Imports jax here, in the process, and not in the stage that waits for it."""
    from stages.pretrain.worker import pretrain

    pretrain(config, context)
