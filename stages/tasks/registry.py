"""Tasks by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from stages.tasks.base import Task, TaskOptions, load_work
from stages.tasks.form import TaskForm
from stages.tasks.glue import GLUE
from stages.tasks.named import TaskName
from stages.tasks.question_answering import make_mrqa, make_squad_v1, make_squad_v2
from stages.tasks.tagging import make_conll2000

_MAKERS: Mapping[TaskName, Callable[[TaskOptions], Task]] = MappingProxyType(
    {
        **GLUE,
        TaskName.SQUAD_V1: make_squad_v1,
        TaskName.SQUAD_V2: make_squad_v2,
        TaskName.NEWSQA: lambda options: make_mrqa(TaskName.NEWSQA, options),
        TaskName.NATURALQS: lambda options: make_mrqa(TaskName.NATURALQS, options),
        TaskName.TRIVIAQA: lambda options: make_mrqa(TaskName.TRIVIAQA, options),
        TaskName.SEARCHQA: lambda options: make_mrqa(TaskName.SEARCHQA, options),
        TaskName.CONLL2000: make_conll2000,
    }
)


def make_task(name: str, options: TaskOptions, *, form: TaskForm | None = None) -> Task:
    """The task that has this built-in name, or the one that a form describes."""
    return _MAKERS[TaskName(name)](options) if form is None else load_work(form.kind).make_task(name, form, options)
