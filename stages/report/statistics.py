"""Statistics over seeds, by task and initial weights, and what is missing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stages.finetune.config import Init
from stages.report.collect import FineTuning, Gap, Results
from stages.report.released_scores import PUBLISHED, STATEMENT, Published
from stages.run_warning import RunWarning


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """One metric over seeds.

    Attributes:
      seeds: Score by seed, in order of seeds.
      deviation: Sample standard deviation (n - 1); None for a single seed, which has none.
      num_degenerate: How many of the runs learnt nothing.
    """

    seeds: Mapping[int, float]
    median: float
    mean: float
    deviation: float | None
    num_degenerate: int = 0

    @property
    def count(self) -> int:
        return len(self.seeds)

    def as_json(self) -> dict[str, Any]:
        """For scores.json and `pipeline.compare --json`."""
        return {
            "seeds": {str(seed): score for seed, score in self.seeds.items()},
            "median": self.median,
            "mean": self.mean,
            "standard_deviation": self.deviation,
            "degenerate": self.num_degenerate,
        }


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """All of one task's runs.

    Attributes:
      metrics: Statistics of every metric, by initial weights, then by metric.
      generated: Whether the data came from the `sample` stage.
      incomparable: Why the scores must not be compared with published ones; "" where they may.
    """

    task: str
    primary: str
    metrics: Mapping[Init, Mapping[str, Statistics]]
    generated: bool
    incomparable: str
    published: Published | None

    def of(self, init: Init) -> Statistics | None:
        """Statistics of the primary metric; None where no run finished."""
        return self.metrics.get(init, {}).get(self.primary)

    @property
    def pretrained(self) -> Statistics | None:
        return self.of(Init.PRETRAINED)

    @property
    def random(self) -> Statistics | None:
        return self.of(Init.RANDOM)

    @property
    def difference(self) -> float | None:
        """Median from pretrained weights minus median from random weights."""
        if self.pretrained is None or self.random is None:
            return None
        return self.pretrained.median - self.random.median

    @property
    def ours_as_published(self) -> Statistics | None:
        """Our statistics of the metric that has published scores."""
        if self.published is None:
            return None
        ours = self.metrics.get(Init.PRETRAINED, {})
        return next((ours[name] for name in self.published.metrics if name in ours), None)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the report says.

    Attributes:
      warnings: By stage, of those that have any.
    """

    tasks: tuple[TaskSummary, ...]
    warnings: Mapping[str, tuple[RunWarning, ...]]
    gaps: tuple[Gap, ...]

    def metrics(self) -> dict[str, float]:
        """Final numbers by name, for a tracker."""
        numbers: dict[str, float | None] = {}
        for task in self.tasks:
            numbers[f"scores/{task.task}/median"] = task.pretrained.median if task.pretrained else None
            numbers[f"scores/{task.task}/random_median"] = task.random.median if task.random else None
            numbers[f"scores/{task.task}/difference"] = task.difference
        return {name: number for name, number in numbers.items() if number is not None}

    def as_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        return {
            "tasks": {task.task: _task_as_json(task) for task in self.tasks},
            "gaps": [{"what": gap.what, "reason": gap.reason} for gap in self.gaps],
            "warnings": [
                {"stage": stage} | asdict(warning) for stage, found in self.warnings.items() for warning in found
            ],
        }


def compute_statistics(scores: Mapping[int, float], *, num_degenerate: int = 0) -> Statistics:
    """Median, mean and sample standard deviation of scores by seed."""
    values = list(scores.values())
    if not values:
        raise ValueError("statistics need at least one score, found none")
    return Statistics(
        seeds=dict(sorted(scores.items())),
        median=statistics.median(values),
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        num_degenerate=num_degenerate,
    )


def summarize_results(results: Results) -> Summary:
    """Groups the fine-tuning runs by task and says what is missing."""
    names = sorted({run.task for run in results.runs})
    tasks = tuple(_summarize_task([run for run in results.runs if run.task == name]) for name in names)
    warnings = {run.stage: run.warnings for run in results.runs if run.warnings}
    return Summary(tasks=tasks, warnings=warnings, gaps=(*results.gaps, *_unpaired(results)))


def _summarize_task(runs: Sequence[FineTuning]) -> TaskSummary:
    primaries = sorted({run.primary for run in runs})
    if len(primaries) > 1:
        raise ValueError(
            f"runs of task {runs[0].task} have different primary metrics ({', '.join(primaries)}); "
            f"rerun them with one configuration: {', '.join(run.stage for run in runs)}"
        )
    metrics: dict[Init, dict[str, Statistics]] = {}
    for init, name in sorted({(run.init, name) for run in runs for name in run.scores}):
        chosen = [run for run in runs if run.init is init and name in run.scores]
        scores = {run.seed: run.scores[name] for run in chosen}
        by_name = metrics.setdefault(init, {})
        by_name[name] = compute_statistics(scores, num_degenerate=sum(run.is_degenerate for run in chosen))
    return TaskSummary(
        task=runs[0].task,
        primary=primaries[0],
        metrics=metrics,
        generated=any(run.generated for run in runs),
        incomparable=next((run.incomparable for run in runs if run.incomparable), ""),
        published=PUBLISHED.get(runs[0].task),
    )


def _unpaired(results: Results) -> list[Gap]:
    """Tasks that cannot be compared with random weights although others can."""
    if not any(run.init is Init.RANDOM for run in results.runs):
        return []
    known = {(run.task, run.init) for run in results.runs} | {(gap.task, gap.init) for gap in results.gaps}
    return [
        Gap(what=task, reason=f"no run from {init} weights is configured")
        for task in sorted({run.task for run in results.runs})
        for init in Init
        if (task, init) not in known
    ]


def _task_as_json(task: TaskSummary) -> dict[str, Any]:
    published = None
    if task.published is not None and not task.incomparable:
        published = {
            "metric": task.published.label,
            "split": task.published.split,
            "scores": dict(task.published.scores),
            "source": STATEMENT,
        }
    return {
        "primary": task.primary,
        "generated_data": task.generated,
        "incomparable_with_published": task.incomparable or None,
        "difference_of_medians": task.difference,
        "metrics": {
            str(init): {name: value.as_json() for name, value in by_name.items()}
            for init, by_name in task.metrics.items()
        },
        "published": published,
    }
