"""What a run says at its end: the scores, where the report is, how to open MLflow."""

import os
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from upath import UPath

from cluster.storage import read_json
from pipeline.config.sections import PipelineConfig
from pipeline.plan import PlannedStage, Status


def print_summary(
    plan: Sequence[PlannedStage],
    *,
    config: PipelineConfig,
    output: UPath,
    finished: Collection[str] | None = None,
) -> None:
    """Prints what came out.

    Args:
      finished: Stages that are done; None for those that the plan found done.
    """
    if finished is None:
        finished = {planned.name for planned in plan if planned.status is Status.DONE}
    done = [planned for planned in plan if planned.name in finished]
    console = Console()
    if rows := _scores(done):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("task")
        table.add_column("metric")
        for title in ("pretrained", "from random weights", "seeds"):
            table.add_column(title, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)
    if cautions := _cautions(done):
        console.print(f"\n{cautions}: see the report", style="yellow", soft_wrap=True, highlight=False)
    lines = [f"{'report':<10}{planned.folder / 'report.html'}" for planned in done if planned.name == "report"]
    if config.tracking is not None:
        uri = config.tracking.uri or f"sqlite:///{output / 'mlflow.db'}"
        where = (
            uri if uri.startswith(("http://", "https://")) else f"{_mlflow()} ui --backend-store-uri {shlex.quote(uri)}"
        )
        lines.append(f"{'MLflow':<10}{where}")
    if lines:
        console.print()
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _scores(done: Sequence[PlannedStage]) -> list[tuple[str, ...]]:
    """A row for each task: median over seeds of its primary metric, in percent, pretrained and from random weights."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = {}
    for planned in done:
        path = planned.folder / "result.json"
        if planned.name.startswith("finetune/") and path.exists():
            result: Mapping[str, Any] = read_json(path)
            entry = scores.setdefault((result["task"], result["primary"]), {})
            entry.setdefault(result["init"], []).append(float(result["scores"][result["primary"]]))
    return [
        (task, metric, _median(found.get("pretrained", [])), _median(found.get("random", [])), _counts(found))
        for (task, metric), found in sorted(scores.items())
    ]


def _cautions(done: Sequence[PlannedStage]) -> str:
    """How many fine-tuning runs are degenerate, and how many have other warnings; "" where there are none."""
    paths = [planned.folder / "result.json" for planned in done if planned.name.startswith("finetune/")]
    of_runs = [read_json(path).get("warnings", []) for path in paths if path.exists()]
    is_degenerate = [[warning.startswith("degenerate") for warning in warnings] for warnings in of_runs]
    degenerate, warned = sum(map(any, is_degenerate)), sum(not all(each) for each in is_degenerate)
    found = [f"{degenerate} learnt nothing (one class, or a flat loss)"] if degenerate else []
    found += [f"{warned} have {'other ' if degenerate else ''}warnings"] if warned else []
    return f"Of {len(of_runs)} fine-tuning runs, {' and '.join(found)}" if found else ""


def _median(values: list[float]) -> str:
    from statistics import median

    return f"{median(values):.2f}" if values else ""


def _counts(found: Mapping[str, list[float]]) -> str:
    return " / ".join(str(len(values)) for values in found.values())


def _mlflow() -> str:
    """The command as this shell finds it, else its full path in this environment."""
    if shutil.which("mlflow"):
        return "mlflow"
    beside = Path(sys.executable).with_name("mlflow")
    return shlex.quote(str(beside)) if os.access(beside, os.X_OK) else "mlflow"
