"""How stages end in a run."""

from dataclasses import dataclass
from enum import StrEnum

from upath import UPath

from pipeline.manifest import LOG


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
    """How a stage ended, or where it is."""

    name: str
    state: State
    folder: UPath
    seconds: float = 0.0
    error: str | None = None
    blocked_by: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def log(self) -> UPath:
        """The stage's log file."""
        return self.folder / LOG
