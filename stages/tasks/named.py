"""The built-in tasks with their published settings: light, so that a config can be checked at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from stages.tasks.kinds import KINDS, TaskKind


class TaskName(StrEnum):
    """The built-in tasks. The names are Hugging Face's."""

    COLA = "cola"
    SST2 = "sst2"
    MRPC = "mrpc"
    STSB = "stsb"
    QQP = "qqp"
    MNLI = "mnli"
    QNLI = "qnli"
    RTE = "rte"
    WNLI = "wnli"
    AX = "ax"
    SQUAD_V1 = "squad_v1"
    SQUAD_V2 = "squad_v2"
    NEWSQA = "newsqa"
    NATURALQS = "naturalqs"
    TRIVIAQA = "triviaqa"
    SEARCHQA = "searchqa"
    CONLL2000 = "conll2000"


@dataclass(frozen=True, kw_only=True)
class TaskDefaults:
    """Published settings of a task (ELECTRA, arXiv 2003.10555, appendix B; answers as in its code).

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


def _task(kind: TaskKind, primary: str, *, epochs: int | None = None) -> TaskDefaults:
    spec = KINDS[kind]
    return TaskDefaults(kind=kind, primary=primary, epochs=epochs or spec.epochs, max_length=spec.max_length)


TASKS: Mapping[TaskName, TaskDefaults] = MappingProxyType(
    {
        TaskName.COLA: _task(TaskKind.CLASSIFICATION, "matthews"),
        TaskName.SST2: _task(TaskKind.CLASSIFICATION, "accuracy"),
        TaskName.MRPC: _task(TaskKind.CLASSIFICATION, "accuracy"),
        TaskName.STSB: _task(TaskKind.REGRESSION, "spearman", epochs=10),
        TaskName.QQP: _task(TaskKind.CLASSIFICATION, "accuracy"),
        TaskName.MNLI: _task(TaskKind.CLASSIFICATION, "matched/accuracy"),
        TaskName.QNLI: _task(TaskKind.CLASSIFICATION, "accuracy"),
        TaskName.RTE: _task(TaskKind.CLASSIFICATION, "accuracy", epochs=10),
        TaskName.WNLI: _task(TaskKind.CLASSIFICATION, "accuracy"),
        TaskName.AX: _task(TaskKind.CLASSIFICATION, "matthews"),
        TaskName.SQUAD_V1: _task(TaskKind.QUESTION_ANSWERING, "exact_match"),
        TaskName.SQUAD_V2: _task(TaskKind.ANSWERABILITY, "exact_match"),
        # MRQA ranks by F1 (Fisch et al. 2019).
        TaskName.NEWSQA: _task(TaskKind.QUESTION_ANSWERING, "f1"),
        TaskName.NATURALQS: _task(TaskKind.QUESTION_ANSWERING, "f1"),
        TaskName.TRIVIAQA: _task(TaskKind.QUESTION_ANSWERING, "f1"),
        TaskName.SEARCHQA: _task(TaskKind.QUESTION_ANSWERING, "f1"),
        TaskName.CONLL2000: _task(TaskKind.TAGGING, "f1"),
    }
)
