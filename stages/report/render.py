"""Writes the pages. `_view` collects what both templates show; their filters write it as text."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import jinja2
import yaml

from stages.report.collect import Results, select_records
from stages.report.data_tables import data_tables, format_duration, format_number, format_value
from stages.report.exhibits import count_kinds, guess_table, shown_rows, vocabulary_sample
from stages.report.facts import run_facts
from stages.report.outcomes import outcome_tables
from stages.report.plots import Plot, metric_label
from stages.report.released_scores import CHECKPOINTS, STATEMENT
from stages.report.statistics import Summary

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


def render_pages(
    *, title: str, examples: bool, results: Results, summary: Summary, plots: Sequence[Plot]
) -> dict[str, str]:
    """The pages by file name.

    Args:
      examples: Whether they show texts of the corpus and of the tasks.

    report.html needs no other file: styles and plots are in it. report.md links to plots/*.png beside it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stages.report", "templates"),
        autoescape=jinja2.select_autoescape(("html.jinja",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": format_number, "value": format_value, "duration": format_duration}
    environment.filters |= {"metric": metric_label, "deviation": _format_deviation, "md": _escape_markdown}
    environment.filters |= {"yaml": _to_yaml, "base64": _to_base64}
    view = _view(title, results, summary, plots, examples=examples)
    return {page: environment.get_template(f"{page}.jinja").render(view) for page in ("report.html", "report.md")}


def _format_deviation(deviation: float | None) -> str:
    return "n/a" if deviation is None else format_number(deviation, digits=2)


def _to_yaml(config: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True)).strip()


def _to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _escape_markdown(text: object) -> str:
    """Escapes what Markdown would read as markup or as the end of a table cell."""
    escaped = " ".join(str(text).split())
    for character in "\\`*_[]<>|#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped


def _view(title: str, results: Results, summary: Summary, plots: Sequence[Plot], *, examples: bool) -> dict[str, Any]:
    sections = ("scores", "pretraining", "finetuning")
    shown = shown_rows(results) if examples else []
    return {
        "title": title,
        "facts": run_facts(results),
        "shown": shown,
        "kinds": count_kinds(shown),
        "guesses": guess_table(results) if examples else None,
        "vocabulary": vocabulary_sample(results.tokens) if examples else [],
        "verdicts": _verdicts(results, summary),
        "tasks": summary.tasks,
        "first_results": {run.task: run.result for run in reversed(results.runs)},
        "published": [task for task in summary.tasks if not task.incomparable and task.ours_as_published],
        "checkpoints": CHECKPOINTS,
        "statement": STATEMENT,
        "outcomes": outcome_tables(results, summary, examples=examples),
        "runs": results.runs,
        "gaps": summary.gaps,
        "warnings": [(stage, "; ".join(map(str, found))) for stage, found in summary.warnings.items()],
        "pretraining": _pretraining_rows(results),
        "throughput": _throughput(results),
        "pretrained_here": results.pretraining is not None,
        "plots": {section: [plot for plot in plots if plot.section == section] for section in sections},
        "tables": data_tables(results),
        "stages": results.stages,
        "commands": _of_manifests(results, "command"),
        "commits": _of_manifests(results, "git_commit"),
        "versions": _versions(results),
    }


def _verdicts(results: Results, summary: Summary) -> list[str]:
    """What the numbers say, in sentences."""
    sentences = []
    differences = {task.task: task.difference for task in summary.tasks if task.difference is not None}
    if differences:
        worse = [task for task, difference in differences.items() if difference <= 0]
        sentence = (
            "Fine-tuning from the pretrained weights has a higher median than the same fine-tuning from random "
            f"weights on {len(differences) - len(worse)} of {len(differences)} tasks"
        )
        sentences.append(sentence + (f"; not on {', '.join(worse)}." if worse else "."))
    elif summary.tasks:
        sentences.append("No task was fine-tuned from random weights, so the gain from pretraining is unknown.")
    else:
        sentences.append("There is no finished fine-tuning run to score.")
    degenerate = [run.stage for run in results.runs if run.is_degenerate]
    if degenerate:
        more = f" and {len(degenerate) - 3} more" if len(degenerate) > 3 else ""
        sentences.append(
            f"{len(degenerate)} of {len(results.runs)} fine-tuning runs are degenerate (they learnt nothing); all "
            f"statistics include them: {', '.join(degenerate[:3])}{more}."
        )
    name = "replaced/auc"
    if rows := _rows(results, "heldout", name):
        sentences.append(
            "On held-out text the discriminator tells replaced from original tokens with an area under the "
            f"curve of {format_number(rows[-1][name], digits=3)} (chance is 0.5)."
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
