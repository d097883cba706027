"""Rows of task files: tab-separated, CSV, JSON lines, Parquet; each row knows its place, for error messages."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from upath import UPath

from cluster.nearest import did_you_mean
from cluster.storage import file_name, parse_json
from stages.data.compression import split_suffixes
from stages.tasks.files.reading import read_lines, read_text, require_characters

csv.field_size_limit(2**31 - 1)  # a cell may hold a whole text; the default is 131,072 characters

# The format of each ending.
FORMATS = {name: name for name in (".tsv", ".csv", ".jsonl", ".json", ".parquet")} | {".ndjson": ".jsonl"}


class Row(NamedTuple):
    """File and line, and the values of the columns that were asked for: text, or what JSON and Parquet hold."""

    place: str
    values: tuple[Any, ...]


class Rows(NamedTuple):
    """All rows of a file, and the places of broken ones, which are left out."""

    rows: list[Row]
    broken: tuple[str, ...] = ()


def file_format(path: UPath) -> str:
    """`.tsv`, `.csv`, `.jsonl`, `.json` or `.parquet`, compressed or not; any other name is read as `.tsv`."""
    return FORMATS.get(split_suffixes(file_name(str(path)))[0], ".tsv")


def read_rows(
    path: UPath, *, needed: Sequence[str], optional: Sequence[str] = (), header: Sequence[str] = (), max_broken: int = 0
) -> Rows:
    """Reads some columns of a file.

    Tab-separated files have no quoting: a quote is text. CSV files quote as RFC 4180 says.

    Args:
      path: Its suffix names the format.
      needed: The columns.
      optional: Further columns of a Parquet or JSON lines file; their values are None where there are none.
      header: Names of all columns of a tab-separated or CSV file that does not begin with them.
      max_broken: How many rows may have a different number of columns; they are left out.

    Raises:
      ValueError: A column is missing, a row has another number of columns, or there are no rows.
    """
    match file_format(path):
        case ".parquet":
            rows = Rows(_read_parquet(path, needed, optional))
        case ".jsonl" | ".json":
            rows = Rows(list(_read_json_lines(path, needed, optional)))
        case ".csv":
            rows = _select(path, _read_csv(path), needed=needed, header=header, max_broken=max_broken)
        case _:
            lines = ((number, line.split("\t")) for number, line in read_lines(path))
            rows = _select(path, lines, needed=needed, header=header, max_broken=max_broken)
    if not rows.rows:
        raise ValueError(f"{path}: no examples; expected rows of {', '.join(header or needed)}")
    return rows


def _read_csv(path: UPath) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line that it begins in: a quoted value may go over several."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{line}: not valid CSV: {error} (in line {reader.line_num}); is a quote open?"
        ) from error


def _select(
    path: UPath,
    lines: Iterable[tuple[int, list[str]]],
    *,
    needed: Sequence[str],
    header: Sequence[str],
    max_broken: int,
) -> Rows:
    lines = iter(lines)
    columns = list(header)
    if not columns:
        _, columns = next(lines, (1, []))
        if not columns:
            raise ValueError(f"{path} is empty; expected a header with {', '.join(needed)}")
        _require(f"{path}:1: the header", columns, needed)
    places = [columns.index(name) for name in needed]
    rows, broken = [], []
    for line, fields in lines:
        if len(fields) == len(columns):
            rows.append(Row(f"{path}:{line}", tuple(fields[place] for place in places)))
            continue
        broken.append(f"{path}:{line}")
        if len(broken) > max_broken:
            raise ValueError(
                f"{path}:{line}: expected {len(columns)} columns ({', '.join(columns)}), "
                f"found {len(fields)}: {' '.join(fields)[:80]!r}"
            )
    return Rows(rows, tuple(broken))


def _read_json_lines(path: UPath, needed: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    for place, value in read_objects(path):
        _require(place, list(value), needed)
        yield Row(place, tuple(value.get(name) for name in (*needed, *optional)))


def read_objects(path: UPath) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and value of every line of a JSON lines file; empty lines are left out."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        value = parse_json(line, place)
        if not isinstance(value, dict):
            raise ValueError(f"{place}: expected an object, found {type(value).__name__}")
        if "\\u" in line:
            require_characters(json.dumps(value, ensure_ascii=False), place)
        yield place, value


def _read_parquet(path: UPath, needed: Sequence[str], optional: Sequence[str]) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a Parquet file: {error}") from error
        found = parquet.schema_arrow.names
        _require(str(path), found, needed)
        wanted = [name for name in dict.fromkeys((*needed, *optional)) if name in found]
        table = parquet.read(columns=wanted)
    nothing, columns = [None] * table.num_rows, table.to_pydict()
    values = zip(*(columns.get(name, nothing) for name in (*needed, *optional)), strict=True)
    return [Row(f"{path}: row {number}", row) for number, row in enumerate(values, start=1)]


def _require(place: str, found: Sequence[str], needed: Sequence[str]) -> None:
    if missing := [name for name in needed if name not in found]:
        raise ValueError(
            f"{place} lacks {', '.join(map(repr, missing))}; "
            f"expected the columns {', '.join(needed)}; found {', '.join(found)}.{did_you_mean(missing[0], found)}"
        )
