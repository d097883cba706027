"""How stages come out of a run."""

from dataclasses import dataclass
from enum import StrEnum

from upath import UPath

from pipeline.manifest import LOG


class State(StrEnum):
    """Where a stage is in this run."""

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
    """How a stage came out of a run."""

    name: str
    state: State
    folder: UPath
    seconds: float = 0.0
    error: str | None = None
    blocked_by: str | None = None

    @property
    def log(self) -> UPath:
        """The file to read."""
        return self.folder / LOG
