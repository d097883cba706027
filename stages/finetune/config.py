"""The configuration of fine-tuning: the YAML section, its tasks, one run. Light, so that it can be checked at once."""

import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from cluster.nearest import did_you_mean
from stages.electra.config import HeadKind
from stages.electra.files.hub import check_revision
from stages.tasks.files.reading import check_ending
from stages.tasks.form import ClassWeights, TaskForm
from stages.tasks.kinds import TaskKind
from stages.tasks.named import TaskName
from stages.training.config import ComputeDtype

EXPORTED_DISCRIMINATOR, EXPORTED_GENERATOR = "{export}/discriminator", "{export}/generator"


class Init(StrEnum):
    """Where the weights of embeddings and encoder come from; the head's are random."""

    PRETRAINED = "pretrained"
    RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One fine-tuning run. `None` means the value that was published for a model of that width.

    Attributes:
      task: Which task, by its name in the configuration.
      data: Folder of its files, by their official names.
      epochs: Passes over the training rows.
      max_length: Longest input in tokens, special ones included; longer texts are cut or split in windows.
      train_file: Training file, relative to `data` or absolute, where its name is another.
      eval_file: File that is scored, likewise.
      seed: Of the head's (and a random model's) weights, of order and dropout.
      init: Pretrained or random embeddings and encoder.
      model: Hugging Face folder or hub id: weights, sizes and tokenizer; a random run takes the last two.
      revision: Branch, tag or commit of a hub id; None is the default branch.
      batch_size: Rows a step.
      learning_rate: Peak learning rate of the head.
      layer_decay: Factor on the learning rate from each layer to the one below.
      layer_decay_offset: Factors between head and last layer: 1 in the paper, 2 in its code.
      weight_decay: Of all weights but biases and LayerNorm.
      warmup_fraction: Share of the steps over which the learning rate rises from 0.
      clip_norm: Largest global norm of the gradient.
      doc_stride: Tokens between the starts of two windows over one context.
      max_question_length: Tokens of a question that are kept.
      max_answer_length: Longest answer in tokens.
      n_best: Starts, ends and answers considered for a question.
      double_unordered: Train on both orders of a pair whose order means nothing.
      max_train_examples: Train on at most this many examples, evenly spaced over the file.
      max_eval_examples: Score at most this many, likewise; such scores are not comparable to published ones.
      evaluations: How often the dev split is scored, evenly spaced; the scores of the run are the last ones.
      patience: Stop after this many evaluations in a row without a better primary score, and keep the weights and
        scores of the best evaluation. None trains to the end and keeps the last.
      retries: How often a run that learnt nothing starts over with other draws; its result says so.
      head: transformers' heads, or those of the original code, with which the published scores were made: for texts
        without a hidden layer, for answers with an end that depends on the start, for chunks with BIOES tags.
      compute_dtype: Number format of matrix products.
    """

    task: str
    data: str
    epochs: float
    max_length: int
    train_file: str | None = None
    eval_file: str | None = None
    seed: int = 0
    init: Init = Init.PRETRAINED
    model: str = EXPORTED_DISCRIMINATOR
    revision: str | None = field(default=None, metadata={"omit_default": True})
    batch_size: int = 32
    learning_rate: float | None = None
    layer_decay: float | None = None
    layer_decay_offset: int = 1
    weight_decay: float = 0.0
    warmup_fraction: float = 0.1
    clip_norm: float = 1.0
    doc_stride: int = 128
    max_question_length: int = 64
    max_answer_length: int = 30
    n_best: int = 20
    double_unordered: bool = True
    max_train_examples: int | None = None
    max_eval_examples: int | None = None
    evaluations: int = 1
    patience: int | None = None
    retries: int = 0
    head: HeadKind = HeadKind.HUGGINGFACE
    compute_dtype: ComputeDtype = ComputeDtype.FLOAT32

    def __post_init__(self) -> None:
        _check(self)
        if self.patience is not None and self.patience >= self.evaluations:
            raise ValueError(
                f"patience is {self.patience}, must be below evaluations = {self.evaluations} to end a run early"
            )
        if self.max_length < 16:
            raise ValueError(f"max_length is {self.max_length}, must be at least 16")
        check_revision(self.model, self.revision)


@dataclass(frozen=True, kw_only=True)
class DeclaredConfig(FinetuneConfig):
    """One fine-tuning run on a task of the user's own."""

    form: TaskForm


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What both the YAML section `finetune` and each of its tasks may set of their runs (see `FinetuneConfig`).

    A value is taken from the task, else from the section, else from what was published for the task.

    Attributes:
      model: Hugging Face folder or hub id; None takes the discriminator that this pipeline exports. RTE may start from
        `{finetune/mnli/seed-0}/model`, a task above it.
      revision: Branch, tag or commit of a hub id that is given as this model; None is the default branch.
      seeds: One run for each; None takes the configuration's own seed.
    """

    model: str | None = None
    revision: str | None = None
    seeds: tuple[int, ...] | None = None
    epochs: float | None = None
    max_length: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    layer_decay: float | None = None
    layer_decay_offset: int | None = None
    weight_decay: float | None = None
    warmup_fraction: float | None = None
    clip_norm: float | None = None
    doc_stride: int | None = None
    max_question_length: int | None = None
    max_answer_length: int | None = None
    n_best: int | None = None
    double_unordered: bool | None = None
    max_train_examples: int | None = None
    max_eval_examples: int | None = None
    evaluations: int | None = None
    patience: int | None = None
    retries: int | None = None
    head: HeadKind | None = None
    compute_dtype: ComputeDtype | None = None

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class TaskSection(Overrides):
    """One task of the YAML section `finetune.tasks`: its data, and what differs from the section's defaults.

    A task without a built-in name says what it is: `kind`, and the fields of `stages.tasks.form.TaskForm`.

    Attributes:
      data: Folder of its files; None fetches those that a built-in task publishes, unless both are named.
    """

    data: str | None = None
    kind: TaskKind | None = None
    texts: tuple[str, ...] | None = None
    label: str | None = None
    labels: tuple[str | int, ...] | None = None
    separator: str | None = None
    range: tuple[float, float] | None = None
    metric: str | None = None
    class_weights: dict[str, float] | ClassWeights | None = None
    columns: tuple[str, ...] | None = None
    train_file: str | None = None
    eval_file: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.form  # checks it
        for name in ("train_file", "eval_file"):
            check_ending(getattr(self, name) or "", what=name)

    @property
    def names_both_files(self) -> bool:
        """Whether both files of the task are named, so that it needs no folder."""
        return self.train_file is not None and self.eval_file is not None

    @property
    def form(self) -> TaskForm | None:
        """The description of a task of the user's own; None for a built-in task."""
        names = [item.name for item in fields(TaskForm)]
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        if not said:
            return None
        if "kind" not in said:
            raise ValueError(f"{', '.join(said)} describe a task of your own, which needs kind too")
        return TaskForm(**said | {"labels": tuple(str(label) for label in self.labels or ())})


@dataclass(frozen=True, kw_only=True)
class FinetuneSection(Overrides):
    """The YAML section `finetune`: defaults of all tasks, and the tasks.

    Attributes:
      tasks: By name.
      from_random: Fine-tune from random weights too, to show what pretraining gave.
      probes: Tasks to fine-tune, besides, from the checkpoint of each milestone of pretraining, as soon as it is there.
    """

    tasks: dict[str, TaskSection] = field(default_factory=dict)
    from_random: bool = False
    probes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, task in self.tasks.items():
            _check_name(name, task)
        for name in self.probes:
            if name not in self.tasks:
                raise ValueError(f"probes has {name}, must be names of tasks: {', '.join(self.tasks)}")


def _check_name(name: str, task: TaskSection) -> None:
    known = [str(member) for member in TaskName]
    if name in known:
        if task.form is not None:
            raise ValueError(f"tasks.{name}: {name} is a built-in task; give a task of your own (kind) another name")
        return
    if task.form is None:
        raise ValueError(
            f"tasks.{name}: no built-in task has this name.{did_you_mean(name, known)}\nallowed: {', '.join(known)}; "
            f"or any other name with kind: one of {', '.join(TaskKind)}"
        )
    if task.data is None and not task.names_both_files:
        raise ValueError(f"tasks.{name}: data is missing, must be the folder of the task's files")
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
        raise ValueError(f"tasks.{name}: a name has letters, digits, _ and - only, and begins with a letter")


def _check(config: FinetuneConfig | Overrides) -> None:
    """The limits of each field, wherever it is given."""

    def require(name: str, allowed: Any, limits: str) -> None:
        value = getattr(config, name, None)
        if value is not None and not allowed(value):
            raise ValueError(f"{name} is {value}, must be {limits}")

    for name in ("epochs", "learning_rate", "clip_norm"):
        require(name, lambda value: value > 0, "above 0")
    for name in (
        "batch_size",
        "max_length",
        "doc_stride",
        "max_question_length",
        "max_answer_length",
        "n_best",
        "max_train_examples",
        "max_eval_examples",
        "evaluations",
        "patience",
    ):
        require(name, lambda value: value >= 1, "at least 1")
    require("retries", lambda value: value >= 0, "at least 0")
    require("layer_decay", lambda value: 0 < value <= 1, "above 0 and at most 1")
    require("layer_decay_offset", lambda value: value in (1, 2), "1 (paper) or 2 (original code)")
    require("weight_decay", lambda value: value >= 0, "at least 0")
    require("warmup_fraction", lambda value: 0 <= value <= 1, "from 0 to 1")
    seeds = getattr(config, "seeds", None)
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
        raise ValueError(f"seeds are {list(seeds)}, must be one or more different numbers")


def published_learning_rate(hidden_size: int) -> float:
    """Of ELECTRA small, base and large, by the model's width (arXiv 2003.10555, table 7)."""
    return 3e-4 if hidden_size <= 256 else 1e-4 if hidden_size <= 768 else 5e-5


def published_layer_decay(hidden_size: int) -> float:
    """Likewise."""
    return 0.8 if hidden_size <= 768 else 0.9
