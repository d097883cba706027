"""What a user says of a task of their own: light, so that a config can be checked at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from stages.tasks.named import TaskKind

# The scores of each kind of task; the first is the one by which runs are compared unless another is asked for.
METRICS: Mapping[TaskKind, tuple[str, ...]] = MappingProxyType(
    {
        TaskKind.CLASSIFICATION: ("accuracy", "macro_f1", "matthews", "f1"),
        TaskKind.MULTI_LABEL: ("micro_f1", "macro_f1", "exact_match"),
        TaskKind.REGRESSION: ("spearman", "pearson"),
        TaskKind.TAGGING: ("f1", "precision", "recall", "accuracy"),
        TaskKind.QUESTION_ANSWERING: ("exact_match", "f1"),
        TaskKind.ANSWERABILITY: ("exact_match", "f1", "best/exact_match", "best/f1"),
    }
)
_ON_TEXTS = (TaskKind.CLASSIFICATION, TaskKind.MULTI_LABEL, TaskKind.REGRESSION)
_WITH_CLASSES = (TaskKind.CLASSIFICATION, TaskKind.MULTI_LABEL)
_ON_QUESTIONS = (TaskKind.QUESTION_ANSWERING, TaskKind.ANSWERABILITY)


class ClassWeights(StrEnum):
    """Rules by which classes count in the loss."""

    BALANCED = "balanced"


@dataclass(frozen=True, kw_only=True)
class TaskForm:
    """A task that is none of those known by name. `None` and () stand for what was not said.

    Attributes:
      kind: What is predicted.
      texts: Columns of one text or two; of tagging in JSON lines or Parquet, the column of the words.
      label: Column of the label; of tagging, of the tags.
      labels: The classes as the files write them, class 0 first; a binary F1 is that of class 1.
      separator: Between the classes of a text that has several, where they are one text.
      range: Smallest and largest label of a regression.
      metric: The score by which runs are compared.
      class_weights: How much each class counts in the loss (absent ones by 1), or `balanced`: the inverse of its
        frequency; for several labels absent / present.
      columns: All columns of a file that does not begin with their names; of tagging, word first, tag last.
    """

    kind: TaskKind
    texts: tuple[str, ...] = ()
    label: str | None = None
    labels: tuple[str, ...] = ()
    separator: str = ","
    range: tuple[float, float] | None = None
    metric: str | None = None
    class_weights: Mapping[str, float] | ClassWeights | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kind = self.kind
        if kind in _ON_TEXTS and (len(self.texts) not in (1, 2) or self.label is None):
            raise ValueError(f"{kind} needs texts (the columns of one text or two) and label (a column)")
        if kind in _WITH_CLASSES and len(self.labels) < 2:
            raise ValueError(f"{kind} needs labels: two classes or more, as the files write them")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels are {', '.join(self.labels)}, must differ")
        if (self.range is not None) != (kind is TaskKind.REGRESSION):
            raise ValueError("range (smallest and largest label) is needed by regression, and by nothing else")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range is {list(self.range)}, must be a smaller and a larger number")
        if kind is TaskKind.TAGGING and not self.columns and (len(self.texts) != 1 or self.label is None):
            raise ValueError(
                f"{kind} needs columns (of a file with a word a line), or texts and label (the columns of the words "
                "and of the tags in JSON lines or Parquet)"
            )
        if kind in _ON_QUESTIONS and (self.texts or self.label or self.labels or self.columns):
            raise ValueError(f"{kind} has no texts, label, labels or columns: its files are as SQuAD's or MRQA's")
        if self.metric is not None and self.metric not in self.metrics:
            raise ValueError(f"metric is {self.metric}, must be one of {', '.join(self.metrics)}")
        if self.class_weights is not None and kind not in _WITH_CLASSES:
            raise ValueError(f"class_weights belong to {' and '.join(_WITH_CLASSES)}, not to {kind}")
        if isinstance(self.class_weights, Mapping):
            for name, weight in self.class_weights.items():
                if name not in self.labels:
                    raise ValueError(f"class_weights.{name}: must be one of the labels {', '.join(self.labels)}")
                if weight <= 0:
                    raise ValueError(f"class_weights.{name} is {weight}, must be above 0")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores that such a task has."""
        names = METRICS[self.kind]
        return names if self.kind is not TaskKind.CLASSIFICATION or len(self.labels) == 2 else names[:-1]

    @property
    def primary(self) -> str:
        return self.metric or self.metrics[0]

    @property
    def epochs(self) -> int:
        return 2 if self.kind in _ON_QUESTIONS else 3

    @property
    def max_length(self) -> int:
        return 512 if self.kind in _ON_QUESTIONS else 128
