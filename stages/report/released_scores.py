"""Published results of the released ELECTRA models, to compare ours with.

Source: the table "Expected Results" of github.com/google-research/electra. Development sets, except chunking:
test set. Each is the median over many fine-tuning runs of one checkpoint. `Small` is the released model
(trained on the corpus of Base, 4M steps), `Small-OWT` was trained on OpenWebText for 1M steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CHECKPOINTS = ("Small-OWT", "Small", "Base", "Large")

STATEMENT = (
    "Published by google-research/electra: development sets (chunking: test set), median over many "
    "fine-tuning runs of one released checkpoint. Small was trained for 4M steps on the corpus of Base, "
    "Small-OWT for 1M steps on OpenWebText."
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published scores of one task, in percent.

    Attributes:
      metrics: Names under which our result may hold the same metric, best first.
      label: Its name for readers.
      split: Data that it was measured on.
      scores: By checkpoint; one that was not published is absent.
    """

    metrics: tuple[str, ...]
    label: str
    split: str
    scores: Mapping[str, float]


def _published(metric: str | tuple[str, ...], label: str, *scores: float | None, split: str = "dev") -> Published:
    metrics = (metric,) if isinstance(metric, str) else metric
    by_checkpoint = {name: score for name, score in zip(CHECKPOINTS, scores, strict=True) if score is not None}
    return Published(metrics=metrics, label=label, split=split, scores=by_checkpoint)


PUBLISHED: Mapping[str, Published] = {
    "cola": _published("matthews", "Matthews", 56.8, 57.0, 67.7, 69.1),
    "sst2": _published("accuracy", "accuracy", 88.3, 91.2, 95.1, 96.9),
    "mrpc": _published("accuracy", "accuracy", 87.4, 88.0, 89.5, 90.8),
    "stsb": _published("spearman", "Spearman", 86.8, 87.5, 91.2, 92.6),
    "qqp": _published("accuracy", "accuracy", 88.3, 89.0, 91.5, 92.4),
    "mnli": _published(("matched/accuracy", "accuracy"), "accuracy", 78.9, 81.3, 88.8, 90.9),
    "qnli": _published("accuracy", "accuracy", 87.9, 88.4, 93.2, 95.0),
    "rte": _published("accuracy", "accuracy", 68.5, 66.7, 82.7, 88.0),
    "squad_v1": _published("exact_match", "exact match", None, 75.8, 86.8, 89.7),
    "squad_v2": _published("exact_match", "exact match", None, 70.1, 80.5, 88.1),
    "conll2000": _published("f1", "F1", None, 96.5, 97.1, 97.2, split="test"),
}
