"""Compares the scores of several outputs: `python -m pipeline.compare outputs/a outputs/b`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

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
    letters = [_letter(number) for number in range(len(outputs))]
    console = Console()
    for letter, output in zip(letters, outputs, strict=True):
        console.print(f"{letter} = {output}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    columns: list[Column | str] = [Column("task", no_wrap=True), Column("weights", no_wrap=True)]
    columns += [Column(letter, justify="right", no_wrap=True) for letter in letters]
    columns += [Column(f"{letter} − {letters[0]}", justify="right", no_wrap=True) for letter in letters[1:]]
    columns += ["published"] if names else []
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        cells = [f"{row.task}\n{row.metric.replace('_', ' ')}", str(row.init)]
        for statistics in row.statistics:
            if statistics is None:
                cells.append(MISSING)
                continue
            scores = statistics.seeds.values()
            numbers = [format_number(value) for value in (statistics.median, statistics.mean, min(scores), max(scores))]
            deviation = MISSING if statistics.deviation is None else format_number(statistics.deviation, digits=2)
            text = f"{numbers[0]}\n{numbers[1]} ± {deviation}\n{numbers[2]} – {numbers[3]}, n={statistics.count}"
            cells.append(text + (f"\n{statistics.num_degenerate} degenerate" if statistics.num_degenerate else ""))
        for found in row.differences:
            cells.append(f"{format_number(found.means, signed=True)}{_mark(found)}" if found else MISSING)
        if names:
            task = names.get(row.task) if row.init is Init.PRETRAINED else None
            scores_by_name = task.published.scores.items() if task is not None and task.published else ()
            cells.append(", ".join(f"{name} {format_number(score)}" for name, score in scores_by_name) or MISSING)
        table.add_row(*cells)
    console.print(table)
    legend = [
        "Scores in percent: median; mean ± SD (sample standard deviation over seeds); worst – best, n seeds.",
        "Differences are of means: * larger than the seeds' spread (the root mean square of both SDs), "
        "? one seed, so that its significance is unknown.",
    ]
    console.print("\n" + "\n".join(legend), highlight=False)
    if names:
        console.print(STATEMENT, highlight=False)


def _mark(difference: Any) -> str:
    """What the legend explains; as wide as nothing, so that the numbers stand in line."""
    if difference.spread is None:
        return " ?"
    return " *" if abs(difference.means) > difference.spread else "  "


def _letter(number: int) -> str:
    """A, B, …, Z, A2, B2, …"""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


if __name__ == "__main__":
    sys.exit(main())
