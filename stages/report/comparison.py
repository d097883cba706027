"""Compares several outputs: which differences are larger than those between seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from upath import UPath

from cluster.storage import read_json
from stages.context import Group
from stages.finetune.config import Init
from stages.report.collect import collect
from stages.report.statistics import Statistics, Summary, TaskSummary, summarize_results


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two sets of runs differ in one metric.

    Attributes:
      means: Mean of the second minus mean of the first.
      spread: Root of the mean of both variances over seeds; None where either has a single seed.
    """

    means: float
    spread: float | None

    @property
    def verdict(self) -> str:
        if self.spread is None:
            return "one seed: significance unknown"
        return "larger than the seeds' spread" if abs(self.means) > self.spread else "within the seeds' spread"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One task, from pretrained or from random weights, in all outputs.

    Attributes:
      statistics: Statistics of the primary metric in each output; None where it has no such run.
      differences: From the first output to each of the others; None where either has no run.
    """

    task: str
    init: Init
    metric: str
    statistics: tuple[Statistics | None, ...]
    differences: tuple[Difference | None, ...]


def read_summary(output: UPath) -> Summary:
    """Statistics of the finished fine-tuning runs of an output. Of several configurations of a run the newest counts.

    Raises:
      FileNotFoundError: There are none.
    """
    pattern = f"{Group.FINETUNE}/*/*/*/manifest.json"
    manifests = [(read_json(path), path.parent) for path in sorted(output.glob(pattern))]
    if not manifests:
        raise FileNotFoundError(f"{output} has no finished fine-tuning run ({pattern})")
    manifests.sort(key=lambda found: str(found[0]["finished"]))  # the newest of each stage comes last
    runs = {str(manifest["identity"]["stage"]): folder for manifest, folder in manifests}
    return summarize_results(collect(runs, groups=dict.fromkeys(runs, Group.FINETUNE)))


def compare(summaries: Sequence[Summary]) -> list[Row]:
    """One row per task and initial weights that any output has.

    Raises:
      ValueError: A task has different primary metrics in different outputs.
    """
    tasks = [{task.task: task for task in summary.tasks} for summary in summaries]
    rows = []
    for name in sorted({name for by_name in tasks for name in by_name}):
        found = [by_name.get(name) for by_name in tasks]
        metrics = sorted({task.primary for task in found if task is not None})
        if len(metrics) > 1:
            raise ValueError(f"{name} is scored by {' and '.join(metrics)} in different outputs: not comparable")
        for init in Init:
            statistics = tuple(task.of(init) if task is not None else None for task in found)
            if any(statistics):
                differences = tuple(difference(statistics[0], other) for other in statistics[1:])
                row = Row(task=name, init=init, metric=metrics[0], statistics=statistics, differences=differences)
                rows.append(row)
    return rows


def difference(first: Statistics | None, second: Statistics | None) -> Difference | None:
    """None where either is missing."""
    if first is None or second is None:
        return None
    spread = None
    if first.deviation is not None and second.deviation is not None:
        spread = math.sqrt((first.deviation**2 + second.deviation**2) / 2)
    return Difference(means=second.mean - first.mean, spread=spread)


def published(summaries: Sequence[Summary]) -> Mapping[str, TaskSummary]:
    """Tasks by name whose scores are comparable with published ones in all outputs that have them."""
    tasks = [task for summary in summaries for task in summary.tasks]
    unfit = {task.task for task in tasks if task.incomparable}
    return {task.task: task for task in tasks if task.published is not None and task.task not in unfit}


def as_json(outputs: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One object per row, for programs."""
    return [
        {
            "task": row.task,
            "init": str(row.init),
            "metric": row.metric,
            "outputs": [
                {"output": output} | (statistics.as_json() if statistics else {})
                for output, statistics in zip(outputs, row.statistics, strict=True)
            ],
            "differences": [asdict(found) | {"verdict": found.verdict} if found else None for found in row.differences],
        }
        for row in rows
    ]
