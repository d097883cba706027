"""What a fine-tuning reads: the model's tokenizer, the task and its examples."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from upath import UPath

from stages.context import StageContext
from stages.electra.config import ElectraConfig, HeadKind
from stages.examples import load
from stages.finetune.config import DeclaredConfig, FinetuneConfig
from stages.tasks.base import Task, TaskData, TaskOptions
from stages.tasks.registry import make_task
from stages.tasks.tokens import WordPiece


def read_tokenizer(folder: UPath, network: ElectraConfig) -> WordPiece:
    """The model's own; one that does not fit the model is an error."""
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


def find_task(config: FinetuneConfig) -> Task:
    """The task of the configuration."""
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


def read_examples(task: Task, config: FinetuneConfig, context: StageContext) -> TaskData:
    """As many of the task's examples as the run asks for."""
    data = load(task, data=config.data, train_file=config.train_file, eval_file=config.eval_file, context=context)
    return replace(
        data, train=evenly(data.train, config.max_train_examples), dev=evenly(data.dev, config.max_eval_examples)
    )


def evenly(examples: Sequence[Any], count: int | None) -> Sequence[Any]:
    """At most `count` examples, evenly spaced: files are often sorted by source or article."""
    if count is None or count >= len(examples):
        return examples
    return [examples[index * len(examples) // count] for index in range(count)]
