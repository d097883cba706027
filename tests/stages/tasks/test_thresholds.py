"""Scores with unanswerable questions equal the published rules, written down again step by step."""

import collections
import re
import string

import numpy as np
import pytest

from stages.tasks.thresholds import make_thresholds

TEXTS = ["the cat", "cat", "a", "", "?!", "The  CAT!", "naïve", "10,000 km²", "dog cat", "an apple", "apple"]


def _normalize(text: str) -> str:
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _f1(gold: str, predicted: str) -> float:
    gold_words, predicted_words = _normalize(gold).split(), _normalize(predicted).split()
    if not gold_words or not predicted_words:
        return float(gold_words == predicted_words)
    same = sum((collections.Counter(gold_words) & collections.Counter(predicted_words)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted_words), same / len(gold_words)
    return 2 * precision * recall / (precision + recall)


class Reference:
    """The rules as SQuAD 2.0 publishes them: dictionaries by question id, one question after the other."""

    def __init__(self, gold: list[list[str]], predicted: list[str], odds: list[float]) -> None:
        self.predicted = dict(enumerate(predicted))
        self.odds = dict(enumerate(odds))
        self.has_answer = {number: bool(answers) for number, answers in enumerate(gold)}
        self.raw: dict[str, dict[int, float]] = {"exact_match": {}, "f1": {}}
        for number, answers in enumerate(gold):
            kept = [answer for answer in answers if _normalize(answer)] or [""]
            text = predicted[number]
            self.raw["exact_match"][number] = float(max(_normalize(answer) == _normalize(text) for answer in kept))
            self.raw["f1"][number] = max(_f1(answer, text) for answer in kept)

    def scores(self, threshold: float) -> dict[str, float]:
        found = {}
        for metric, raw in self.raw.items():
            applied = {
                number: float(not self.has_answer[number]) if self.odds[number] > threshold else raw[number]
                for number in raw
            }
            for part, wanted in (("", (True, False)), ("has_answer/", (True,)), ("no_answer/", (False,))):
                chosen = [value for number, value in applied.items() if self.has_answer[number] in wanted]
                if chosen:
                    found[part + metric] = 100.0 * sum(chosen) / len(chosen)
        return found

    def best(self, metric: str) -> tuple[float, float]:
        current = float(sum(1 for has_answer in self.has_answer.values() if not has_answer))
        best, threshold = current, 0.0
        for number in sorted(self.odds, key=lambda number: self.odds[number]):
            if self.has_answer[number]:
                current += self.raw[metric][number]
            elif self.predicted[number]:
                current -= 1
            if current > best:
                best, threshold = current, self.odds[number]
        return 100.0 * best / len(self.odds), threshold


def _case(seed: int, kind: str) -> tuple[list[list[str]], list[str], list[float]]:
    random = np.random.default_rng(seed)
    gold = [[TEXTS[index] for index in random.integers(0, len(TEXTS), random.integers(0, 4))] for _ in range(60)]
    predicted = [TEXTS[index] for index in random.integers(0, len(TEXTS), 60)]
    odds = random.normal(size=60).tolist()
    match kind:
        case "ties":
            odds = [float(round(value)) for value in odds]
        case "all equal":
            odds = [1.0] * 60
        case "all answerable":
            gold = [answers or ["cat"] for answers in gold]
        case "none answerable":
            gold = [[] for _ in gold]
        case "all empty":
            predicted = [""] * 60
        case "right":
            gold = [["the cat", "dog"] if answers else [] for answers in gold]
            predicted = ["dog"] * 60
            odds = [-1.0 if answers else 2.0 for answers in gold]
    return gold, predicted, odds


KINDS = ["random", "ties", "all equal", "all answerable", "none answerable", "all empty", "right"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_scores_and_best_thresholds_are_those_of_the_published_rules(seed: int, kind: str) -> None:
    case = _case(seed, kind)
    found, reference = make_thresholds(*case), Reference(*case)
    for threshold in (-2.75, 0.0, 1.0, -1e9, 1e9, *case[2][:5]):
        assert found.scores(threshold) == pytest.approx(reference.scores(threshold))
    for metric in ("exact_match", "f1"):
        assert found.best(metric) == pytest.approx(reference.best(metric))


def test_a_perfect_model_is_perfect_at_its_threshold_only() -> None:
    found = make_thresholds(*_case(0, "right"))
    assert found.scores(0.0)["has_answer/exact_match"] == found.scores(0.0)["no_answer/f1"] == 100.0
    assert found.scores(-2.75)["has_answer/exact_match"] == 0.0
    assert found.scores(5.0)["no_answer/exact_match"] < 100.0
    assert found.best("f1") == (100.0, -1.0)


def test_the_curve_has_the_score_of_every_threshold() -> None:
    case = _case(1, "random")
    found, reference = make_thresholds(*case), Reference(*case)
    curve = found.curve()
    assert [row["threshold"] for row in curve] == sorted(set(case[2]))
    for row in curve:
        assert row["f1"] == pytest.approx(reference.scores(row["threshold"])["f1"])


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no questions"):
        make_thresholds([], [], [])
