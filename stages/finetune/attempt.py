"""One try at a fine-tuning: what it came to so far, as a checkpoint keeps it."""

from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from stages.tasks.base import Evaluation
from stages.training.checkpoint import Kept
from stages.training.loop import Window
from stages.training.state import Params


class Best(NamedTuple):
    """The evaluation whose weights and scores are the run's.

    Attributes:
      step: Steps before it.
      score: The task's primary one.
      params: On the host.
      evaluation: All that was found; None where a checkpoint brought the rest, and the weights must be scored again.
    """

    step: int
    score: float
    params: Params
    evaluation: Evaluation | None


@dataclass(kw_only=True)
class Attempt:
    """One try, with draws of its own.

    Attributes:
      number: How many were before it.
      lost: Why each of those was given up.
      seconds: What the run took in processes that were interrupted.
      windows: Of its steps so far.
      best: Its best evaluation so far, or its last where a run has no patience.
      num_waits: Evaluations since then.
    """

    number: int = 0
    lost: tuple[str, ...] = ()
    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    best: Best | None = None
    num_waits: int = 0

    @classmethod
    def from_kept(cls, kept: Kept) -> Self:
        """Goes on with what a checkpoint kept."""
        facts = dict(kept.facts)
        windows, best = [Window.from_json(window) for window in facts.pop("windows")], facts.pop("best")
        if best is not None:
            assert kept.best is not None
            best = Best(best["step"], best["score"], kept.best, None)
        return cls(**facts | {"lost": tuple(facts["lost"]), "windows": windows, "best": best})

    def kept(self, *, seconds: float) -> Kept:
        """What a checkpoint is to keep; `seconds` is the run's time until now."""
        best = self.best and {"step": self.best.step, "score": self.best.score}
        windows = [window.to_json() for window in self.windows]
        facts = vars(self) | {"lost": list(self.lost), "seconds": seconds, "windows": windows, "best": best}
        return Kept(facts, self.best and self.best.params)

    def seed(self, seed: int) -> int:
        """The seed of its draws, where the run's is `seed`."""
        return int(np.random.SeedSequence([seed, self.number]).generate_state(1)[0]) if self.number else seed
