"""Compares the scores of several outputs: `python -m pipeline.compare outputs/a outputs/b`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from upath import UPath

from cluster.credentials import redact


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 if an output has no finished run or the outputs cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__)
    parser.add_argument("outputs", metavar="OUTPUT", nargs="+", help="the output folder of a config")
    parser.add_argument("--json", action="store_true", help="print one JSON object per task and initial weights")
    options = parser.parse_args(arguments)
    from stages.report.comparison import as_json, compare, read_summary

    try:
        summaries = [read_summary(UPath(os.path.expanduser(output))) for output in options.outputs]
        rows = compare(summaries)
    except (FileNotFoundError, ValueError) as error:
        print(redact(str(error)), file=sys.stderr)
        return 2
    if options.json:
        for row in as_json(options.outputs, rows):
            print(json.dumps(row, ensure_ascii=False))
        return 0
    _print(options.outputs, rows, summaries)
    return 0


def _print(outputs: Sequence[str], rows: Sequence, summaries: Sequence) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from stages.finetune.config import Init
    from stages.report.comparison import published
    from stages.report.data_tables import MISSING, format_number
    from stages.report.released_scores import STATEMENT

    names = published(summaries)
    columns: list[Column | str] = ["task", "weights", "metric"]
    columns += [Column(f"{output}\nmedian (mean ± SD, worst – best, n)", justify="right") for output in outputs]
    columns += [f"{output}\nminus {outputs[0]}" for output in outputs[1:]]
    columns += ["published"] if names else []
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        cells = [row.task, str(row.init), row.metric]
        for statistics in row.statistics:
            if statistics is None:
                cells.append(MISSING)
                continue
            scores = statistics.seeds.values()
            numbers = [format_number(value) for value in (statistics.median, statistics.mean, min(scores), max(scores))]
            deviation = MISSING if statistics.deviation is None else format_number(statistics.deviation, digits=2)
            text = f"{numbers[0]} ({numbers[1]} ± {deviation}, {numbers[2]} – {numbers[3]}, {statistics.count})"
            cells.append(text + (f"\n{statistics.num_degenerate} degenerate" if statistics.num_degenerate else ""))
        for found in row.differences:
            cells.append(f"{format_number(found.means, signed=True)}: {found.verdict}" if found else MISSING)
        if names:
            task = names.get(row.task) if row.init is Init.PRETRAINED else None
            scores_by_name = task.published.scores.items() if task is not None and task.published else ()
            cells.append(", ".join(f"{name} {format_number(score)}" for name, score in scores_by_name) or MISSING)
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(
        "\nScores in percent. SD: sample standard deviation over seeds. Differences are of means. The seeds' spread is "
        "the root mean square of both SDs.",
        highlight=False,
    )
    if names:
        console.print(STATEMENT, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
