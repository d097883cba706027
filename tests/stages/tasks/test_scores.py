"""Scores equal independent implementations, on predictions made to trip them."""

import collections
import re
import string
import warnings

import numpy as np
import pytest
import sklearn.metrics
from seqeval.metrics import f1_score, precision_score, recall_score

from stages.tasks import scores


@pytest.mark.parametrize("seed", range(5))
def test_classification_scores_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    gold, predicted = random.integers(0, 2, (2, 97))
    assert scores.accuracy(gold, predicted) == pytest.approx(100 * sklearn.metrics.accuracy_score(gold, predicted))
    assert scores.binary_f1(gold, predicted) == pytest.approx(100 * sklearn.metrics.f1_score(gold, predicted))
    assert scores.matthews(gold, predicted) == pytest.approx(100 * sklearn.metrics.matthews_corrcoef(gold, predicted))


def test_matthews_of_a_known_table() -> None:
    # tp 6, tn 3, fp 1, fn 2: (6*3 - 1*2) / sqrt(7 * 8 * 4 * 5)
    gold = [1] * 8 + [0] * 4
    predicted = [1] * 6 + [0] * 2 + [0] * 3 + [1]
    assert scores.matthews(gold, predicted) == pytest.approx(100 * 16 / np.sqrt(7 * 8 * 4 * 5))


@pytest.mark.parametrize("score", [scores.matthews, scores.binary_f1, scores.accuracy])
@pytest.mark.parametrize(("gold", "predicted"), [((0, 1, 1), (0, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1,), (1,))])
def test_one_class_gives_a_number_without_a_warning(score, gold, predicted) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(score(gold, predicted))


def test_matthews_is_0_where_one_class_is_predicted() -> None:
    assert scores.matthews([0, 1, 1, 0], [1, 1, 1, 1]) == 0.0


def test_correlations_are_0_where_a_side_is_constant() -> None:
    assert scores.pearson([1, 2, 3], [2, 2, 2]) == 0.0
    assert scores.spearman([1, 2, 3], [2, 2, 2]) == 0.0


def test_correlations_of_a_monotone_curve() -> None:
    assert scores.spearman([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(100)
    assert 95 < scores.pearson([1, 2, 3, 4], [1, 4, 9, 16]) < 99


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-NP I-NP O", [("NP", 0, 1)]),
        ("B-NP B-NP", [("NP", 0, 0), ("NP", 1, 1)]),
        ("I-NP I-NP", [("NP", 0, 1)]),  # begins without B
        ("O I-NP O", [("NP", 1, 1)]),
        ("B-NP I-VP I-VP", [("NP", 0, 0), ("VP", 1, 2)]),  # the type changes inside
        ("B-NP I-NP B-VP I-NP", [("NP", 0, 1), ("VP", 2, 2), ("NP", 3, 3)]),
        ("S-NP I-NP", [("NP", 0, 0), ("NP", 1, 1)]),
        ("B-NP E-NP E-NP", [("NP", 0, 1), ("NP", 2, 2)]),
        ("B-NP I-NP E-NP I-NP", [("NP", 0, 2), ("NP", 3, 3)]),
        ("B-A-B I-A-B", [("A-B", 0, 1)]),  # a type with a hyphen
    ],
)
def test_chunks_by_the_rule_of_conlleval(tags: str, expected: list) -> None:
    assert scores.chunks(tags.split()) == expected


@pytest.mark.parametrize("prefixes", ["BIO", "BIOES"])
@pytest.mark.parametrize("seed", range(10))
def test_chunk_scores_are_seqevals_on_random_mostly_ill_formed_tags(prefixes: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    tags = ["O", *(f"{p}-{t}" for p in prefixes if p != "O" for t in ("NP", "VP", "PP"))]
    gold, predicted = (
        [[tags[i] for i in random.integers(0, len(tags), length)] for length in (1, 2, 7, 15, 40)] for _ in range(2)
    )
    predicted[0], predicted[3] = gold[0], gold[3]
    found = scores.chunk_scores(gold, predicted)
    assert found["f1"] == pytest.approx(100 * f1_score(gold, predicted))
    assert found["precision"] == pytest.approx(100 * precision_score(gold, predicted))
    assert found["recall"] == pytest.approx(100 * recall_score(gold, predicted))


def test_chunk_scores_of_hand_counted_sentences() -> None:
    gold = [["B-NP", "I-NP", "O", "B-VP"], ["B-NP", "O"]]
    predicted = [["B-NP", "I-NP", "B-NP", "B-VP"], ["O", "O"]]
    # 3 gold, 3 predicted, 2 right
    assert scores.chunk_scores(gold, predicted) == pytest.approx(
        {"precision": 200 / 3, "recall": 200 / 3, "f1": 200 / 3}
    )
    by_type = scores.chunk_scores_by_type(gold, predicted)
    assert by_type["NP"] == {"precision": 50.0, "recall": 50.0, "f1": 50.0, "support": 2}
    assert by_type["VP"]["f1"] == 100.0


def test_a_chunk_does_not_cross_sentences() -> None:
    gold, predicted = [["B-NP"], ["I-NP"]], [["B-NP"], ["B-NP"]]
    assert scores.chunk_scores(gold, predicted)["f1"] == 100.0


def test_no_chunks_at_all_score_0() -> None:
    assert scores.chunk_scores([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_sentences_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="sentence 1 has 2 tags, predicted 1"):
        scores.chunk_scores([["O"], ["O", "O"]], [["O"], ["O"]])


# The published rules of SQuAD's evaluation, written down again word for word and step by step.


def _reference_normalize(text: str) -> str:
    text = text.lower()
    text = "".join(character for character in text if character not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def _reference_f1(prediction: str, truth: str) -> float:
    prediction_words, truth_words = _reference_normalize(prediction).split(), _reference_normalize(truth).split()
    common = collections.Counter(prediction_words) & collections.Counter(truth_words)
    num_same = sum(common.values())
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(prediction_words), num_same / len(truth_words)
    return 2 * precision * recall / (precision + recall)


ANSWERS = [
    "the cat",
    "cat",
    "The  CAT!",
    "a the an",
    "",
    "?!",
    "the the cat cat",
    "cat the cat dog",
    "theatre",
    "a-b c",
    "ab c",
    "Beyoncé’s song",
    "beyoncé s song",
    "naïve",
    "nai\u0308ve",
    "10,000 km²",
    "10000 km²",
    "the\u00a0cat",
    "东京 tower",
    "$5",
    "U.S.A",
    "an apple",
    "An. apple",
]


@pytest.mark.parametrize("predicted", ANSWERS)
def test_answer_scores_follow_the_published_rules(predicted: str) -> None:
    for first in ANSWERS:
        for second in ANSWERS:
            exact = max(_reference_normalize(predicted) == _reference_normalize(gold) for gold in (first, second))
            f1 = max(_reference_f1(predicted, gold) for gold in (first, second))
            assert scores.answer_exact((first, second), predicted) == float(exact)
            assert scores.answer_f1((first, second), predicted) == pytest.approx(f1)


def test_answer_scores_by_hand() -> None:
    assert scores.answer_exact(["The cat."], "cat") == 1.0
    assert scores.answer_f1(["the big red cat"], "red cat sat") == pytest.approx(2 / 3)
    assert scores.answer_f1([""], "") == 0.0  # SQuAD 1.1: nothing shared
    assert scores.answer_exact([""], "the") == 1.0
    assert scores.answer_scores([["cat"], ["dog"]], ["the cat", "big dog"]) == pytest.approx(
        {"exact_match": 50.0, "f1": 100 * (1 + 2 / 3) / 2}
    )


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no questions"):
        scores.answer_scores([], [])
