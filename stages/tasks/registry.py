"""Tasks by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from stages.tasks.base import Task, TaskOptions
from stages.tasks.config import TaskName
from stages.tasks.glue import make_cola, make_mrpc
from stages.tasks.question_answering import make_squad_v1
from stages.tasks.tagging import make_conll2000

_MAKERS: Mapping[TaskName, Callable[[TaskOptions], Task]] = MappingProxyType(
    {
        TaskName.COLA: make_cola,
        TaskName.MRPC: make_mrpc,
        TaskName.SQUAD_V1: make_squad_v1,
        TaskName.CONLL2000: make_conll2000,
    }
)


def make_task(name: TaskName, options: TaskOptions) -> Task:
    """The task of that name."""
    return _MAKERS[name](options)
