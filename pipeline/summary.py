"""The end of a run on the console: the scores, where the report is, how to open MLflow."""

import os
import shlex
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from upath import UPath

from cluster.credentials import redact
from pipeline.config.sections import PipelineConfig
from pipeline.plan import PlannedStage, Status
from stages.context import Group
from stages.finetune.config import Init
from stages.report.collect import FineTuning, collect
from stages.report.statistics import Summary, summarize_results
from stages.run_warning import WarningKind


def print_summary(
    plan: Sequence[PlannedStage], *, config: PipelineConfig, output: UPath, finished: Collection[str] | None = None
) -> None:
    """Prints scores, warnings and where to look.

    Args:
      finished: Stages that are done; None for those that the plan calls done.
    """
    if finished is None:
        finished = {planned.name for planned in plan if planned.status is Status.DONE}
    done = [planned for planned in plan if planned.name in finished]
    console = Console()
    runs = {planned.name: planned.folder for planned in done if planned.stage.group is Group.FINETUNE}
    results = collect(runs, groups=dict.fromkeys(runs, Group.FINETUNE))
    if rows := _score_rows(summarize_results(results)):
        numbers = [Column(title, justify="right") for title in ("pretrained", "from random weights", "seeds")]
        table = Table("task", "metric", *numbers, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)
    if line := _warning_line(results.runs):
        console.print(f"\n{line}: see the report", style="yellow", soft_wrap=True, highlight=False)
    lines = [f"{'report':<10}{planned.folder / 'report.html'}" for planned in done if planned.name == "report"]
    if config.tracking is not None:
        uri = redact(config.tracking.uri_for(output))
        is_server = uri.startswith(("http://", "https://"))
        where = uri if is_server else f"{_mlflow()} ui --backend-store-uri {shlex.quote(uri)}"
        lines.append(f"{'MLflow':<10}{where}")
    if lines:
        console.print()
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _score_rows(summary: Summary) -> list[tuple[str, ...]]:
    """One row per task: median over seeds of its primary metric in percent, pretrained and from random weights."""
    rows = []
    for task in summary.tasks:
        found = [task.of(init) for init in Init]
        medians = [f"{statistics.median:.2f}" if statistics else "" for statistics in found]
        counts = " / ".join(str(statistics.count) for statistics in found if statistics)
        rows.append((task.task, task.primary, *medians, counts))
    return rows


def _warning_line(runs: Sequence[FineTuning]) -> str:
    """How many fine-tuning runs are degenerate, and how many have other warnings; "" where there are none."""
    degenerate = sum(run.is_degenerate for run in runs)
    warned = sum(any(warning.kind is not WarningKind.DEGENERATE for warning in run.warnings) for run in runs)
    found = [f"{degenerate} learnt nothing (one class, or a flat loss)"] if degenerate else []
    found += [f"{warned} have {'other ' if degenerate else ''}warnings"] if warned else []
    return f"Of {len(runs)} fine-tuning runs, {' and '.join(found)}" if found else ""


def _mlflow() -> str:
    """`mlflow` if the shell finds it, else its full path in this environment."""
    if shutil.which("mlflow"):
        return "mlflow"
    beside = Path(sys.executable).with_name("mlflow")
    return shlex.quote(str(beside)) if os.access(beside, os.X_OK) else "mlflow"
