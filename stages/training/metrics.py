"""A run's numbers: for the tracker, and as a JSON line an entry, which a resumed run continues."""

import json
from collections.abc import Mapping
from typing import Any

from upath import UPath

from cluster.storage import parse_json, write_text
from stages.context import Tracker


class MetricsLog:
    """Rows of metrics in `path`, kept whole in memory and written whole: any storage can do that.

    Args:
      path: The file; rows that it has are kept.
      tracker: Whom to tell too; None, on all processes but the first, writes nothing either.
      until_step: Rows of later steps are dropped: they belong to work that was lost and is done again.
    """

    def __init__(self, path: UPath, *, tracker: Tracker | None, until_step: int) -> None:
        self._path, self._tracker = path, tracker
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
            rows = [parse_json(line, f"{path}:{number}") for number, line in lines if line]
            self._rows = [row for row in rows if row["step"] <= until_step]

    def record(self, metrics: Mapping[str, float], *, step: int, split: str) -> None:
        """Adds a row of metrics of `train`, `heldout` or `dev`."""
        self._rows.append({"step": step, "split": split, **metrics})
        if self._tracker is not None:
            prefix = "" if split == "train" else f"{split}/"
            self._tracker.metrics({prefix + name: value for name, value in metrics.items()}, step=step)

    def progress(self, step: int, num_steps: int, *, rate: str) -> None:
        """Shows how far the run is, with the loss and the named `throughput/` metric of its last row, if it has one."""
        if self._tracker is not None:
            row = self.last("train")
            shown = {"loss": row["loss/total"], rate: row[f"throughput/{rate}"]} if row is not None else {}
            self._tracker.progress(step, num_steps, unit="steps", **shown)

    def phase(self, text: str) -> None:
        """Names what the run does while it makes no steps."""
        if self._tracker is not None:
            self._tracker.phase(text)

    def last(self, split: str) -> dict[str, Any] | None:
        """The newest row of a split."""
        return next((row for row in reversed(self._rows) if row.get("split") == split), None)

    def flush(self) -> None:
        """Writes all rows."""
        if self._tracker is not None:
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
