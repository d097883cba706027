"""The model card of a fine-tuned model: from what, on what, how well, and Python that prints an answer."""

from collections.abc import Mapping
from typing import Any

from stages.electra.files.card import CITATION, ModelCard, table
from stages.electra.files.hub import OWN_HEAD, is_hub_id
from stages.electra.files.huggingface import Architecture
from stages.electra.files.snippets import PREDICTOR
from stages.finetune.config import FinetuneConfig, Init
from stages.tasks.base import Evaluation, Task, TaskData
from stages.tasks.kinds import KINDS


def finetuned_card(
    config: FinetuneConfig,
    task: Task,
    *,
    data: TaskData,
    base: Mapping[str, Any],
    evaluation: Evaluation,
    architecture: Architecture,
    result: Mapping[str, Any],
) -> ModelCard:
    """The card.

    Args:
      config: Of the run, filled in.
      task: What was learnt.
      data: Its examples; none of them is shown.
      base: The hub's metadata of the model that it started from; {} where there is none.
      evaluation: Scores of the dev split.
      architecture: The class of transformers that loads the model.
      result: The run's result.json.
    """
    spec = KINDS[task.kind]
    weights = "a pretrained ELECTRA" if config.init is Init.PRETRAINED else "random weights"
    summary = (
        f"ELECTRA (arXiv 2003.10555), fine-tuned from {weights} on the task `{task.name}` "
        f"({str(task.kind).replace('_', ' ')}). Scores are of the dev split, in per cent."
    )
    has_own_head = config.head in spec.own_heads
    if has_own_head:
        known = "the encoder alone" if architecture is Architecture.MODEL else "a model that always gives an answer"
        summary += f" The head is in `{OWN_HEAD}`; transformers ignores it and loads {known}."
    labels = ", ".join(f"`{label}`" for label in data.labels)
    settings = {
        "training examples": f"{len(data.train):,}",
        "dev examples": f"{len(data.dev):,}",
        "labels": labels.replace("|", "\\|") or None,
        "epochs": f"{config.epochs:g}",
        "steps": result.get("steps"),
        "batch size": config.batch_size,
        "learning rate": f"{config.learning_rate:g}",
        "layer-wise decay of it": config.layer_decay,
        "longest input, in tokens": config.max_length,
        "head": str(config.head),
        "seed": config.seed,
    }
    limits = (
        f"- It was trained on inputs of up to {config.max_length} tokens; the tokenizer cuts where the model has no "
        "more positions.\n"
        "- Scores of one seed vary by chance. Nobody has tested the model for prejudices of its training texts."
    )
    return ModelCard(
        title=f"ELECTRA fine-tuned on {task.name}",
        summary=summary,
        usage=_usage(config, task, data, has_own_head=has_own_head),
        sections=(("Settings", table(settings)), ("Limits", limits), ("Citation", CITATION)),
        name=f"electra-{task.name}",
        license=base.get("license") if isinstance(base.get("license"), str) else None,
        language=_words(base.get("language")),
        base_model=_base_model(config, base),
        task=spec.pipeline,
        pipeline=spec.pipeline,
        dataset=task.name,
        split="dev",
        results=evaluation.scores,
    )


def _base_model(config: FinetuneConfig, base: Mapping[str, Any]) -> str | None:
    """The hub's name of the model that the run started from, or the one that its own card gives it."""
    if config.init is not Init.PRETRAINED:
        return None
    if is_hub_id(config.model):
        return config.model
    index = base.get("model-index")
    first = index[0] if isinstance(index, list) and index else {}
    return first.get("name") if isinstance(first, dict) else None


def _words(value: Any) -> tuple[str, ...]:
    """Metadata that may be one word or several."""
    return (value,) if isinstance(value, str) else tuple(map(str, value)) if isinstance(value, list) else ()


def _usage(config: FinetuneConfig, task: Task, data: TaskData, *, has_own_head: bool) -> str:
    spec = KINDS[task.kind]
    if has_own_head:
        return PREDICTOR
    is_pair = len(getattr(data.dev[0], "texts", ())) > 1 if data.dev else False
    return spec.snippet.format(
        inputs='{"text": "a first text", "text_pair": "a second text"}' if is_pair else '"a text"',
        max_length=config.max_length,
        stride=min(config.doc_stride, config.max_length // 4),
        max_answer_length=config.max_answer_length,
    )
