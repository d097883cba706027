"""What a task is: examples from files, model inputs from examples, scores from the model's answers.

B batch, T tokens, C classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from upath import UPath

from stages.electra.config import ElectraConfig, HeadKind
from stages.run_warning import RunWarning
from stages.tasks.form import TaskForm
from stages.tasks.kinds import KINDS, TaskKind
from stages.tasks.tokens import WordPiece

if TYPE_CHECKING:  # who reads a task's examples needs no jax
    import jax

    from stages.electra.joint_model import Params
    from stages.electra.network import Network
    from stages.training.state import Batch


class Split(StrEnum):
    """Which part of a task's data."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"  # without labels


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How examples become inputs and answers; each task uses what concerns it.

    Attributes:
      max_length: Longest input, in tokens, special ones included.
      doc_stride: Tokens between the starts of two windows over one context.
      max_question_length: Tokens of a question that are kept.
      max_answer_length: Longest answer, in tokens.
      n_best: Starts, ends and answers that are considered for a question.
      double_unordered: Train on both orders of a pair whose order means nothing.
      bioes: The model learns BIOES tags, whatever the files have.
    """

    max_length: int
    doc_stride: int = 128
    max_question_length: int = 64
    max_answer_length: int = 30
    n_best: int = 20
    double_unordered: bool = True
    bioes: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A task's examples and where they came from.

    Attributes:
      train: Training examples, of the task's own type.
      dev: Examples that are scored, with their answers.
      labels: Names of the classes by number; empty where the task has none.
      train_file: Where `train` was read.
      dev_file: Where `dev` was read.
      warnings: What a reader of the scores must know of the files.
    """

    train: Sequence[Any]
    dev: Sequence[Any]
    labels: tuple[str, ...] = ()
    train_file: str
    dev_file: str
    warnings: tuple[RunWarning, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Features:
    """Model inputs, one a row, not padded.

    Attributes:
      ids: Token ids of each row, int32.
      first_length: Tokens of type 0 of each row; the rest is type 1.
      examples: Which example each row comes from.
      labels: Per row: a number or several (`label`, `start`, `end`, …), or an array as long as the row's ids
        (`labels`).
      counts: What happened on the way (`truncated`, `skipped`, …).
      details: What the task needs to turn the rows' logits into answers.
      faults: What is wrong with some examples, a line each.
    """

    ids: Sequence[np.ndarray]
    first_length: np.ndarray
    examples: np.ndarray
    labels: Mapping[str, Sequence[Any] | np.ndarray]
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Any = None
    faults: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, values in self.labels.items():
            assert len(values) == len(self.ids), (name, len(values), len(self.ids))
        assert len(self.first_length) == len(self.examples) == len(self.ids)

    @property
    def num_rows(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids], np.int32)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores in per cent, as they are published, and the predictions in the task's official form.

    Attributes:
      scores: By name; 0 to 100, correlations -100 to 100.
      files: Text of each prediction file by file name.
      warnings: What a reader of the scores must know (one class predicted, …).
      details: Further results that can be written as JSON (confusion matrix, scores by type, …).
    """

    scores: Mapping[str, float]
    files: Mapping[str, str]
    warnings: tuple[RunWarning, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A kind of question, its files and its scores.

    Attributes:
      name: As in the configuration.
      primary: The score by which runs are compared.
      options: How examples become inputs and answers.
    """

    name: str
    primary: str
    options: TaskOptions

    @property
    @abstractmethod
    def kind(self) -> TaskKind:
        """Which head and loss the model gets."""

    @property
    def asked(self) -> tuple[str, ...]:
        """What a model of this task is asked with, in the words of `stages.tasks.predictor`."""
        return ("text",)

    @abstractmethod
    def load(self, data: UPath, *, train_file: str | None = None, eval_file: str | None = None) -> TaskData:
        """Reads both splits from a folder, or from files named relative to it or absolutely."""

    @abstractmethod
    def features(
        self, examples: Sequence[Any], tokenizer: WordPiece, *, labels: tuple[str, ...], split: Split
    ) -> Features:
        """Turns examples into inputs. Training may repeat or drop examples; dev keeps every one."""

    @abstractmethod
    def evaluate(self, examples: Sequence[Any], features: Features, logits: Sequence[np.ndarray]) -> Evaluation:
        """Scores dev. `logits` holds a row's [C], or its [T, C] for as many tokens as it has."""


@dataclass(frozen=True, kw_only=True)
class KindWork:
    """What a kind of task computes.

    Attributes:
      make_task: The task of that name that a form describes.
      make_network: By configuration, head and random key the network that answers, with random parameters.
      losses: By logits and batch the losses and the weight that each has in their mean.
      constant_loss: The mean loss of the best guess that does not look at the input: what a model that learns nothing
        reaches.
      exported_head: The head of a task's model as transformers computes with it; None where it cannot.
    """

    make_task: Callable[[str, TaskForm, TaskOptions], Task]
    make_network: Callable[[ElectraConfig, HeadKind, "jax.Array"], "Network"]
    losses: Callable[["jax.Array", "Batch"], tuple["jax.Array", "jax.Array"]]
    constant_loss: Callable[[Features], float]
    exported_head: Callable[[Task, "Params"], "Params | None"] = lambda task, head: head


def load_work(kind: TaskKind) -> KindWork:
    """What the module of a kind holds for it."""
    work: KindWork = import_module(KINDS[kind].module).WORK[kind]
    return work


def entropy(weights: Iterable[float]) -> float:
    """-sum of w log(w / sum of all w): the entropy of shares, of weights the smallest loss of a constant guess."""
    positive = [float(weight) for weight in weights if weight > 0]
    return -sum(weight * math.log(weight / sum(positive)) for weight in positive)
