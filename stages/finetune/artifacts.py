"""What a fine-tuning run leaves: predictions, the model as a Hugging Face folder, result.json."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from upath import UPath

from cluster.storage import write_json, write_text
from stages.context import StageContext
from stages.electra.config import ElectraConfig, HeadKind
from stages.electra.files.card import ModelCard
from stages.electra.files.hub import OWN_HEAD
from stages.electra.files.huggingface import Architecture
from stages.electra.files.model_folder import save_pretrained
from stages.electra.joint_model import Params
from stages.finetune.config import FinetuneConfig, Init
from stages.run_warning import RunWarning
from stages.tasks.base import Evaluation, Task, TaskData, load_work
from stages.tasks.kinds import KINDS

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
        context.tracker.artifact(context.output / name, folder="predictions")
    model = context.output / "model"
    save_pretrained(
        model,
        architecture=_architecture(config, task),
        config=network.change(
            id2label=dict(enumerate(data.labels)) or None, problem_type=KINDS[task.kind].problem_type
        ),
        params=_exported(params, task),
        tokenizer=folder,
        own_head=params["head"] if _has_own_head(config, task) else None,
        card=_card(config, task, network=network, evaluation=evaluation),
    )
    for warning in warnings:
        logger.warning("%s: %s", task.name, warning)
    context.tracker.metrics({f"scores/{name}": value for name, value in evaluation.scores.items()})
    context.tracker.artifact(context.output / "metrics.jsonl")
    context.tracker.artifact(context.output / "parameters.txt")
    context.tracker.model(str(model), name=f"{task.name}-{config.init}-{config.seed}")
    write_json(context.output / "result.json", {**result, "warnings": [asdict(warning) for warning in warnings]})
    context.tracker.artifact(context.output / "result.json")


def _has_own_head(config: FinetuneConfig, task: Task) -> bool:
    """Whether transformers has no class for the head: the joint one of answers, and 'no answer'."""
    return config.head in KINDS[task.kind].own_heads


def _architecture(config: FinetuneConfig, task: Task) -> Architecture:
    """The class of transformers that loads the model: with joint spans, the encoder alone."""
    if config.head is HeadKind.ORIGINAL and _has_own_head(config, task):
        return Architecture.MODEL
    return Architecture(KINDS[task.kind].architecture)


def _exported(params: Params, task: Task) -> Params:
    """Parameters as transformers' model computes with them."""
    backbone = {name: value for name, value in params.items() if name != "head"}
    head = load_work(task.kind).exported_head(task, params["head"])
    return backbone if head is None else backbone | {"head": head}


def _card(config: FinetuneConfig, task: Task, *, network: ElectraConfig, evaluation: Evaluation) -> ModelCard:
    pipeline, architecture = KINDS[task.kind].pipeline, _architecture(config, task)
    weights = "a pretrained discriminator" if config.init == Init.PRETRAINED else "random weights"
    summary = (
        f"{architecture} of {network.num_hidden_layers} layers of width {network.hidden_size}, fine-tuned "
        f"on {task.name} from {weights} (seed {config.seed}, {config.epochs:g} epochs, learning rate "
        f"{config.learning_rate:g}). Scores are of the dev split, in per cent."
    )
    usage = f'from transformers import pipeline\n\nanswer = pipeline({json.dumps(pipeline)}, model="path/to/model")\n'
    if _has_own_head(config, task):
        known = "the encoder alone" if architecture is Architecture.MODEL else "a model that always gives an answer"
        summary += f" The head is in {OWN_HEAD}; transformers ignores it and loads {known}."
        usage = (
            'from stages.tasks.predictor import Predictor\n\npredictor = Predictor("path/to/model")\n'
            'predictor.answers([{"question": "…", "context": "…"}])\n'
        )
    return ModelCard(
        title=f"ELECTRA fine-tuned on {task.name}",
        summary=summary,
        usage=usage,
        task=pipeline,
        dataset=task.name,
        results=evaluation.scores,
    )
