"""From a window's logits to answers: the best spans, and the best different texts of a question.

T tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Window:
    """What the answers of a row need.

    Attributes:
      question: Number of the question.
      first: Position in the row of the window's first context token.
      offsets: Characters of its context tokens [T, 2].
      owned: Which of them have at least as much context here as in any other window [T].
    """

    question: int
    first: int
    offsets: np.ndarray
    owned: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A possible answer: its characters in the context, and its logits."""

    start: int
    end: int
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


def window_candidates(window: Window, logits_T2: np.ndarray, *, n_best: int, max_answer_length: int) -> list[Candidate]:
    """The best spans of a window: n_best starts x n_best ends, a start only where its window owns it."""
    first, length = window.first, len(window.offsets)
    start_logits, end_logits = logits_T2[first : first + length].T.astype(np.float64)
    starts = _top(np.where(window.owned, start_logits, -np.inf), n_best)
    starts = starts[window.owned[starts]]
    ends = _top(end_logits, n_best)
    spans = ends[None, :] - starts[:, None]
    rows, columns = np.nonzero((spans >= 0) & (spans < max_answer_length))
    totals = start_logits[starts[rows]] + end_logits[ends[columns]]
    order = np.argsort(-totals, kind="stable")[:n_best]
    return [
        Candidate(
            start=int(window.offsets[starts[rows[index]], 0]),
            end=int(window.offsets[ends[columns[index]], 1]),
            start_logit=float(start_logits[starts[rows[index]]]),
            end_logit=float(end_logits[ends[columns[index]]]),
        )
        for index in order
    ]


def _top(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the largest values, largest first, the earlier of equal ones first."""
    if len(values) > count:
        smallest = np.partition(values, len(values) - count)[len(values) - count]
        places = np.nonzero(values >= smallest)[0]
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:count]


def rank(candidates: Sequence[Candidate], context: str, *, n_best: int) -> list[Mapping[str, str | float]]:
    """The best different answers of a question over all its windows, with probabilities among them."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        best.setdefault(context[candidate.start : candidate.end].strip(), candidate)
        if len(best) == n_best:
            break
    if not best:  # an empty context
        return [{"text": "", "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}]
    totals = np.array([candidate.score for candidate in best.values()])
    weights = np.exp(totals - totals.max())
    return [
        {
            "text": text,
            "probability": float(weight),
            "start_logit": candidate.start_logit,
            "end_logit": candidate.end_logit,
        }
        for (text, candidate), weight in zip(best.items(), weights / weights.sum(), strict=True)
    ]
