"""The entropy that the best constant guess comes to."""

import math
from collections.abc import Iterable


def entropy(weights: Iterable[float]) -> float:
    """-sum of w log(w / sum of all w): the entropy of shares, of weights the smallest loss of a constant guess."""
    positive = [float(weight) for weight in weights if weight > 0]
    return -sum(weight * math.log(weight / sum(positive)) for weight in positive)
