"""Writes the pages. `_view` prepares everything that both templates show, as text."""

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import jinja2
import yaml

from stages.finetune.config import Init
from stages.report.collect import Results, StageRecord, select_records
from stages.report.data_tables import MISSING, data_tables, format_duration, format_number, format_value
from stages.report.outcomes import outcome_tables
from stages.report.plots import Plot, metric_label
from stages.report.released_scores import CHECKPOINTS, STATEMENT
from stages.report.statistics import Statistics, Summary, TaskSummary

_HELDOUT = {
    "loss/generator": "Generator loss (nats per masked token)",
    "loss/discriminator": "Discriminator loss (nats per token)",
    "masked/accuracy": "Masked tokens predicted right (%)",
    "sampled/accuracy": "Masked tokens sampled right (%)",
    "discriminator/accuracy": "Discriminator accuracy (%)",
    "replaced/share": "Tokens replaced (%)",
    "replaced/precision": "Replaced tokens: precision (%)",
    "replaced/recall": "Replaced tokens: recall (%)",
    "replaced/auc": "Replaced against original: AUC",
}
_NOT_PERCENT = {"loss/generator", "loss/discriminator", "replaced/auc"}


def render_html(*, title: str, results: Results, summary: Summary, plots: Sequence[Plot]) -> str:
    """One page that needs no other file: styles and plots are in it."""
    environment = _environment(autoescape=True)
    return environment.get_template("report.html.jinja").render(_view(title, results, summary, plots))


def render_markdown(*, title: str, results: Results, summary: Summary, plots: Sequence[Plot]) -> str:
    """The same in Markdown; plots are links to plots/*.png beside it."""
    environment = _environment(autoescape=False)
    return environment.get_template("report.md.jinja").render(_view(title, results, summary, plots))


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stages.report", "templates"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _escape_markdown
    return environment


def _escape_markdown(text: object) -> str:
    """Escapes what Markdown would read as markup or as the end of a table cell."""
    escaped = " ".join(str(text).split())
    for character in "\\`*_[]<>|#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped


def _view(title: str, results: Results, summary: Summary, plots: Sequence[Plot]) -> dict[str, Any]:
    return {
        "title": title,
        "verdicts": _verdicts(results, summary),
        "tasks": [_task_view(task, results) for task in summary.tasks],
        "has_random": any(task.random is not None for task in summary.tasks),
        "metrics": list(_metric_rows(summary)),
        "published": _published_view(summary),
        "outcomes": outcome_tables(results, summary),
        "runs": _run_rows(results),
        "gaps": summary.gaps,
        "warnings": [(stage, "; ".join(map(str, found))) for stage, found in summary.warnings.items()],
        "pretraining": _pretraining_rows(results),
        "throughput": _throughput(results),
        "pretrained_here": results.pretraining is not None,
        "plots": {
            section: [
                {
                    "name": plot.name,
                    "caption": plot.caption,
                    "base64": base64.b64encode(plot.png).decode(),
                }
                for plot in plots
                if plot.section == section
            ]
            for section in ("scores", "pretraining", "finetuning")
        },
        "tables": data_tables(results),
        "stages": [_stage_view(record) for record in results.stages],
        "commands": _of_manifests(results, "command"),
        "commits": _of_manifests(results, "git_commit"),
        "versions": _versions(results),
    }


def _verdicts(results: Results, summary: Summary) -> list[str]:
    """What the numbers say, in sentences."""
    sentences = []
    if summary.compared:
        worse = [task.task for task in summary.compared if (task.difference or 0.0) <= 0]
        sentence = (
            "Fine-tuning from the pretrained weights has a higher median than the same fine-tuning from random "
            f"weights on {summary.num_better} of {len(summary.compared)} tasks"
        )
        sentences.append(sentence + (f"; not on {', '.join(worse)}." if worse else "."))
    elif summary.tasks:
        sentences.append("No task was fine-tuned from random weights, so the gain from pretraining is unknown.")
    else:
        sentences.append("There is no finished fine-tuning run to score.")
    degenerate = [run.stage for run in results.runs if run.is_degenerate]
    if degenerate:
        sentences.append(
            f"{len(degenerate)} of {len(results.runs)} fine-tuning runs are degenerate (they learnt nothing); all "
            "statistics include them: "
            f"{', '.join(degenerate)}."
        )
    auc = _last(results, "heldout", "replaced/auc")
    if auc is not None:
        sentences.append(
            "On held-out text the discriminator tells replaced from original tokens with an area under the "
            f"curve of {format_number(auc, digits=3)} (chance is 0.5)."
        )
    generated = [task.task for task in summary.tasks if task.generated]
    if generated:
        sentences.append(
            f"The data of {', '.join(generated)} was generated by the sample stage. Its scores "
            "show that the pipeline works; they cannot be compared with published results."
        )
    sentences += [
        f"{task.task} is not compared with published results: {task.incomparable}."
        for task in summary.tasks
        if task.incomparable and task.published is not None and not task.generated
    ]
    return sentences


def _statistics_view(statistics: Statistics | None) -> dict[str, Any] | None:
    if statistics is None:
        return None
    return {
        "median": format_number(statistics.median),
        "mean": format_number(statistics.mean),
        "deviation": "n/a" if statistics.deviation is None else format_number(statistics.deviation, digits=2),
        "seeds": [{"seed": str(seed), "score": format_number(score)} for seed, score in statistics.seeds.items()],
    }


def _task_view(task: TaskSummary, results: Results) -> dict[str, Any]:
    run = next(run for run in results.runs if run.task == task.task)
    return {
        "name": task.task,
        "metric": metric_label(task.primary),
        "generated": task.generated,
        "train_examples": format_value(run.result.get("train_examples")),
        "dev_examples": format_value(run.result.get("dev_examples")),
        "pretrained": _statistics_view(task.pretrained),
        "random": _statistics_view(task.random),
        "difference": format_number(task.difference, signed=True),
        "trend": "" if not task.difference else "up" if task.difference > 0 else "down",
    }


def _metric_rows(summary: Summary) -> Iterator[dict[str, Any]]:
    for task in summary.tasks:
        for init in Init:
            for name, statistics in task.metrics.get(init, {}).items():
                yield {"task": task.task, "init": str(init), "metric": metric_label(name)} | (
                    _statistics_view(statistics) or {}
                )


def _published_view(summary: Summary) -> dict[str, Any] | None:
    rows = []
    for task in summary.tasks:
        ours = task.ours_as_published()
        if task.incomparable or task.published is None or ours is None:
            continue
        rows.append(
            {
                "task": task.task,
                "metric": task.published.label,
                "split": task.published.split,
                "ours": format_number(ours.median),
                "count": ours.count,
                "scores": [format_number(task.published.scores.get(name)) for name in CHECKPOINTS],
            }
        )
    return {"rows": rows, "checkpoints": CHECKPOINTS, "statement": STATEMENT} if rows else None


def _run_rows(results: Results) -> list[dict[str, str]]:
    return [
        {
            "stage": run.stage,
            "parameters": format_value(run.result.get("num_parameters")),
            "steps": format_value(run.result.get("steps")),
            "seconds": format_duration(run.result["seconds"]) if "seconds" in run.result else MISSING,
            "speed": format_number(run.result.get("examples_per_second")),
        }
        for run in results.runs
    ]


def _last(results: Results, split: str, metric: str) -> float | None:
    rows = _rows(results, split, metric)
    return float(rows[-1][metric]) if rows else None


def _rows(results: Results, split: str, metric: str) -> list[Mapping[str, Any]]:
    return select_records(results.pretraining.metrics, metric, split=split) if results.pretraining else []


def _pretraining_rows(results: Results) -> dict[str, Any] | None:
    rows = []
    for metric, label in _HELDOUT.items():
        found = _rows(results, "heldout", metric)
        if found:
            factor, digits = (1.0, 3) if metric in _NOT_PERCENT else (100.0, 1)
            first, last = (format_number(row[metric] * factor, digits=digits) for row in (found[0], found[-1]))
            rows.append({"label": label, "first": first, "last": last})
    if not rows:
        return None
    steps = [row["step"] for row in _rows(results, "heldout", "step")]
    return {"rows": rows, "first_step": format_value(steps[0]), "last_step": format_value(steps[-1])}


def _throughput(results: Results) -> str | None:
    """The median: the first window includes compilation, and other programs may share the machine."""
    name = "throughput/tokens_per_second"
    values = [row[name] for row in _rows(results, "train", name)]
    return format_value(round(median(values))) if values else None


def _stage_view(record: StageRecord) -> dict[str, Any]:
    seconds = record.manifest.get("seconds")
    return {
        "name": record.name,
        "folder": str(record.folder),
        "fingerprint": record.folder.name,
        "time": MISSING if seconds is None else format_duration(seconds),
        "config": yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True).strip() if record.config else "",
    }


def _of_manifests(results: Results, key: str) -> list[str]:
    """The distinct values of a key in the stages' manifests: stages may be from different runs."""
    values = (record.manifest.get(key) for record in results.stages)
    texts = (shlex.join(value) if isinstance(value, list) else value for value in values)
    return list(dict.fromkeys(str(text) for text in texts if text))


def _versions(results: Results) -> list[tuple[str, str]]:
    """Versions by name; several where stages ran with different ones."""
    found: dict[str, dict[str, None]] = {}
    for record in results.stages:
        manifest = record.manifest
        named = {"Python": manifest.get("python"), "system": manifest.get("machine")}
        for name, version in (named | dict(manifest.get("packages", {}))).items():
            if version:
                found.setdefault(name, {})[str(version)] = None
    return [(name, ", ".join(versions)) for name, versions in found.items()]
