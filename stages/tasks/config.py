"""The tasks by name, with the published settings of each: light, so that a config can be checked at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class TaskKind(StrEnum):
    """What a task asks of the model."""

    CLASSIFICATION = "classification"
    TAGGING = "tagging"
    QUESTION_ANSWERING = "question_answering"


class TaskName(StrEnum):
    """The tasks that are known by name. The names are Hugging Face's."""

    COLA = "cola"
    MRPC = "mrpc"
    SQUAD_V1 = "squad_v1"
    CONLL2000 = "conll2000"


@dataclass(frozen=True, kw_only=True)
class TaskDefaults:
    """Published settings of a task (ELECTRA, arXiv 2003.10555, appendix B; SQuAD as in its code).

    Attributes:
      kind: What is predicted.
      primary: The score by which runs are compared; one of those that the task computes.
      epochs: Passes over the training examples.
      max_length: Longest input, in tokens.
    """

    kind: TaskKind
    primary: str
    epochs: int
    max_length: int


TASKS: Mapping[TaskName, TaskDefaults] = MappingProxyType(
    {
        TaskName.COLA: TaskDefaults(kind=TaskKind.CLASSIFICATION, primary="matthews", epochs=3, max_length=128),
        TaskName.MRPC: TaskDefaults(kind=TaskKind.CLASSIFICATION, primary="accuracy", epochs=3, max_length=128),
        TaskName.SQUAD_V1: TaskDefaults(
            kind=TaskKind.QUESTION_ANSWERING, primary="exact_match", epochs=2, max_length=512
        ),
        TaskName.CONLL2000: TaskDefaults(kind=TaskKind.TAGGING, primary="f1", epochs=3, max_length=128),
    }
)
