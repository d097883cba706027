"""Tables of the tasks' results: GLUE at a glance, confusion matrices, scores by type and by label."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.finetune.config import Init
from stages.report.collect import FineTuning, Results
from stages.report.data_tables import MISSING, Table, format_number, format_value
from stages.report.released_scores import CHECKPOINTS
from stages.report.statistics import Summary, TaskSummary

# In the order of GLUE's own table. WNLI and AX are left out of averages, as in the published ones.
_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")


def outcome_tables(results: Results, summary: Summary, *, examples: bool) -> list[Table]:
    """GLUE's table if at least two of its tasks were run, then the tables of each task's median run.

    Args:
      examples: Whether texts of the tasks are shown.
    """
    by_name = {task.task: task for task in summary.tasks}
    glue = [by_name[name] for name in _GLUE if name in by_name]
    tables = [_glue_table(glue)] if len(glue) > 1 else []
    for task in summary.tasks:
        if run := median_run(results, task.task):
            tables += _details(run, examples=examples)
    return tables


def median_run(results: Results, task: str) -> FineTuning | None:
    """The pretrained run whose primary score is the median, the lower one of two; None where there is none."""
    runs = [run for run in results.runs if run.task == task and run.init is Init.PRETRAINED]
    if not runs:
        return None
    score = statistics.median_low(run.score for run in runs)
    return next(run for run in runs if run.score == score)


def _glue_table(tasks: Sequence[TaskSummary]) -> Table:
    def row(name: str, scores: Sequence[float | None]) -> tuple[str, ...]:
        known = [score for score in scores if score is not None]
        average = statistics.fmean(known) if len(known) == len(scores) else None
        return (name, *(format_number(score) for score in (*scores, average)))

    rows = []
    for init in Init:
        found = [task.of(init) for task in tasks]
        if any(found):
            rows.append(row(f"{init} weights, medians", [one.median if one else None for one in found]))
    if not any(task.incomparable for task in tasks):
        for checkpoint in CHECKPOINTS:
            scores = [task.published.scores.get(checkpoint) if task.published else None for task in tasks]
            rows.append(row(f"published: {checkpoint}", scores))
    columns = (*(f"{task.task} ({task.primary})" for task in tasks), "average of these")
    return Table(title="GLUE, development sets", columns=columns, rows=tuple(rows))


def _details(run: FineTuning, *, examples: bool) -> Iterator[Table]:
    details: Mapping[str, Any] = run.result.get("details", {})
    parts = {"": details} if _is_flat(details) else {f", {part}": value for part, value in details.items()}
    for part, found in parts.items():
        title = f"{run.task}{part}, seed {run.seed}"
        if "confusion" in found:
            yield _confusion(title, found["confusion"], labels=found["labels"])
        if "by_type" in found:
            yield _by_type(title, found["by_type"])
        if "by_label" in found:
            yield _by_label(title, found["by_label"])
        if examples and found.get("wrong"):
            yield _wrong(title, found["wrong"])


def _is_flat(details: Mapping[str, Any]) -> bool:
    """Whether the details are of one dev set; else they are listed by its parts (`matched`, `mismatched`)."""
    return any(name in details for name in ("confusion", "by_type", "by_label", "wrong")) or not all(
        isinstance(value, Mapping) for value in details.values()
    )


def _confusion(title: str, confusion: Sequence[Sequence[int]], *, labels: Sequence[str]) -> Table:
    rows = tuple((f"is {label}", *map(format_value, counts)) for label, counts in zip(labels, confusion, strict=True))
    return Table(title=f"Confusions: {title}", columns=tuple(f"predicted {label}" for label in labels), rows=rows)


def _by_type(title: str, by_type: Mapping[str, Mapping[str, float]]) -> Table:
    rows = tuple(
        (name, *(format_number(found[key]) for key in ("precision", "recall", "f1")), format_value(found["support"]))
        for name, found in sorted(by_type.items(), key=lambda item: -item[1]["support"])
    )
    return Table(title=f"Chunks by type: {title}", columns=("precision", "recall", "F1", "in gold"), rows=rows)


def _by_label(title: str, by_label: Mapping[str, Mapping[str, int]]) -> Table:
    rows = []
    for name, found in by_label.items():
        both = found["gold"] + found["predicted"]
        score = format_number(200.0 * found["correct"] / both) if both else MISSING
        rows.append((name, score, *(format_value(found[key]) for key in ("correct", "predicted", "gold"))))
    columns = ("F1", "predicted right", "predicted", "in gold")
    return Table(title=f"Labels: {title}", columns=columns, rows=tuple(rows))


def _wrong(title: str, examples: Sequence[Mapping[str, Any]]) -> Table:
    has_odds = all("probability" in found for found in examples)
    rows = tuple(
        (" | ".join(found["texts"]), str(found["label"]), str(found["predicted"]))
        + ((format_number(100 * found["probability"]),) if has_odds else ())
        for found in examples
    )
    columns = ("label", "predicted", *(("probability (%)",) if has_odds else ()))
    return Table(title=f"Most confident errors: {title}", columns=columns, rows=rows)
