"""The tables about data: documents, vocabulary, examples, as text."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stages.report.collect import Results

MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column holds names. `columns` are the headings of the others; ("",): one without heading.

    Unless `is_numeric`, they hold words, which stand on the left.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_numeric: bool = True


def format_number(value: float | None, *, digits: int = 1, signed: bool = False) -> str:
    """A number with a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def format_duration(seconds: float | None) -> str:
    """`under 1 s`, `48 s`, `12 min`, `3 h 05 min`; a dash for None."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_value(value: object) -> str:
    """Any value as text, numbers with thousands separated."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def data_tables(results: Results) -> list[Table]:
    """One table for each stage of data preparation that is part of the run."""
    tables = []
    if results.documents:
        tables.append(Table(title="Documents", columns=("",), rows=tuple(_document_rows(results.documents))))
    if results.vocabulary:
        hidden = ("special", "sha256")
        shown = {key: value for key, value in results.vocabulary.items() if value is not None and key not in hidden}
        tables.append(Table(title="Vocabulary", columns=("",), rows=(*_flat_rows(shown), *_cuts(results))))
    if results.shards is not None:
        tables.append(_example_table(results.shards.counts, sequence_length=results.shards.sequence_length))
    return tables


def _cuts(results: Results) -> Iterator[tuple[str, str]]:
    """How well the vocabulary fits the text."""
    if results.tokens_per_word is not None:
        yield "tokens a word, held-out text", format_number(results.tokens_per_word, digits=2)
    counts = results.shards.counts.get("train", {}) if results.shards is not None else {}
    if counts.get("tokens"):
        share = 100 * counts.get("unknown", 0) / counts["tokens"]
        yield "unknown (%) of the training tokens", format_number(share, digits=2)


def _document_rows(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    labels = {"train": "kept for training", "heldout": "held out"}
    labels |= {"replaced": "with undecodable bytes replaced", "cut": "cut in parts for their length"}
    if "files" in counts:
        yield "files", format_value(len(counts["files"]))
    if counts.get("files_left_out"):
        yield "files left out for their endings", format_value(counts["files_left_out"])
    for name, value in counts.get("documents", {}).items():
        if name == "dropped":
            for why, number in value.items():
                yield f"dropped: {why.replace('_', ' ')}", format_value(number)
        else:
            yield f"documents {labels.get(name, name)}", format_value(value)
    for key, noun in (("characters", "characters"), ("changed", "documents")):
        for name, value in counts.get(key, {}).items():
            yield f"{noun} {labels.get(name, name)}", format_value(value)


def _example_table(counts: Mapping[str, Mapping[str, int]], *, sequence_length: int) -> Table:
    labels = {
        "tokens": "tokens of text",
        "unknown": "unknown tokens",
        "dropped": "tokens dropped",
        "rows": "examples",
        "tokens_written": "tokens in examples, with [CLS] and [SEP]",
    }
    splits = [split for split in ("train", "heldout") if split in counts]
    names = list(dict.fromkeys(name for split in splits for name in counts[split]))
    rows = [(labels.get(name, name), *(format_value(counts[split].get(name)) for split in splits)) for name in names]
    filled, unknown = [], []
    for split in splits:
        tokens = counts[split].get("tokens", 0)
        unknown.append(format_number(100.0 * counts[split].get("unknown", 0) / tokens if tokens else None, digits=2))
        room = counts[split].get("rows", 0) * sequence_length
        share = 100.0 * counts[split].get("tokens_written", 0) / room if room else None
        filled.append(format_number(share))
    rows.append(("unknown (%) of the tokens of text", *unknown))
    rows.append((f"filled (%) of {sequence_length} tokens an example", *filled))
    headings = {"train": "training", "heldout": "held out"}
    return Table(title="Examples", columns=tuple(headings[split] for split in splits), rows=tuple(rows))


def _flat_rows(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, Mapping):
            yield from _flat_rows(item, prefix=f"{name}: ")
        else:
            yield name, format_value(item)
