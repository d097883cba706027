"""How stages end in a run."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from upath import UPath

from pipeline.manifest import LOG
from pipeline.plan import PlannedStage
from stages.context import Group

_NETWORKS = ("discriminator", "generator")


class State(StrEnum):
    """The state of a stage in this run."""

    DONE = "done"
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    BLOCKED = "blocked"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """How a stage ended, or where it is.

    Attributes:
      seconds: How long it took, in this run or, where it was done before, in that one.
      outcome: What came out, in a few words.
    """

    name: str
    state: State
    folder: UPath
    seconds: float = 0.0
    error: str | None = None
    blocked_by: str | None = None
    warnings: tuple[str, ...] = ()
    outcome: str = ""

    @property
    def log(self) -> UPath:
        """The stage's log file."""
        return self.folder / LOG


def folders_to_use(plan: Sequence[PlannedStage], *, finished: Collection[str]) -> dict[str, UPath]:
    """What a person takes from a run, by its name in `latest/`: both networks, the report, each task's models.

    Args:
      plan: All stages.
      finished: Names of those that are done.
    """
    found: dict[str, UPath] = {}
    for planned in plan:
        if planned.name not in finished:
            continue
        if planned.name == "export":
            networks = {name: planned.folder / name for name in _NETWORKS}
            found |= {name: folder for name, folder in networks.items() if folder.exists()}
        elif planned.name == "report":
            found["report"] = planned.folder
        elif planned.stage.group is Group.FINETUNE:
            found[planned.name] = planned.folder / "model"
    return found
