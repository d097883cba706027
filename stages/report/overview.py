"""A run in a few numbers and one table, for whoever compares runs: what the report tells the tracker."""

from collections.abc import Mapping
from dataclasses import dataclass

from stages.report.collect import Results, select_records
from stages.report.data_tables import format_number
from stages.report.facts import hardware, passes, trained_tokens
from stages.report.statistics import Summary

# Of the last evaluation on held-out text.
_HELDOUT = ("replaced/auc", "loss/discriminator", "loss/generator", "loss/restoration", "masked/accuracy")


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a run came to.

    Attributes:
      metrics: Numbers by name.
      params: What it was made of, as far as only the run knows it.
      text: The scores as a Markdown table.
    """

    metrics: Mapping[str, float]
    params: Mapping[str, object]
    text: str


def make_overview(results: Results, summary: Summary) -> Overview:
    """Of a run that has got as far as its report."""
    metrics = summary.metrics()
    if results.pretraining is not None:
        for name in _HELDOUT:
            if rows := select_records(results.pretraining.metrics, name, split="heldout"):
                metrics[f"heldout/{name}"] = rows[-1][name]
    seconds = sum(record.manifest.get("seconds") or 0.0 for record in results.stages)
    metrics["hours"] = seconds / 3600
    params: dict[str, object] = {}
    if (tokens := trained_tokens(results)) is not None:
        metrics["tokens"] = float(tokens)
    if (count := passes(results)) is not None:
        params["passes"] = float(f"{count:.3g}")
    if found := hardware(results):
        params["hardware"] = found
    return Overview(metrics=metrics, params=params, text=_table(summary))


def _table(summary: Summary) -> str:
    if not summary.tasks:
        return "No fine-tuning run has finished."
    lines = [
        "| task | metric | pretrained | random weights | difference | seeds |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for task in summary.tasks:
        medians = [found.median if found else None for found in (task.pretrained, task.random)]
        counts = " / ".join(str(found.count) for found in (task.pretrained, task.random) if found)
        cells = [task.task, task.primary.replace("_", " "), *map(format_number, medians)]
        cells += [format_number(task.difference, signed=True), counts]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines.append("\nMedians over seeds, in percent.")
    if any(task.generated for task in summary.tasks):
        lines.append("The data is generated: scores show that the pipeline works, and no more.")
    return "\n".join(lines)
