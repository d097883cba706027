"""Which runs predict GLUE's test sets."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """Which runs predict.

    Attributes:
      seed: The seed of every task; None takes each task's best on dev, and says so in submission.json.
      diagnostics: The file of AX; None looks for diagnostic.tsv in MNLI's folder, then in `diagnostic` beside it.
      partial: Tasks may be missing and test sets cut; the archive is then for looking at only.
    """

    seed: int | None = None
    diagnostics: str | None = None
    partial: bool = False
