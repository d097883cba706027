"""How a user describes a task of their own: light, so that a config can be checked at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from stages.tasks.kinds import KINDS, TaskKind

# The keys that some kinds have and others have not, in the words of a message.
_KEYS = {
    "texts": "texts (the columns of the texts)",
    "label": "label (a column)",
    "labels": "labels (the classes as the files write them)",
    "range": "range (the smallest and the largest label)",
    "class_weights": "class_weights",
    "columns": "columns (the names of all columns of a file that does not begin with them)",
}


class ClassWeights(StrEnum):
    """Rules by which classes count in the loss."""

    BALANCED = "balanced"


@dataclass(frozen=True, kw_only=True)
class TaskForm:
    """A task that has no built-in name. `None` and () stand for what was not said.

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
        spec = KINDS[self.kind]
        given = {name for name in _KEYS if getattr(self, name) not in (None, ())}
        for name in _KEYS:
            if name in given - spec.keys:
                owners = [kind for kind, other in KINDS.items() if name in other.keys]
                raise ValueError(f"{name} belongs to {', '.join(owners)}, not to {self.kind}")
        if not any(given.issuperset(needed) for needed in spec.needs):
            needs = ", or ".join(" and ".join(_KEYS[name] for name in needed) for needed in spec.needs)
            raise ValueError(f"{self.kind} needs {needs}")
        if len(self.texts) > spec.max_texts:
            raise ValueError(f"texts are {', '.join(self.texts)}, must be at most {spec.max_texts} for {self.kind}")
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels are {', '.join(self.labels)}, must be two different classes or more")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range is {list(self.range)}, must be a smaller and a larger number")
        if self.metric is not None and self.metric not in self.metrics:
            raise ValueError(f"metric is {self.metric}, must be one of {', '.join(self.metrics)}")
        if isinstance(self.class_weights, Mapping):
            for name, weight in self.class_weights.items():
                if name not in self.labels:
                    raise ValueError(f"class_weights.{name}: must be one of the labels {', '.join(self.labels)}")
                if weight <= 0:
                    raise ValueError(f"class_weights.{name} is {weight}, must be above 0")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores that such a task has."""
        spec = KINDS[self.kind]
        return (*spec.metrics, *(spec.binary_metrics if len(self.labels) == 2 else ()))

    @property
    def primary(self) -> str:
        return self.metric or self.metrics[0]
