"""Official scores, in per cent. All take gold first, as scikit-learn does."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import scipy  # loads `scipy.stats` at its first use

Chunk = tuple[str, int, int]  # type, first word, last word
Counts = tuple[int, int, int]  # correct, predicted, gold


def accuracy(gold: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray) -> float:
    """Share of equal labels."""
    return _of_sklearn("accuracy_score", gold, predicted)


def matthews(gold: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray) -> float:
    """Matthews' correlation; 0 where gold or prediction has one class only."""
    if len(set(np.asarray(gold).tolist())) < 2 or len(set(np.asarray(predicted).tolist())) < 2:
        return 0.0
    return _of_sklearn("matthews_corrcoef", gold, predicted)


def binary_f1(gold: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray) -> float:
    """F1 of class 1; 0 where it is neither present nor predicted."""
    return _of_sklearn("f1_score", gold, predicted, pos_label=1, average="binary", zero_division=0)


def macro_f1(gold: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray) -> float:
    """Mean F1 of the classes (of those in gold or prediction), or of the columns of indicators [N, C]."""
    return _of_sklearn("f1_score", gold, predicted, average="macro", zero_division=0)


def micro_f1(gold: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of all indicators [N, C] together."""
    return _of_sklearn("f1_score", gold, predicted, average="micro", zero_division=0)


def pearson(gold: Sequence[float] | np.ndarray, predicted: Sequence[float] | np.ndarray) -> float:
    """Pearson's correlation; 0 where either side is constant."""
    return _correlation(scipy.stats.pearsonr, gold, predicted)


def spearman(gold: Sequence[float] | np.ndarray, predicted: Sequence[float] | np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either side is constant."""
    return _correlation(scipy.stats.spearmanr, gold, predicted)


def _of_sklearn(name: str, gold, predicted, **options) -> float:
    from sklearn import metrics  # takes seconds, which a process that scores nothing is spared

    return 100.0 * float(getattr(metrics, name)(gold, predicted, **options))


def _correlation(function, gold, predicted) -> float:
    gold, predicted = np.asarray(gold, float), np.asarray(predicted, float)
    if len(gold) < 2 or np.ptp(gold) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return 100.0 * float(function(gold, predicted)[0])


# Entities, by the rule of conlleval.pl (Tjong Kim Sang and Buchholz 2000).


def chunks(tags: Sequence[str]) -> list[Chunk]:
    """The chunks of one sentence's tags, ill-formed ones read as conlleval reads them.

    A chunk begins at B- or S-, and at an I- or E- that follows O, a finished chunk, or another type. It ends
    after E- or S-, and before anything that begins one or is O.
    """
    found: list[Chunk] = []
    start, kind, previous = 0, "", "O"
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, type_ = tag.partition("-")
        inside = previous != "O"
        ends = inside and (previous in "ES" or prefix in "OBS" or type_ != kind)
        begins = prefix != "O" and (ends or not inside)
        if ends:
            found.append((kind, start, index - 1))
        if begins:
            start = index
        kind, previous = type_, prefix
    return found


def tag_words(found: Iterable[Chunk], *, num_words: int, bioes: bool = False) -> list[str]:
    """Tags of a sentence with these chunks: B- and I-, or with the last word E- and a chunk of one word S-."""
    tags = ["O"] * num_words
    for kind, first, last in found:
        tags[first : last + 1] = [f"I-{kind}"] * (last + 1 - first)
        if bioes:
            tags[last] = f"E-{kind}"
        tags[first] = f"{'S' if bioes and first == last else 'B'}-{kind}"
    return tags


def chunk_scores(gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 over all chunks of all sentences; a chunk counts if span and type agree."""
    counts = chunk_counts(gold, predicted).values()
    return _precision_recall_f1(*map(sum, zip(*counts, strict=True)))


def chunk_scores_by_type(
    gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]
) -> dict[str, dict[str, float]]:
    """The same for each type of chunk, with `support`, its number in gold."""
    return {
        type_: _precision_recall_f1(*counts) | {"support": counts[2]}
        for type_, counts in sorted(chunk_counts(gold, predicted).items())
    }


def chunk_counts(gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> dict[str, Counts]:
    """Correct, predicted and gold chunks of each type."""
    correct, num_predicted, num_gold = (Counter[str]() for _ in range(3))
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise ValueError(f"sentence {number} has {len(gold_tags)} tags, predicted {len(predicted_tags)}")
        gold_chunks, predicted_chunks = set(chunks(gold_tags)), set(chunks(predicted_tags))
        num_gold.update(type_ for type_, _, _ in gold_chunks)
        num_predicted.update(type_ for type_, _, _ in predicted_chunks)
        correct.update(type_ for type_, _, _ in gold_chunks & predicted_chunks)
    return {
        type_: (correct[type_], num_predicted[type_], num_gold[type_])
        for type_ in num_gold.keys() | num_predicted.keys()
    }


def _precision_recall_f1(correct: int = 0, predicted: int = 0, gold: int = 0) -> dict[str, float]:
    return {
        "precision": 100.0 * correct / predicted if predicted else 0.0,
        "recall": 100.0 * correct / gold if gold else 0.0,
        "f1": 200.0 * correct / (predicted + gold) if correct else 0.0,
    }


# Answers, by the rules of the SQuAD 1.1 evaluation (Rajpurkar et al. 2016).

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, words separated by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_exact(gold: Sequence[str], predicted: str) -> float:
    """1 if the prediction equals one of the gold answers after normalisation."""
    normalized = normalize_answer(predicted)
    return float(any(normalize_answer(answer) == normalized for answer in gold))


def answer_f1(gold: Sequence[str], predicted: str) -> float:
    """The best F1, over the gold answers, of the prediction's bag of words (0 where nothing is shared)."""
    words = normalize_answer(predicted).split()
    return max((_bag_f1(normalize_answer(answer).split(), words) for answer in gold), default=0.0)


def _bag_f1(gold: list[str], predicted: list[str]) -> float:
    shared = (Counter(gold) & Counter(predicted)).total()
    return 2.0 * shared / (len(gold) + len(predicted)) if shared else 0.0


def answer_scores(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """Exact match and F1, averaged over questions."""
    pairs = list(zip(gold, predicted, strict=True))
    if not pairs:
        raise ValueError("no questions to score")
    return {
        "exact_match": 100.0 * sum(answer_exact(*pair) for pair in pairs) / len(pairs),
        "f1": 100.0 * sum(answer_f1(*pair) for pair in pairs) / len(pairs),
    }
