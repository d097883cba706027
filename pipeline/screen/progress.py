"""How far a running stage is."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The newest progress of a running stage. Times are this machine's `time.time()`.

    Attributes:
      began: When the stage's process began.
      resumed_at: The count with which it began in this run.
      first_done, first_time: The count from which its pace is reckoned, and its time: after what came before the work.
      fields: Numbers to show beside it (`loss`, `tokens_per_second`).
      phase: What it does now, where that is not counted; "" while `done` advances.
    """

    began: float
    done: int = 0
    total: int = 0
    unit: str = ""
    resumed_at: int = 0
    first_done: int = 0
    first_time: float = 0.0
    updated: float = 0.0
    fields: Mapping[str, float] = field(default_factory=dict)
    phase: str = ""

    @property
    def elapsed_seconds(self) -> float:
        """Since the stage's process began."""
        return time.time() - self.began

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this run so far, or None where nothing is known."""
        advanced = self.done - self.first_done
        if advanced <= 0 or self.total <= self.done:
            return None
        pace = (self.updated - self.first_time) / advanced
        return max(0.0, pace * (self.total - self.done) - (time.time() - self.updated))
