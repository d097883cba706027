"""What a stage is given to run: where its output goes, what it reads, whom it tells."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from upath import UPath

from cluster.config import ClusterConfig


class Group(StrEnum):
    """Stages of one kind: they share a folder of the output and a run in MLflow."""

    EXAMPLES = "examples"
    FINETUNE = "finetune"
    PROBE = "probe"


class Tracker:
    """Records a stage's run. Calls return at once; none of them may stop the work they describe. This one is for
    running a stage on its own: it records nothing.

    Attributes:
      outcome: What `conclude` was told last.
    """

    outcome: str = ""

    def params(self, params: Mapping[str, object]) -> None:
        """Records what the stage found out about its own run (counts, sizes, identities)."""

    def metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Records numbers, grouped by slash (`loss/generator`)."""

    def curve(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Records points of curves that several stages of a group draw together."""

    def overview(self, metrics: Mapping[str, float], params: Mapping[str, object], *, text: str) -> None:
        """Records what the whole run came to, in the run of the pipeline; `text` describes it, in Markdown."""

    def artifact(self, path: str | os.PathLike[str] | UPath, *, folder: str = "", has_examples: bool = False) -> None:
        """Keeps a copy of a local or remote file, or of a folder with all it holds, under `folder`.

        Args:
          has_examples: Whether it holds texts of the data, which users may keep out of the record.
        """

    def dataset(self, *, name: str, source: str, context: str) -> None:
        """Names an input: `source` is its path or URL, `context` one of training, validation, testing."""

    def model(self, path: str | os.PathLike[str] | UPath, *, name: str) -> None:
        """Logs an exported Hugging Face folder as a model that `mlflow.pyfunc.load_model` loads."""

    def progress(self, done: int, total: int, *, unit: str, **fields: float) -> None:
        """Shows how far the stage is. `fields` are shown beside it (`loss`, `tokens_per_second`)."""

    def phase(self, text: str) -> None:
        """Names what the stage does now, where that takes seconds and cannot be counted; `progress` ends it."""

    def conclude(self, text: str) -> None:
        """Says in a few words what came out, for the line of the finished stage. For the stage's own process."""
        self.outcome = text


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """Where and how a stage runs. Nothing here may change its result: that is the config's part.

    Attributes:
      output: The stage's own folder. It exists; it may hold what an interrupted run left.
      inputs: Output folders of the stages that this one needs, by stage name.
      groups: The group of each input that has one.
      cluster: What the stage may use.
      tracker: Whom to tell.
    """

    output: UPath
    inputs: Mapping[str, UPath] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracker: Tracker = field(default_factory=Tracker)

    def of_group(self, group: Group) -> dict[str, UPath]:
        """Output folders of the inputs of a group, by stage name."""
        return {name: self.inputs[name] for name, its_group in self.groups.items() if its_group == group}

    def expand(self, location: str) -> str:
        """Replaces a leading `{stage}` by that stage's output folder: `{sample}/tasks/CoLA`."""
        for name, folder in self.inputs.items():
            location = location.replace("{" + name + "}", str(folder))
        return location
