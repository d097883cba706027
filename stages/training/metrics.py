"""A run's numbers as a JSON line an entry, which a resumed run continues."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from upath import UPath

from cluster.storage import write_text
from stages.context import Tracker


class MetricsLog:
    """Rows of metrics in `path`, kept whole in memory and written whole: any storage can do that.

    Args:
      path: The file; rows that it has are kept.
      until_step: Rows of later steps are dropped: they belong to work that was lost and is done again.
    """

    def __init__(self, path: UPath, *, until_step: int | None = None) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
            self._rows = [row for row in rows if until_step is None or row["step"] <= until_step]

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row; `step` is required."""
        self._rows.append(row)

    def last(self, split: str) -> dict[str, Any] | None:
        """The newest row of a split (`train`, `heldout`)."""
        return next((row for row in reversed(self._rows) if row.get("split") == split), None)

    def flush(self) -> None:
        """Writes all rows."""
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Where a run's numbers go; on all processes but the first, `log` and `tracker` are None, and they go nowhere."""

    log: MetricsLog | None
    tracker: Tracker | None

    def record(self, metrics: Mapping[str, float], *, step: int, split: str) -> None:
        """Keeps a row of metrics of `train`, `heldout` or `dev`."""
        if self.log is not None:
            self.log.append({"step": step, "split": split} | dict(metrics))
        if self.tracker is not None:
            prefix = "" if split == "train" else f"{split}/"
            self.tracker.metrics({prefix + name: value for name, value in metrics.items()}, step=step)

    def progress(self, metrics: Mapping[str, float], *, step: int, num_steps: int, rate: str) -> None:
        """Shows how far the run is, with its loss and the one of its `throughput/` metrics that is named."""
        if self.tracker is not None:
            shown = {"loss": metrics["loss/total"], rate: metrics[f"throughput/{rate}"]}
            self.tracker.progress(step, num_steps, unit="steps", **shown)

    def flush(self) -> None:
        """Writes the rows."""
        if self.log is not None:
            self.log.flush()
