"""Rows of every kind of file, and what a wrong one is told."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from stages.tasks.files.reading import find_file
from stages.tasks.files.tables import read_rows

Write = Callable[[str, str], UPath]
ROWS = [{"text": 'He said "no",\tthen\nleft', "label": 1}, {"text": "", "label": 0}]


def _values(path: UPath, **options: Any) -> list[tuple[Any, ...]]:
    return [row.values for row in read_rows(path, needed=("label", "text"), **options).rows]


def test_the_same_rows_from_json_lines_and_parquet(write: Write, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    expected = [(row["label"], row["text"]) for row in ROWS]
    assert _values(write("x.jsonl", f"{lines}\n\n")) == expected
    assert _values(UPath(tmp_path / "x.jsonl.gz")) == expected
    assert _values(UPath(tmp_path / "x.parquet")) == expected


def test_csv_has_quotes_and_tab_separated_files_have_none(write: Write) -> None:
    csv_text = 'text,label\n"He said ""no"",\nthen left",1\n\nplain,0\n'
    assert _values(write("x.csv", csv_text)) == [("1", 'He said "no",\nthen left'), ("0", "plain")]
    assert _values(write("x.tsv", 'text\tlabel\n"He said\t1\n')) == [("1", '"He said')]


def test_a_file_without_header_is_read_by_the_columns_it_is_said_to_have(write: Write) -> None:
    assert _values(write("x.csv", "a,1\nb,0\n"), header=("text", "label")) == [("1", "a"), ("0", "b")]


def test_known_broken_rows_are_left_out_and_one_more_is_an_error(write: Write) -> None:
    path = write("x.tsv", "text\tlabel\na\t1\nbroken\nb\t0\nbroken\ttwice\there\n")
    found = read_rows(path, needed=("text",), max_broken=2)
    assert [row.values for row in found.rows] == [("a",), ("b",)]
    assert found.broken == (f"{path}:3", f"{path}:5")
    with pytest.raises(ValueError, match=r"x.tsv:5: expected 2 columns \(text, label\), found 3"):
        read_rows(path, needed=("text",), max_broken=1)


def test_a_file_in_utf_16_is_named_as_such(tmp_path: Path) -> None:
    path = UPath(tmp_path / "x.csv")
    path.write_bytes("text,label\na,0\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"x.csv:1: the file is UTF-16, not UTF-8; convert the file"):
        read_rows(path, needed=("text", "label"))


def test_two_files_of_one_name_are_refused(write: Write) -> None:
    folder = write("train.csv", "").parent
    write("train.csv.gz", "")
    patterns = ("train.tsv", "train.csv", "train.csv.gz")
    assert find_file(folder, patterns=patterns, override=None, what="train_file").name == "train.csv"
    write("train.tsv", "")
    with pytest.raises(ValueError, match=r"holds train.tsv and train.csv, train.csv.gz; set train_file to the one"):
        find_file(folder, patterns=patterns, override=None, what="train_file")
    assert find_file(folder, patterns=patterns, override="train.csv", what="train_file").name == "train.csv"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"text": "a", "label": 0}\n{"text": "a"}\n', r"x.jsonl:2 lacks 'label'; .*found text"),
        ("x.jsonl", '{"text": "a", "label": 0}\n{"text"\n', "x.jsonl:2: not valid JSON"),
        ("x.jsonl", "[1]\n", "x.jsonl:1: expected an object, found list"),
        ("x.jsonl", "\n", "x.jsonl: no examples"),
        ("x.csv", "text,label\na,0\na,0,1\n", "x.csv:3: expected 2 columns .* found 3"),
        ("x.csv", 'text,label\n"a"b,0\n', "x.csv:2: not valid CSV"),
        ("x.csv", "body,label\n", r"x.csv:1: the header lacks 'text'; .*found body, label"),
        ("x.csv", "texts,label\n", r"found texts, label. Did you mean `texts`\?"),
        ("x.csv", "", "x.csv is empty; expected a header with text, label"),
        ("x.csv", 'text,label\na,0\n"b\nc,0\nd,1\n', r"x.csv:3: not valid CSV: .* \(in line 5\); is a quote open"),
        ("x.csv", 'text,label\n"a\nb",0\nc\n', r"x.csv:4: expected 2 columns"),
        ("x.parquet", "text", "x.parquet is not a Parquet file"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rows(write(name, text), needed=("text", "label"))
