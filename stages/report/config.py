"""What the report looks like."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report looks like.

    Attributes:
      title: Heading of the page.
      smoothing: Width of the average behind a smoothed line (one standard deviation of its weights), as a share
        of the curve; 0 draws the raw line only.
      examples: Whether the report and MLflow show texts of the corpus and of the tasks. Set to false where these
        must not leave their machines; the output folder keeps them all the same.
    """

    title: str = "ELECTRA: results of a run"
    smoothing: float = 0.015
    examples: bool = True

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise ValueError("title is empty; give the report a heading")
        if not 0.0 <= self.smoothing <= 0.5:
            raise ValueError(f"smoothing is {self.smoothing}, must be between 0 and 0.5")
