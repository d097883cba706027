"""The end of a run on the console: what failed, the scores, how long it took, and what to do with the results."""

import os
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from upath import UPath

from cluster.credentials import redact
from cluster.storage import is_local, read_json
from pipeline.config.sections import PipelineConfig
from pipeline.plan import PlannedStage, Status
from pipeline.results import StageResult, State
from pipeline.screen.display import format_clock
from pipeline.tracking.ledger import find_experiment
from stages.context import Group
from stages.finetune.config import Init
from stages.report.collect import FineTuning, Results, collect
from stages.report.outcomes import median_run
from stages.report.statistics import Summary, summarize_results
from stages.run_warning import WarningKind

# What stands for a text in the command that predicts.
_TEXTS = {"text": "a text", "text_pair": "another text", "question": "a question?", "context": "a text that answers it"}


def print_failures(results: Iterable[StageResult], *, again: str) -> bool:
    """Prints each failure with its log, and in a line each what was not run for it. True where there is none."""
    failed = [result for result in results if result.state is State.FAILED]
    for result in failed:
        print(f"\n{result.name} failed: {result.error}\n  log: {result.log}", file=sys.stderr)
    for culprit in failed:
        names = [r.name for r in results if r.state is State.BLOCKED and r.blocked_by == culprit.name]
        if len(names) == 1:
            print(f"{names[0]} was not run: it needs {culprit.name}, which failed", file=sys.stderr)
        elif names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            line = f"{len(names)} stages were not run: they need {culprit.name}, which failed ({shown})"
            print(line, file=sys.stderr)
    if failed:
        print(f"\nFinished work is kept. After fixing the cause, resume with:\n  {again}", file=sys.stderr)
    return not failed


def print_summary(
    plan: Sequence[PlannedStage],
    *,
    config: PipelineConfig,
    output: UPath,
    finished: Collection[str] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Prints scores, warnings, times and where to look.

    Args:
      finished: Stages that are done; None for those that the plan calls done.
      seconds: How long those of this run took.
    """
    if finished is None:
        finished = {planned.name for planned in plan if planned.status is Status.DONE}
    done = [planned for planned in plan if planned.name in finished]
    console = Console()
    runs = {planned.name: planned.folder for planned in done if planned.stage.group is Group.FINETUNE}
    results = collect(runs, groups=dict.fromkeys(runs, Group.FINETUNE))
    summary = summarize_results(results)
    if rows := _score_rows(summary):
        numbers = [Column(title, justify="right") for title in ("pretrained", "from random weights", "seeds")]
        table = Table("task", "metric", *numbers, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)
    if line := _warning_line(results.runs):
        console.print(f"\n{line}: see the report", style="yellow", soft_wrap=True, highlight=False)
    lines = _where(done, results, summary, output=output)
    if config.tracking is not None:
        lines += _mlflow_lines(redact(config.tracking.uri_for(output)), output=output)
    if line := _times(done, seconds or {}):
        lines.append(line)
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


def _where(done: Sequence[PlannedStage], results: Results, summary: Summary, *, output: UPath) -> list[str]:
    """The folders of the report and the model, and a command that tries the best model there is."""
    folders = {planned.name: planned.folder for planned in done}
    lines = []
    if "report" in folders:
        lines.append(_line("report", _newest(output, "report", folders["report"]) / "report.html"))
    models = {}
    if "export" in folders:
        models = {name: folders["export"] / name for name in ("discriminator", "generator")}
        models = {name: _newest(output, name, folder) for name, folder in models.items() if folder.is_dir()}
        lines += [_line("model", folder) for folder in [*models.values()][:1]]
    tried, words = next(iter(models.values()), None), ["a text"]
    # The model of the first task that gained from pretraining, else of the first task.
    for task in sorted(summary.tasks, key=lambda task: not (task.difference or 0) > 0):
        if run := median_run(results, task.task):
            tried = _newest(output, run.stage, folders[run.stage] / "model")
            asked = tried / "task.json"
            columns = read_json(asked)["columns"] if asked.is_file() else ["text"]
            words = [_TEXTS[column] for column in columns]
            break
    if tried is not None:
        lines.append(_line("try it", shlex.join([_python(), "-m", "pipeline.predict", str(tried), *words])))
    return lines


def _newest(output: UPath, name: str, folder: UPath) -> UPath:
    """Its short name in `latest/`, where that leads to this folder."""
    link = output / "latest" / name
    leads_there = is_local(link) and Path(str(link)).resolve() == Path(str(folder)).resolve()
    return link if leads_there else folder


def _mlflow_lines(uri: str, *, output: UPath) -> list[str]:
    """How to open MLflow on this experiment's runs: else it opens on an empty page of traces."""
    is_server = uri.startswith(("http://", "https://"))
    experiment = find_experiment(output, uri)
    page = f"/#/experiments/{experiment}/runs?workflowType=machine_learning" if experiment else ""
    if is_server:
        return [_line("MLflow", uri.rstrip("/") + page)]
    lines = [_line("MLflow", f"{_mlflow()} ui --backend-store-uri {shlex.quote(uri)}")]
    return lines + ([_line("", f"then open http://127.0.0.1:5000{page}")] if page else [])


def _times(done: Sequence[PlannedStage], seconds: Mapping[str, float]) -> str:
    """`4m 12s of work: pretrain 2m 03s, 8 x finetune 1m 40s, …`, the longest first."""
    by_kind: dict[str, list[float]] = {}
    for planned in done:
        kind = planned.name.partition("/")[0]
        by_kind.setdefault(kind, []).append(seconds.get(planned.name, planned.seconds))
    totals = sorted(((sum(each), len(each), kind) for kind, each in by_kind.items()), reverse=True)
    parts = [
        f"{f'{count} x ' if count > 1 else ''}{kind} {format_clock(total)}"
        for total, count, kind in totals
        if format_clock(total)
    ]
    total = format_clock(sum(total for total, _, _ in totals))
    return _line("time", f"{total} of work: {', '.join(parts)}") if parts else ""


def _line(name: str, text: object) -> str:
    return f"{name:<10}{text}"


def _python() -> str:
    """`python` if the shell's is this one, else its full path."""
    found = shutil.which("python")
    return "python" if found and Path(found).parent == Path(sys.executable).parent else sys.executable


def _mlflow() -> str:
    """`mlflow` if the shell finds it, else its full path in this environment."""
    if shutil.which("mlflow"):
        return "mlflow"
    beside = Path(sys.executable).with_name("mlflow")
    return shlex.quote(str(beside)) if os.access(beside, os.X_OK) else "mlflow"
