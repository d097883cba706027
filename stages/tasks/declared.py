"""Tasks of the user's own, from what the configuration says of them."""

from collections.abc import Mapping

from stages.tasks import scores
from stages.tasks.base import Task, TaskOptions
from stages.tasks.classification import Classification, Layout
from stages.tasks.form import TaskForm
from stages.tasks.named import TaskKind
from stages.tasks.question_answering import QuestionAnswering
from stages.tasks.tagging import Tagging
from stages.tasks.targets import Classes, LabelSet, Number, Score, Target

_SCORES: Mapping[TaskKind, Mapping[str, Score]] = {
    TaskKind.CLASSIFICATION: {
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "matthews": scores.matthews,
        "f1": scores.binary_f1,
    },
    TaskKind.MULTI_LABEL: {
        "micro_f1": scores.micro_f1,
        "macro_f1": scores.macro_f1,
        "exact_match": scores.accuracy,  # of rows of indicators: all classes of a text are right
    },
    TaskKind.REGRESSION: {"spearman": scores.spearman, "pearson": scores.pearson},
}


def make_declared(name: str, form: TaskForm, options: TaskOptions) -> Task:
    """The task that a form describes."""
    match form.kind:
        case TaskKind.TAGGING:
            return Tagging(
                name=name,
                columns=form.columns,
                fields=(*form.texts, form.label) if form.label else (),
                known=form.labels,
                chunked=form.primary != "accuracy",
                primary=form.primary,
                options=options,
            )
        case TaskKind.QUESTION_ANSWERING | TaskKind.ANSWERABILITY:
            return QuestionAnswering(name=name, primary=form.primary, options=options, kind=form.kind)
    layout = Layout(
        texts=form.texts,
        label=form.label or "",
        labels={label: number for number, label in enumerate(form.labels)},
        header=form.columns,
    )
    return Classification(
        name=name, tsv=layout, tables=layout, target=_target(form), primary=form.primary, options=options
    )


def _target(form: TaskForm) -> Target:
    score = {name: _SCORES[form.kind][name] for name in form.metrics}
    if form.range is not None:
        return Number(names=(form.label or "",), low=form.range[0], high=form.range[1], scores=score)
    weights_C: tuple[float, ...] | None = None
    if isinstance(form.class_weights, Mapping):
        weights_C = tuple(form.class_weights.get(label, 1.0) for label in form.labels)
    elif form.class_weights is not None:
        weights_C = ()  # balanced
    if form.kind is TaskKind.MULTI_LABEL:
        return LabelSet(names=form.labels, separator=form.separator, scores=score, weights=weights_C)
    return Classes(names=form.labels, written=form.labels, scores=score, weights=weights_C)
