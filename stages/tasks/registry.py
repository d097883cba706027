"""Makes tasks: built-in ones by name, a user's own from its form."""

from collections.abc import Callable, Mapping
from functools import partial

from stages.tasks.base import Task, TaskOptions, load_work
from stages.tasks.form import TaskForm
from stages.tasks.glue import GLUE
from stages.tasks.named import TASKS, TaskName
from stages.tasks.question_answering import WORK, make_questions
from stages.tasks.tagging import make_conll2000

_MAKERS: Mapping[TaskName, Callable[[TaskOptions], Task]] = {
    **GLUE,
    **{name: partial(make_questions, name) for name, task in TASKS.items() if task.kind in WORK},
    TaskName.CONLL2000: make_conll2000,
}


def make_task(name: str, options: TaskOptions, *, form: TaskForm | None = None) -> Task:
    """The task that has this built-in name, or the one that a form describes."""
    return _MAKERS[TaskName(name)](options) if form is None else load_work(form.kind).make_task(name, form, options)
