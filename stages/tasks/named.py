"""The tasks by name, with the published settings of each: light, so that a config can be checked at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class TaskKind(StrEnum):
    """What a task asks of the model. The last is question answering where a context may hold no answer."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi_label"
    REGRESSION = "regression"
    TAGGING = "tagging"
    QUESTION_ANSWERING = "question_answering"
    ANSWERABILITY = "answerability"


class TaskName(StrEnum):
    """The tasks that are known by name. The names are Hugging Face's."""

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


def _texts(primary: str, *, epochs: int = 3, kind: TaskKind = TaskKind.CLASSIFICATION) -> TaskDefaults:
    return TaskDefaults(kind=kind, primary=primary, epochs=epochs, max_length=128)


def _answers(primary: str, *, kind: TaskKind = TaskKind.QUESTION_ANSWERING) -> TaskDefaults:
    return TaskDefaults(kind=kind, primary=primary, epochs=2, max_length=512)


TASKS: Mapping[TaskName, TaskDefaults] = MappingProxyType(
    {
        TaskName.COLA: _texts("matthews"),
        TaskName.SST2: _texts("accuracy"),
        TaskName.MRPC: _texts("accuracy"),
        TaskName.STSB: _texts("spearman", epochs=10, kind=TaskKind.REGRESSION),
        TaskName.QQP: _texts("accuracy"),
        TaskName.MNLI: _texts("matched/accuracy"),
        TaskName.QNLI: _texts("accuracy"),
        TaskName.RTE: _texts("accuracy", epochs=10),
        TaskName.WNLI: _texts("accuracy"),
        TaskName.AX: _texts("matthews"),
        TaskName.SQUAD_V1: _answers("exact_match"),
        TaskName.SQUAD_V2: _answers("exact_match", kind=TaskKind.ANSWERABILITY),
        # MRQA ranks by F1 (Fisch et al. 2019).
        TaskName.NEWSQA: _answers("f1"),
        TaskName.NATURALQS: _answers("f1"),
        TaskName.TRIVIAQA: _answers("f1"),
        TaskName.SEARCHQA: _answers("f1"),
        TaskName.CONLL2000: TaskDefaults(kind=TaskKind.TAGGING, primary="f1", epochs=3, max_length=128),
    }
)
