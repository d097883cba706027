"""The kinds of tasks: one table of what distinguishes them. Light, so that a config can be checked at once.

A row holds what a config, a model folder or a model card must know of a kind, and names the module whose `WORK[kind]`
holds what computes (`stages.tasks.base.KindWork`). That module is imported where a task is made or trained. To add a
kind, write its module and its row. Nothing else asks which kind a task is of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from stages.electra.config import HeadKind, ProblemType
from stages.electra.files import snippets


class TaskKind(StrEnum):
    """What a task asks of the model. The last is question answering where a context may hold no answer."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi_label"
    REGRESSION = "regression"
    TAGGING = "tagging"
    QUESTION_ANSWERING = "question_answering"
    ANSWERABILITY = "answerability"


@dataclass(frozen=True, kw_only=True)
class KindSpec:
    """What distinguishes a kind.

    Attributes:
      module: The module that holds its `WORK`.
      architecture: The class of transformers that its models are saved for.
      pipeline: The hub's name of such tasks, and of the pipeline of transformers that runs them, if it has one.
      snippet: Python that prints an answer of such a model (see `stages.electra.files.snippets`).
      metrics: Its scores; the first is the one by which runs are compared, unless the user names another.
      binary_metrics: Further scores where there are two classes: those of class 1.
      problem_type: What the labels of a text are.
      own_heads: The heads that no class of transformers has.
      needs: What a `stages.tasks.form.TaskForm` must give: the keys of one of these.
      takes: The keys that it may give besides.
      max_texts: Most columns of texts.
      epochs: Passes over the training examples, where nobody says.
      max_length: Longest input in tokens, where nobody says.
    """

    module: str
    architecture: str
    pipeline: str
    snippet: str
    metrics: tuple[str, ...]
    binary_metrics: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    own_heads: tuple[HeadKind, ...] = ()
    needs: tuple[tuple[str, ...], ...] = ((),)
    takes: tuple[str, ...] = ()
    max_texts: int = 2
    epochs: int = 3
    max_length: int = 128

    @property
    def keys(self) -> frozenset[str]:
        """All keys by which such a task may be described."""
        return frozenset(self.takes).union(*self.needs)


_of_texts = partial(
    KindSpec,
    module="stages.tasks.classification",
    architecture="ElectraForSequenceClassification",
    pipeline="text-classification",
)
_of_questions = partial(
    KindSpec,
    module="stages.tasks.question_answering",
    architecture="ElectraForQuestionAnswering",
    pipeline="question-answering",
    snippet=snippets.QUESTION_ANSWERING,
    epochs=2,
    max_length=512,
)

KINDS: Mapping[TaskKind, KindSpec] = MappingProxyType(
    {
        TaskKind.CLASSIFICATION: _of_texts(
            snippet=snippets.CLASSIFICATION,
            metrics=("accuracy", "macro_f1", "matthews"),
            binary_metrics=("f1",),
            problem_type=ProblemType.SINGLE_LABEL,
            needs=(("texts", "label", "labels"),),
            takes=("class_weights", "columns"),
        ),
        TaskKind.MULTI_LABEL: _of_texts(
            snippet=snippets.MULTI_LABEL,
            metrics=("micro_f1", "macro_f1", "exact_match"),
            problem_type=ProblemType.MULTI_LABEL,
            needs=(("texts", "label", "labels"),),
            takes=("class_weights", "columns"),
        ),
        TaskKind.REGRESSION: _of_texts(
            snippet=snippets.REGRESSION,
            metrics=("spearman", "pearson"),
            problem_type=ProblemType.REGRESSION,
            needs=(("texts", "label", "range"),),
            takes=("columns",),
        ),
        TaskKind.TAGGING: KindSpec(
            module="stages.tasks.tagging",
            architecture="ElectraForTokenClassification",
            pipeline="token-classification",
            snippet=snippets.TAGGING,
            metrics=("f1", "precision", "recall", "accuracy"),
            needs=(("columns",), ("texts", "label")),
            takes=("labels",),
            max_texts=1,
        ),
        TaskKind.QUESTION_ANSWERING: _of_questions(metrics=("exact_match", "f1"), own_heads=(HeadKind.ORIGINAL,)),
        TaskKind.ANSWERABILITY: _of_questions(
            metrics=("exact_match", "f1", "best/exact_match", "best/f1"),
            own_heads=(HeadKind.ORIGINAL, HeadKind.HUGGINGFACE),
        ),
    }
)
