"""Published results of the released ELECTRA models, to compare ours with; from released_scores.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

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


_TABLE = yaml.safe_load(Path(__file__).with_name("released_scores.yaml").read_text())

CHECKPOINTS: tuple[str, ...] = tuple(_TABLE["checkpoints"])

PUBLISHED: Mapping[str, Published] = {
    task: Published(
        metrics=tuple(row["metrics"]),
        label=row["label"],
        split=row["split"],
        scores={name: score for name, score in zip(CHECKPOINTS, row["scores"], strict=True) if score is not None},
    )
    for task, row in _TABLE["tasks"].items()
}
