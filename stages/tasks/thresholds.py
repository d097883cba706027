"""Scores of answers where some questions have none, by the rules of the SQuAD 2.0 evaluation.

N questions.

Reference: Rajpurkar et al., Know What You Don't Know, 2018 (arXiv 1806.03822).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.tasks.scores import answer_exact, answer_f1, normalize_answer

_CURVE_POINTS = 101


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Scores by the threshold on the odds of 'no answer'.

    Attributes:
      exact: Exact match of each question's best answer, before any is left empty, 0 or 1 [N].
      f1: Its F1, from 0 to 1 [N].
      answered: Whether the predicted text is not empty [N].
      has_answer: Whether the question has an answer [N].
      odds: Odds of 'no answer'; above the threshold, none is predicted [N].
    """

    exact: np.ndarray
    f1: np.ndarray
    answered: np.ndarray
    has_answer: np.ndarray
    odds: np.ndarray

    def scores(self, threshold: float) -> dict[str, float]:
        """Exact match and F1 in per cent, of all questions, of those with an answer and of those without."""
        none = self.odds > threshold
        parts = {"": np.ones_like(none), "has_answer/": self.has_answer, "no_answer/": ~self.has_answer}
        return {
            part + name: 100.0 * float(np.where(none, ~self.has_answer, values)[where].mean())
            for name, values in (("exact_match", self.exact), ("f1", self.f1))
            for part, where in parts.items()
            if where.any()
        }

    def best(self, metric: str) -> tuple[float, float]:
        """The highest score of a metric (`exact_match` or `f1`), in per cent, and the lowest threshold that has it.

        As in the official evaluation, questions of equal odds are taken one after the other, so that the score may
        be one that no threshold gives; that of the threshold 0.0 stands for answering nothing.
        """
        order = np.argsort(self.odds, kind="stable")
        values = self.exact if metric == "exact_match" else self.f1
        gain = np.where(self.has_answer, values, -1.0 * self.answered)[order]
        totals = np.cumsum(np.concatenate([[float((~self.has_answer).sum())], gain]))
        place = int(np.argmax(totals))
        threshold = float(self.odds[order[place - 1]]) if place else 0.0
        return 100.0 * float(totals[place]) / len(self.odds), threshold

    def curve(self) -> list[dict[str, float]]:
        """Exact match and F1 at the quantiles of the odds."""
        thresholds = np.unique(np.quantile(self.odds, np.linspace(0, 1, _CURVE_POINTS), method="inverted_cdf"))
        rows = []
        for threshold in thresholds.tolist():
            found = self.scores(threshold)
            rows.append({"threshold": threshold, "exact_match": found["exact_match"], "f1": found["f1"]})
        return rows

    def as_json(self, *, threshold: float) -> Mapping[str, Any]:
        """The threshold in use, the best ones, and the curve."""
        return {
            "threshold": threshold,
            "best_thresholds": {name: self.best(name)[1] for name in ("exact_match", "f1")},
            "threshold_curve": self.curve(),
        }


def make_thresholds(gold: Sequence[Sequence[str]], predicted: Sequence[str], odds: Sequence[float]) -> Thresholds:
    """Compares predicted texts with gold, which is empty for a question without answer.

    A gold answer that normalises to nothing does not count. With an empty side, F1 is 1 if both are, else 0.
    """
    if not predicted:
        raise ValueError("no questions to score")
    exact, f1 = [], []
    for answers, text in zip(gold, predicted, strict=True):
        kept = [answer for answer in answers if normalize_answer(answer)] or [""]
        exact.append(answer_exact(kept, text))
        f1.append(answer_f1(kept, text) if normalize_answer(text) and kept != [""] else exact[-1])
    return Thresholds(
        exact=np.array(exact),
        f1=np.array(f1),
        answered=np.array([bool(text) for text in predicted]),
        has_answer=np.array([bool(answers) for answers in gold]),
        odds=np.array(odds, float),
    )
