"""Fine-tunes a pretrained discriminator, or the same network from random weights, on one task and scores it."""

import logging
from dataclasses import replace
from typing import Any

from cluster.config import MeshConfig
from cluster.storage import read_json
from stages.context import StageContext, Tracker
from stages.finetune.config import FinetuneConfig
from stages.run_warning import read_warnings

VERSION = 4

logger = logging.getLogger(__name__)


def run(config: FinetuneConfig, context: StageContext) -> None:
    """Fine-tunes, scores and writes metrics.jsonl, result.json, the task's prediction files and `model/`.

    In this process, or in `cluster.finetune_processes` of its own; from the newest checkpoint in the stage's
    folder where there is one.

    Raises:
      ValueError: A task file is not what its task expects, or the model is too short for `max_length`.
      FileNotFoundError: The data or the model are not there.
      NonFiniteError: A loss became infinite or not a number.
      PreemptedError: SIGTERM came; the same run goes on from the step that was saved.
    """
    if context.cluster.finetune_processes == 1:
        from cluster.distributed import configure

        configure(context.cluster)
        from stages.finetune.worker import finetune

        finetune(config, context)
        _conclude(context)
        return
    from cluster.launch import launch

    launch(
        _in_process,
        {"config": config, "context": context},
        cluster=replace(context.cluster, num_processes=context.cluster.finetune_processes, mesh=MeshConfig()),
        storage=context.output / "ray",
    )
    result = _conclude(context)  # the processes' own words are not in this one's log
    scores = ", ".join(f"{name} {value:.2f}" for name, value in result["scores"].items())
    logger.info("%s: step %d of %d: %s", config.task, result["scored_step"], result["steps"], scores)
    for warning in read_warnings(result["warnings"], file=context.output / "result.json"):
        logger.warning("%s: %s", config.task, warning)


def _conclude(context: StageContext) -> dict[str, Any]:
    """Tells the score that counts; returns result.json."""
    result: dict[str, Any] = read_json(context.output / "result.json")
    context.tracker.conclude(f"{result['primary']} {result['scores'][result['primary']]:.2f}")
    return result


def _in_process(config: FinetuneConfig, context: StageContext) -> None:
    """One process's part. All do the same with their own rows of each batch; the first one writes and tells."""
    import jax

    from stages.finetune.worker import finetune

    finetune(config, context if jax.process_index() == 0 else replace(context, tracker=Tracker()))
