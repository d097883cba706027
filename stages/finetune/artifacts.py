"""What a fine-tuning run leaves: predictions, the model as a Hugging Face folder, result.json."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from upath import UPath

from cluster.storage import write_json, write_text
from stages.context import StageContext
from stages.electra.config import ElectraConfig
from stages.electra.files.card import read_metadata
from stages.electra.files.huggingface import Architecture
from stages.electra.files.model_folder import save_pretrained
from stages.electra.joint_model import Params
from stages.finetune.config import FinetuneConfig, Init
from stages.finetune.finetuned_card import finetuned_card
from stages.run_warning import RunWarning
from stages.tasks.base import Evaluation, Task, TaskData, load_work
from stages.tasks.kinds import KINDS
from stages.tasks.predictor import TASK_FILE

logger = logging.getLogger(__name__)


def write_results(
    config: FinetuneConfig,
    context: StageContext,
    *,
    task: Task,
    data: TaskData,
    network: ElectraConfig,
    folder: UPath,
    params: Params,
    evaluation: Evaluation,
    warnings: Sequence[RunWarning],
    result: Mapping[str, Any],
) -> None:
    """Writes predictions, the model as a Hugging Face folder and result.json, and tells the tracker."""
    for name, text in evaluation.files.items():
        write_text(context.output / name, text)
        context.tracker.artifact(context.output / name, folder="predictions", has_examples=True)
    model, spec = context.output / "model", KINDS[task.kind]
    head = load_work(task.kind).exported_head(task, params["head"])
    # Of joint spans, transformers loads the encoder alone.
    architecture = Architecture.MODEL if head is None else Architecture(spec.architecture)
    save_pretrained(
        model,
        architecture=architecture,
        config=network.change(id2label=dict(enumerate(data.labels)) or None, problem_type=spec.problem_type),
        params={name: value for name, value in (params | {"head": head}).items() if value is not None},
        tokenizer=folder,
        own_head=params["head"] if config.head in spec.own_heads else None,
        card=finetuned_card(
            config,
            task,
            data=data,
            base=_metadata(folder) if config.init is Init.PRETRAINED else {},
            evaluation=evaluation,
            architecture=architecture,
            result=result,
        ),
    )
    # With what the model is asked: of the texts of a pair, its other files say nothing.
    write_json(model / TASK_FILE, {"task": str(task.name), "kind": str(task.kind), "columns": list(task.asked)})
    for warning in warnings:
        logger.warning("%s: %s", task.name, warning)
    context.tracker.metrics({f"scores/{name}": value for name, value in evaluation.scores.items()})
    context.tracker.artifact(context.output / "metrics.jsonl")
    context.tracker.artifact(context.output / "parameters.txt")
    context.tracker.model(str(model), name=f"{task.name}-{config.init}-{config.seed}")
    write_json(context.output / "result.json", {**result, "warnings": [asdict(warning) for warning in warnings]})
    context.tracker.artifact(context.output / "result.json", has_examples=True)


def _metadata(folder: UPath) -> dict[str, Any]:
    """What the card of the model that this one started from says to the hub."""
    path = folder / "README.md"
    return read_metadata(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
