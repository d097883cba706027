"""Windows over a context, and from their logits to answers: the best spans, the best different texts of a question.

T tokens, C kinds of logits, S starts that are followed up, E ends of each.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_JOINERS = "\u200c\u200d"  # of the letters beside them, without a width


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


def take_in_marks(text: str, offsets_T2: np.ndarray) -> np.ndarray:
    """The offsets of tokens, each end moved behind the marks that follow it in the text.

    A combining mark belongs to the letter before it (Unicode's UAX 29, with its joiners), and tokenizers drop many:
    without this, an answer that ends in one would lose it.
    """
    if text.isascii():
        return offsets_T2
    is_mark = np.array([*(unicodedata.category(letter)[0] == "M" or letter in _JOINERS for letter in text), False])
    starts_T, ends_T = offsets_T2.T.copy()
    while (grows_T := is_mark[ends_T] & (ends_T > starts_T)).any():
        ends_T += grows_T
    return np.stack([starts_T, ends_T], axis=1)


def leave_out_spaces(text: str, offsets_T2: np.ndarray) -> np.ndarray:
    """The offsets of tokens without the spaces that they begin with.

    To tokenizers of pairs of bytes and Unigram the space before a word belongs to it, but not to an answer.
    """
    is_space = np.array([*(letter.isspace() for letter in text), False])
    starts_T, ends_T = offsets_T2.T.copy()
    while (shrinks_T := is_space[starts_T] & (starts_T < ends_T)).any():
        starts_T += shrinks_T
    return np.stack([starts_T, ends_T], axis=1)


def window_bounds(length: int, *, room: int, stride: int) -> list[tuple[int, int]]:
    """Token spans of the windows over a context: starts `stride` apart, each up to `room` long, none lost."""
    if room < 1:
        raise ValueError(f"max_length leaves {room} tokens for the context beside the question; raise max_length")
    step = min(stride, room)
    bounds = [(0, min(room, length))]
    while bounds[-1][1] < length:
        start = bounds[-1][0] + step
        bounds.append((start, min(start + room, length)))
    return bounds


def owned_tokens(bounds: Sequence[tuple[int, int]], index: int) -> np.ndarray:
    """Tokens of window `index` that no other window gives more context (BERT's max-context rule).

    A token's context is the smaller of its distances to both ends of the window, plus 0.01 of its length; the
    first of equal windows owns the token.
    """
    start, end = bounds[index]
    positions = np.arange(start, end)
    best = _context_width(positions, bounds[index])
    owned = np.ones(len(positions), bool)
    for other, other_bounds in enumerate(bounds):
        if other == index or other_bounds[1] <= start or other_bounds[0] >= end:
            continue
        width = _context_width(positions, other_bounds)
        owned &= (width < best) if other < index else (width <= best)
    return owned


def _context_width(positions: np.ndarray, bounds: tuple[int, int]) -> np.ndarray:
    start, end = bounds
    width = np.minimum(positions - start, end - 1 - positions).astype(float)
    return np.where(width < 0, -1.0, width + 0.01 * (end - start))


def window_candidates(window: Window, logits_TC: np.ndarray, *, n_best: int, max_answer_length: int) -> list[Candidate]:
    """The best spans of a window: n_best starts x n_best ends, a start only where its window owns it.

    Args:
      logits_TC: Of each token of the row as the first of an answer, then as the last; where there are several of the
        latter, each belongs to one start, the likeliest first.
    """
    first, length = window.first, len(window.offsets)
    start_logits, *of_ends = logits_TC[first : first + length].T.astype(np.float64)
    if len(of_ends) == 1:
        starts = _top(np.where(window.owned, start_logits, -np.inf), n_best)
        starts = starts[window.owned[starts]]
        end_logits_ST = np.broadcast_to(of_ends[0], (len(starts), length))
        ends_SE = np.broadcast_to(_top(of_ends[0], n_best), (len(starts), min(n_best, length)))
    else:
        starts = _top(start_logits, len(of_ends))
        is_owned = window.owned[starts]
        starts, end_logits_ST = starts[is_owned], np.array(of_ends)[: len(starts)][is_owned]
        each = [_top(end_logits, n_best) for end_logits in end_logits_ST]
        ends_SE = np.array(each, int).reshape(len(starts), min(n_best, length))
    spans = ends_SE - starts[:, None]
    rows, columns = np.nonzero((spans >= 0) & (spans < max_answer_length))
    ends = ends_SE[rows, columns]
    totals = start_logits[starts[rows]] + end_logits_ST[rows, ends]
    order = np.argsort(-totals, kind="stable")[:n_best]
    return [
        Candidate(
            start=int(window.offsets[starts[rows[index]], 0]),
            end=int(window.offsets[ends[index], 1]),
            start_logit=float(start_logits[starts[rows[index]]]),
            end_logit=float(end_logits_ST[rows[index], ends[index]]),
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
