"""Rows of every kind of file, and what a wrong one is told."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from upath import UPath

from stages.tasks.files.reading import find_file, find_files, with_endings
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


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".BZ2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.tsv", "text\tlabel\na\t0\n"),
        ("Train.CSV", "text,label\na,0\n"),
        ("train.jsonl", '{"text": "a", "label": "0"}\n'),
        ("train.NDJSON", '{"text": "a", "label": "0"}\n'),
        ("train.json", '{"text": "a", "label": "0"}\n'),
    ],
)
def test_every_format_is_found_and_read_however_it_is_compressed(
    tmp_path: Path, name: str, text: str, compression: str
) -> None:
    path = UPath(tmp_path / f"{name}{compression}")
    path.write_bytes(PACKED[compression](text.encode()))
    patterns = with_endings(["train"], (".tsv", ".csv", ".jsonl", ".ndjson", ".json"))
    (found,) = find_files(UPath(tmp_path), patterns=patterns, override=None, what="train_file")
    assert [row.values for row in read_rows(found, needed=("text", "label")).rows] == [("a", "0")]
    path.write_bytes(path.read_bytes()[:-9] if compression else b"text,label\tb")
    with pytest.raises(ValueError, match="damaged or cut off" if compression else f"{name}:1"):
        read_rows(found, needed=("text", "label"))


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv.gz"])
@pytest.mark.parametrize("mark", ["", "-9f86d081884c7d65"])
def test_all_parts_of_a_split_are_found_in_order(write: Write, ending: str, mark: str) -> None:
    names = [f"train-{number:05d}-of-00003{mark}{ending}" for number in range(3)]
    for name in (names[2], names[0], names[1]):
        folder = write(name, "").parent
    write(f"validation-00000-of-00001{mark}{ending}", "")
    patterns = with_endings(["train"], (".csv", ".jsonl", ".parquet"))

    def find() -> list[str]:
        return [path.name for path in find_files(folder, patterns=patterns, override=None, what="train_file")]

    assert find() == names
    (folder / names[1]).unlink()
    with pytest.raises(ValueError, match="2 of 3 parts: part 1 is missing; fetch it, or set train_file"):
        find()
    (folder / names[2]).unlink()
    with pytest.raises(ValueError, match=r"which is 1 of 3 parts: part 1 is missing"):
        find()


def test_parts_of_two_sets_and_parts_beside_the_whole_are_refused(write: Write) -> None:
    def find(folder: UPath) -> object:
        return find_files(folder, patterns=with_endings(["train"], (".csv",)), override=None, what="train_file")

    folder = write("train-00000-of-00001.csv", "").parent
    write("train-00000-of-00002.csv", "")
    with pytest.raises(ValueError, match=r"holds 2 files like train-\*-of-\*\.csv: .*; set train_file"):
        find(folder)
    (folder / "train-00000-of-00002.csv").unlink()
    write("train.csv", "")
    with pytest.raises(ValueError, match=r"holds train\.csv and train-00000-of-00001\.csv; set train_file"):
        find(folder)


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
