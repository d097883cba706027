"""Whatever a file holds, a bounded part of it is in memory: long texts are cut, rows that cannot be cut refused."""

import json

import pytest
import zstandard

from stages.data import documents


def test_a_file_without_blank_lines_is_cut_into_documents(lab, read_texts, monkeypatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 100)
    lines = [f"line number {number} of one long file" for number in range(50)]
    folder = lab.ingest(lab.file("a.txt", "\n".join(lines)), heldout_fraction=0)
    assert "\n".join(read_texts(folder)).split("\n") == lines
    assert max(map(len, read_texts(folder))) <= 100
    assert lab.counts(folder)["changed"]["cut"] == len(read_texts(folder)) - 1


@pytest.mark.parametrize("compress", ["", ".zst"])
@pytest.mark.parametrize(
    "line", ["x" * 1003, "é€\U0001f600" * 111, "words of " * 111], ids=["letters", "wide", "words"]
)
def test_a_line_without_end_is_cut_between_characters_and_none_is_lost(
    lab, read_texts, monkeypatch, line: str, compress: str
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 100)
    data = f"before\n\n{line}\nits next line\n\nafter".encode()
    data = zstandard.ZstdCompressor().compress(data) if compress else data
    folder = lab.ingest(lab.file(f"a.txt{compress}", data), heldout_fraction=0, deduplicate=False)
    first, *pieces, last = read_texts(folder)
    assert (first, last) == ("before", "after")
    assert max(len(piece.encode()) for piece in pieces) <= 100
    squeezed = "".join("".join(pieces).split())
    assert squeezed == "".join(f"{line}its next line".split())
    assert lab.counts(folder)["changed"]["cut"] == len(pieces) - 1


def test_a_long_text_of_a_json_line_and_of_parquet_is_cut_too(lab, read_texts, monkeypatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 100)
    text = "x" * 1003
    for source in (lab.file("a.jsonl", json.dumps({"text": text}) + "\n"), lab.file("a.parquet", lab.parquet([text]))):
        pieces = read_texts(lab.ingest(source, heldout_fraction=0, deduplicate=False))
        assert "".join(pieces) == text
        assert max(map(len, pieces)) <= 100


def test_a_row_that_cannot_be_cut_is_refused_before_it_fills_the_memory(lab, monkeypatch) -> None:
    monkeypatch.setattr(documents, "MAX_ROW_BYTES", 1 << 20)
    line = json.dumps({"text": "x" * (1 << 20)}) + "\n"
    with pytest.raises(ValueError, match=r"a.jsonl:2: a line of 1 MiB or more; a document a line is expected"):
        lab.ingest(lab.file("a.jsonl", '{"text": "short"}\n' + line))
    with pytest.raises(ValueError, match=r"a.parquet: row group 0 has texts of more than 1 MiB each"):
        lab.ingest(lab.file("a.parquet", lab.parquet(["x" * (3 << 20), "short"])))
