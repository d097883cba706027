"""What becomes of raw files: what is read, what is dropped, what is said when they are wrong."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable

import pyarrow as pa
import pytest
import zstandard
from upath import UPath

from stages.data import documents
from stages.ingest import IngestConfig

DOCUMENTS = [f"Document {number} begins here.\nIts second line is number {number * 7}." for number in range(40)]
TEXT = "\n\n".join(DOCUMENTS) + "\n"
JSON_LINES = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in DOCUMENTS)


@pytest.mark.parametrize("compress", ["", ".gz", ".bz2", ".BZ2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".JSON", ".ndjson"])
def test_every_format_and_compression_gives_the_same_documents(lab, read_texts, kind: str, compress: str) -> None:
    data = (TEXT if kind == ".txt" else JSON_LINES).encode()
    packed: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".BZ2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }
    source = lab.file(f"corpus{kind}{compress}", packed[compress](data))
    assert read_texts(lab.ingest(source, heldout_fraction=0)) == DOCUMENTS


def test_parquet_gives_the_same_documents(lab, read_texts) -> None:
    source = lab.file("corpus.parquet", lab.parquet(list(DOCUMENTS)))
    assert read_texts(lab.ingest(source, heldout_fraction=0)) == DOCUMENTS


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        TEXT.replace("\n\n", "\n \t \n\n\n"),
        TEXT.rstrip("\n"),
        "\n\n" + TEXT,
    ],
    ids=["windows line ends", "byte order mark", "several blank lines", "no newline at the end", "blank start"],
)
def test_do_oddities_of_text_files_change_the_documents(lab, read_texts, text: str) -> None:
    assert read_texts(lab.ingest(lab.file("corpus.txt", text), heldout_fraction=0)) == DOCUMENTS


def test_the_text_may_be_under_another_key(lab, read_texts) -> None:
    source = lab.file("corpus.jsonl", '{"body": "one two"}\n{"body": "three"}\n')
    assert read_texts(lab.ingest(source, text_field="body", heldout_fraction=0)) == ["one two", "three"]
    with pytest.raises(ValueError, match=r"corpus.jsonl:1: no text under 'text', found the keys 'body'.*text_field"):
        lab.ingest(source)


def test_globs_and_folders_find_files_in_the_order_of_their_names(lab, read_texts) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        lab.file(f"corpus/{name}", f"text of {name}\n")
    lab.file("corpus/.hidden.txt", "never read\n")
    lab.file("corpus/notes.md", "never read\n")
    expected = ["text of a.txt", "text of b.txt"]
    assert read_texts(lab.ingest(f"{lab.folder}/corpus/*.txt", heldout_fraction=0)) == expected
    assert read_texts(lab.ingest(f"{lab.folder}/corpus", heldout_fraction=0)) == [*expected, "text of sub/c.txt"]


def test_a_file_named_twice_is_read_once(lab, read_texts, monkeypatch) -> None:
    source = lab.file("a.txt", "one\n")
    monkeypatch.chdir(lab.folder)
    sources = [source, f"{lab.folder}/*.txt", "a.txt", "./*.txt", f"file://{source}"]
    folder = lab.ingest(*sources, heldout_fraction=0, deduplicate=False)
    assert [file["path"] for file in lab.counts(folder)["files"]] == [source]


def test_brackets_in_a_name_are_no_pattern(lab, read_texts) -> None:
    lab.file("crawl1.txt", "one\n")
    source = lab.file("crawl[1].txt", "brackets\n")
    assert read_texts(lab.ingest(source, heldout_fraction=0)) == ["brackets"]


def test_sources_on_another_file_system_are_read(lab, read_texts) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/ingest-test/one.txt", b"first document\n\nsecond document\n")
    for source in ("memory://ingest-test/one.txt", "memory://ingest-test/*.txt", "memory://ingest-test"):
        assert read_texts(lab.ingest(source, heldout_fraction=0)) == ["first document", "second document"]


@pytest.mark.parametrize("missing", ["corpus/wikk*.txt", "corpus/wikki.txt"])
def test_a_source_that_matches_nothing_says_what_is_there_instead(lab, missing: str) -> None:
    lab.file("corpus/wiki.txt", "text\n")
    with pytest.raises(FileNotFoundError) as error:
        lab.ingest(f"{lab.folder}/{missing}")
    assert missing in str(error.value)
    assert f"{lab.folder}/corpus holds wiki.txt" in str(error.value)


def test_a_file_of_another_kind_is_refused_by_name(lab) -> None:
    with pytest.raises(ValueError, match=r"table.csv is no file of .txt, .jsonl, .ndjson, .json, .parquet, plain"):
        lab.ingest(lab.file("table.csv", "a,b\n"))


@pytest.mark.parametrize("text", ["", "\n \n\n", " \n"])
def test_an_empty_corpus_says_so(lab, text: str) -> None:
    with pytest.raises(ValueError, match="the corpus is empty: 1 files hold"):
        lab.ingest(lab.file("corpus.txt", text))


BROKEN = b"good one\n\nb\xc3\xa4d \xff here\nsecond line\n\nlast one\n"


@pytest.mark.parametrize(
    ("name", "pack", "where"), [("c.txt", bytes, ""), ("c.txt.gz", gzip.compress, " of the decompressed text")]
)
def test_undecodable_bytes_stop_with_file_and_offset(lab, name: str, pack, where: str) -> None:
    with pytest.raises(ValueError, match="is not valid UTF-8") as error:
        lab.ingest(lab.file(name, pack(BROKEN)))
    assert f"{name}: byte 0xff at offset {BROKEN.index(0xFF)}{where} (line 3)" in str(error.value)
    assert "ingest.errors" in str(error.value)


def test_undecodable_bytes_can_be_replaced_or_their_document_skipped(lab, read_texts) -> None:
    source = lab.file("corpus.txt", BROKEN)
    replaced = lab.ingest(source, errors=documents.Errors.REPLACE, heldout_fraction=0)
    assert read_texts(replaced) == ["good one", "bäd \ufffd here\nsecond line", "last one"]
    assert lab.counts(replaced)["changed"]["replaced"] == 1
    skipped = lab.ingest(source, errors=documents.Errors.SKIP, heldout_fraction=0)
    assert read_texts(skipped) == ["good one", "last one"]
    assert lab.counts(skipped)["documents"] == {
        "read": 3,
        "train": 2,
        "heldout": 0,
        "dropped": {"empty": 0, "too_short": 0, "undecodable": 1, "duplicate": 0},
    }


def test_undecodable_bytes_in_json_lines_and_parquet_are_found_too(lab, read_texts) -> None:
    lines = lab.file("c.jsonl", b'{"text": "fine"}\n{"text": "b\xffd"}\n')
    with pytest.raises(ValueError, match=r"c.jsonl: byte 0xff at offset 28 \(line 2\)"):
        lab.ingest(lines)
    table = lab.file("c.parquet", lab.parquet(["fine", None]).replace(b"fine", b"fi\xffe"))
    with pytest.raises(ValueError, match=r"c.parquet: byte 0xff at offset 2 of the text of row 0"):
        lab.ingest(table)
    assert read_texts(lab.ingest(lines, errors=documents.Errors.SKIP, heldout_fraction=0)) == ["fine"]


def test_half_a_surrogate_pair_in_json_is_undecodable(lab, read_texts) -> None:
    lines = lab.file("c.jsonl", b'{"text": "fine"}\n{"text": "half \\ud83d pair"}\n')
    with pytest.raises(ValueError, match=r"c.jsonl: byte 0xed at offset 5 .*line 2 \(half a surrogate pair\)"):
        lab.ingest(lines)
    assert read_texts(lab.ingest(lines, errors=documents.Errors.SKIP, heldout_fraction=0)) == ["fine"]
    replaced = lab.ingest(lines, errors=documents.Errors.REPLACE, heldout_fraction=0)
    assert read_texts(replaced) == ["fine", "half \ufffd\ufffd\ufffd pair"]


def test_utf16_is_recognised(lab) -> None:
    with pytest.raises(ValueError, match="it looks like UTF-16"):
        lab.ingest(lab.file("c.txt", TEXT.encode("utf-16")))


@pytest.mark.parametrize("compress", [".gz", ".bz2", ".xz", ".zst"])
def test_what_is_not_compressed_as_its_ending_says_is_an_error(lab, compress: str) -> None:
    with pytest.raises(ValueError, match="damaged or cut off"):
        lab.ingest(lab.file(f"c.txt{compress}", TEXT))


def test_a_json_file_of_several_lines_is_refused_with_the_way_to_leave_it_out(lab) -> None:
    lab.file("raw/info.json", json.dumps({"description": "of the corpus"}, indent=2))
    lab.file("raw/a.txt", TEXT)
    with pytest.raises(ValueError, match=r"info\.json:1: not valid JSON.*a JSON object a line; to leave it out.*glob"):
        lab.ingest(str(lab.folder / "raw"))
    assert lab.ingest(str(lab.folder / "raw/*.txt"))


def test_what_a_folder_holds_besides_is_named_and_counted(lab, caplog) -> None:
    for name in ("a.txt", "README.md", "more/wiki_00", "more/part.JSON", ".hidden"):
        lab.file(f"raw/{name}", '{"text": "a document"}\n')
    folder = lab.ingest(str(lab.folder / "raw"), heldout_fraction=0)
    counts = lab.counts(folder)
    assert [UPath(file["path"]).name for file in counts["files"]] == ["a.txt", "part.JSON"]
    assert counts["files_left_out"] == 2
    (message,) = caplog.messages
    assert "left out" in message
    assert f"2 files: {lab.folder}/raw/README.md, {lab.folder}/raw/more/wiki_00" in message


@pytest.mark.parametrize("compress", [".gz", ".bz2", ".xz", ".zst"])
def test_a_truncated_file_is_an_error_not_a_short_corpus(lab, compress: str) -> None:
    pack = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }[compress]
    data = pack("\n\n".join(f"{number} {number**5}" for number in range(20_000)).encode())
    with pytest.raises(ValueError, match="damaged or cut off"):
        lab.ingest(lab.file(f"c.txt{compress}", data[: len(data) // 2]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not valid JSON: .* column 2"),
        ("[" * 100_000, "not valid JSON: brackets inside brackets"),
        ('{"text": ' + "1" * 5000 + "}", "not valid JSON: a number of thousands of digits"),
        ("[1]", "found a list"),
        ('{"text": 3}', "is a int, expected a string"),
    ],
)
def test_a_broken_json_line_is_named(lab, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"c.jsonl:2: .*{message}"):
        lab.ingest(lab.file("c.jsonl", '{"text": "fine"}\n' + line + "\n"))


def test_a_parquet_file_without_the_column_lists_its_columns(lab) -> None:
    with pytest.raises(ValueError, match="no column 'content', found 'text'"):
        lab.ingest(lab.file("c.parquet", lab.parquet(["a"])), text_field="content")
    with pytest.raises(ValueError, match=r"column 'text' holds int64, expected strings"):
        lab.ingest(lab.file("d.parquet", lab.parquet([1], pa.int64())))


def test_duplicates_are_dropped_across_files_and_the_first_stays(lab, read_texts) -> None:
    one = lab.file("a.txt", "same\n\nonly in a\n")
    two = lab.file("b.txt", "only in b\n\nsame\n\nsame\n")
    folder = lab.ingest(one, two, heldout_fraction=0)
    assert read_texts(folder) == ["same", "only in a", "only in b"]
    assert lab.counts(folder)["documents"]["dropped"]["duplicate"] == 2
    assert len(read_texts(lab.ingest(one, two, heldout_fraction=0, deduplicate=False))) == 5


def test_short_documents_are_dropped_and_counted(lab, read_texts) -> None:
    folder = lab.ingest(lab.file("a.txt", "tiny\n\nlong enough to stay\n"), min_characters=5, heldout_fraction=0)
    assert read_texts(folder) == ["long enough to stay"]
    assert lab.counts(folder)["documents"]["dropped"]["too_short"] == 1


def test_everything_read_is_kept_or_counted_as_dropped(lab) -> None:
    text = BROKEN + b"\n\n" + TEXT.encode() + b"\n\nx\n\n" + DOCUMENTS[3].encode()
    folder = lab.ingest(
        lab.file("a.txt", text), lab.file("b.jsonl", '{"text": null}\n'), errors=documents.Errors.SKIP, min_characters=2
    )
    counts = lab.counts(folder)["documents"]
    assert counts["read"] == counts["train"] + counts["heldout"] + sum(counts["dropped"].values()) == 46
    assert counts["dropped"] == {"empty": 1, "too_short": 1, "undecodable": 1, "duplicate": 1}


def test_the_heldout_share_is_about_what_was_asked(lab) -> None:
    text = "\n\n".join(f"document number {number}" for number in range(4000))
    counts = lab.counts(lab.ingest(lab.file("a.txt", text), heldout_fraction=0.1))["documents"]
    assert 340 <= counts["heldout"] <= 460


def test_adding_a_source_moves_no_document_between_the_splits(lab, read_texts) -> None:
    one = lab.file("b.txt", TEXT)
    more = lab.file("a.txt", "\n\n".join(f"another {number}" for number in range(50)))
    before = lab.ingest(one, heldout_fraction=0.2)
    after = lab.ingest(more, one, heldout_fraction=0.2)
    assert set(read_texts(before, "heldout")) <= set(read_texts(after, "heldout"))
    assert set(read_texts(before)) <= set(read_texts(after))
    assert not set(read_texts(after)) & set(read_texts(after, "heldout"))


def test_a_tiny_corpus_holds_out_one_document(lab, read_texts) -> None:
    source = lab.file("a.txt", "one\n\ntwo\n\nthree\n")
    folder = lab.ingest(source, heldout_fraction=1e-9)
    assert len(read_texts(folder)) == 2
    assert len(read_texts(folder, "heldout")) == 1
    assert sorted(read_texts(folder) + read_texts(folder, "heldout")) == ["one", "three", "two"]
    assert lab.counts(folder)["documents"]["heldout"] == 1
    assert sum(lab.counts(folder)["characters"].values()) == len("onetwothree")


def test_a_single_document_is_not_held_out(lab, read_texts) -> None:
    assert read_texts(lab.ingest(lab.file("a.txt", "one\n"), heldout_fraction=1e-9)) == ["one"]


def test_parts_are_bounded_and_hold_everything_in_order(lab, read_texts) -> None:
    texts = [f"{number} " + "x" * 50_000 for number in range(60)]
    folder = lab.ingest(lab.file("a.txt", "\n\n".join(texts)), part_megabytes=1, heldout_fraction=0)
    parts = sorted(path.name for path in (folder / "train").iterdir())
    assert parts == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert read_texts(folder) == texts


def test_an_interrupted_run_reads_no_finished_file_again(lab, read_texts, monkeypatch) -> None:
    """Both passes: files already read, parts already finished."""
    import stages.ingest as ingest

    monkeypatch.setattr(ingest, "GROUP_BYTES", 1)
    monkeypatch.setattr(ingest, "map_items", _in_order)
    sources = tuple(lab.file(f"{name}.txt", f"text {name}\n\nboth\n\nother {name}\n") for name in "abcd")
    config = IngestConfig(sources=sources, heldout_fraction=0.3)
    whole = lab.context("ingest")
    ingest.run(config, whole)

    interrupted = lab.context("ingest")
    readings: list[str] = []
    read_documents = ingest.read_documents
    finish_part = ingest._finish_part

    def failing(allowed: int, function):
        calls = iter(range(100))

        def call(*args, **kwargs):
            if next(calls) >= allowed:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    def noting(file, **kwargs):
        readings.append(file.name)
        return read_documents(file, **kwargs)

    monkeypatch.setattr(ingest, "read_documents", failing(2, noting))
    with pytest.raises(KeyboardInterrupt):
        ingest.run(config, interrupted)
    monkeypatch.setattr(ingest, "read_documents", noting)
    monkeypatch.setattr(ingest, "_finish_part", failing(2, finish_part))
    with pytest.raises(KeyboardInterrupt):
        ingest.run(config, interrupted)
    monkeypatch.setattr(ingest, "_finish_part", finish_part)
    ingest.run(config, interrupted)
    assert readings == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert _tree(interrupted.output) == _tree(whole.output)


def _in_order(function, items, on_done=None):
    return [function(item) for item in items]


def _tree(folder: UPath) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sources": ()}, "sources is empty"),
        ({"heldout_fraction": 1.0}, "heldout_fraction is 1.0, must be at least 0 and below 1"),
        ({"min_characters": 0}, "min_characters is 0"),
        ({"part_megabytes": 0}, "part_megabytes is 0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_limits(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IngestConfig(**({"sources": ("a.txt",)} | config))


def test_duplicates_leave_the_same_bytes_whichever_pass_drops_them(lab, monkeypatch) -> None:
    """The only group drops its own; several leave it to the second pass."""
    import stages.ingest as ingest

    texts = [f"document {number % 2900} " + "word " * (number % 2900 % 97) for number in range(3000)]
    source = lab.file("a.txt", "\n\n".join(texts))
    folders = [lab.ingest(source, heldout_fraction=0.1)]
    monkeypatch.setattr(ingest, "map_items", _second_pass_drops)
    folders.append(lab.ingest(source, heldout_fraction=0.1))
    assert _tree(folders[0]) == _tree(folders[1])
    assert lab.counts(folders[0])["documents"]["dropped"]["duplicate"] == 100


def _second_pass_drops(function, items, on_done=None):
    options = {"drop": False} if "drop" in getattr(function, "keywords", {}) else {}
    return [function(item, **options) for item in items]
