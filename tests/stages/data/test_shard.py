"""Documents to shards: nothing lost, the same bytes every time, also after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from stages.data.builders import LongLines, Packing
from stages.data.shards import ShardReader, ids_dtype
from stages.shard import ShardConfig

ROOT = Path(__file__).parents[3]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"word{number}" for number in range(200)]
PAD, UNK, CLS, SEP, MASK = range(5)


def _text(documents: int, *, seed: int = 0) -> str:
    draw = np.random.default_rng(seed)
    return "\n\n".join(
        "\n".join(" ".join(draw.choice(WORDS, draw.integers(1, 60))) for _ in range(draw.integers(1, 9)))
        for _ in range(documents)
    )


@pytest.fixture
def folders(lab) -> tuple[UPath, UPath]:
    """Ingested text and a vocabulary that holds all of its words."""
    return lab.ingest(lab.file("a.txt", _text(80)), heldout_fraction=0.1), lab.vocab([*SPECIAL, *WORDS])


def _tree(folder: UPath) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _index(folder: UPath) -> dict:
    return json.loads((folder / "index.json").read_text())


@pytest.mark.parametrize("packing", Packing)
def test_every_token_of_the_documents_is_in_the_examples_in_its_place(lab, folders, read_texts, packing) -> None:
    ingest, vocab = folders
    folder = lab.shard(ingest, vocab, sequence_length=32, packing=packing)
    ids = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    for split in ("train", "heldout"):
        reader = ShardReader(folder, split)
        rows = reader.rows(np.arange(reader.num_rows))
        at = 0
        tokens = [ids[word] for text in read_texts(ingest, split) for word in text.split()]
        for row, length in zip(rows["ids"], rows["length"], strict=True):
            held = [token for token in row[:length].tolist() if token not in (CLS, SEP)]
            assert sorted(held) == sorted(tokens[at : at + len(held)])
            at += len(held)
        assert at == len(tokens)


def test_packed_rows_hold_next_to_no_padding(lab, folders) -> None:
    pairs, packed = (
        ShardReader(lab.shard(*folders, sequence_length=128, packing=packing), "train") for packing in Packing
    )
    assert pairs.index.counts["train"]["tokens_written"] / (pairs.num_rows * 128) < 0.9
    assert packed.index.counts["train"]["tokens_written"] / (packed.num_rows * 128) > 0.97
    assert packed.num_rows < 0.9 * pairs.num_rows


def test_rows_are_cls_first_sep_second_sep_padding(lab, folders) -> None:
    reader = ShardReader(lab.shard(*folders, sequence_length=32), "train")
    rows = reader.rows(np.arange(reader.num_rows))
    assert rows["ids"].shape == (reader.num_rows, 32)
    assert {name: values.dtype for name, values in rows.items()} == dict.fromkeys(rows, np.dtype(np.int32))
    pairs = 0
    for ids, length, first_length in zip(rows["ids"], rows["length"], rows["first_length"], strict=True):
        assert ids[0] == CLS
        assert ids[length - 1] == ids[first_length - 1] == SEP
        assert (ids[length:] == PAD).all()
        assert (ids[:length] == SEP).sum() == (1 if first_length == length else 2)
        assert not np.isin(ids, [UNK, MASK]).any()
        pairs += first_length < length
    assert pairs > reader.num_rows / 3


def test_the_index_describes_the_files(lab, folders) -> None:
    folder = lab.shard(*folders, sequence_length=32)
    index = _index(folder)
    assert index["sequence_length"] == 32
    assert index["packing"] == Packing.PAIRS
    assert index["vocab_size"] == 205
    assert index["special_ids"] == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert index["tokenizer_sha256"] == hashlib.sha256((folders[1] / "tokenizer.json").read_bytes()).hexdigest()
    assert set(_tree(folder)) == {"index.json"} | {
        one["file"] for split in ("train", "heldout") for one in index[split]
    }
    for split in ("train", "heldout"):
        for shard in index[split]:
            data = (folder / shard["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == shard["sha256"]
            table = pa.ipc.open_file(data).read_all()
            assert table.num_rows == shard["rows"]
            assert sum(table["length"].to_pylist()) == shard["tokens"]
            assert table.schema.field("ids").type == pa.list_(pa.uint16(), 32)
        assert index["counts"][split]["rows"] == sum(shard["rows"] for shard in index[split])


@pytest.mark.parametrize(("vocab_size", "dtype"), [(30_522, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_are_as_small_as_the_vocabulary_allows(vocab_size: int, dtype: str) -> None:
    assert ids_dtype(vocab_size) == np.dtype(dtype)


def test_large_vocabularies_keep_their_ids(lab) -> None:
    tokens = [*SPECIAL, *(f"word{number}" for number in range(70_000))]
    ingest = lab.ingest(lab.file("a.txt", "word69999 word1\n\nword65530 word65531\n"), heldout_fraction=0)
    reader = ShardReader(lab.shard(ingest, lab.vocab(tokens), sequence_length=8), "train")
    rows = reader.rows(np.arange(2))
    assert rows["ids"][:, 1].tolist() == [70_004, 65_535]
    assert rows["ids"][:, 2].tolist() == [6, 65_536]


def test_the_number_of_shards_follows_the_data(lab, folders, monkeypatch) -> None:
    import stages.shard as shard

    monkeypatch.setattr(shard, "map_items", lambda function, items, on_done=None: [function(item) for item in items])
    one = lab.shard(*folders, sequence_length=32)
    assert len(_index(one)["train"]) == 1
    monkeypatch.setattr(shard, "BYTES_IN_A_MEGABYTE", 1000)
    many = lab.shard(*folders, sequence_length=32, shard_megabytes=2)
    assert len(_index(many)["train"]) > 5
    readers = [ShardReader(folder, "train") for folder in (one, many)]
    rows = [reader.rows(np.arange(reader.num_rows)[::-1]) for reader in readers]
    assert all(np.array_equal(rows[0][name], rows[1][name]) for name in rows[0])


def test_two_runs_give_the_same_bytes_and_another_seed_others(lab, folders) -> None:
    runs = [_tree(lab.shard(*folders, sequence_length=32, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_truncating_drops_and_counts_splitting_does_not(lab, folders) -> None:
    dropped = {
        how: _index(lab.shard(*folders, sequence_length=16, long_lines=how))["counts"]["train"]["dropped"]
        for how in LongLines
    }
    assert dropped[LongLines.SPLIT] == 0
    assert dropped[LongLines.TRUNCATE] > 0


def test_unknown_words_are_counted(lab) -> None:
    ingest = lab.ingest(lab.file("a.txt", "word1 stranger word2\n\nword3\n"), heldout_fraction=0)
    folder = lab.shard(ingest, lab.vocab([*SPECIAL, *WORDS]), sequence_length=8, max_unknown_fraction=0.25)
    counts = _index(folder)["counts"]["train"]
    assert (counts["tokens"], counts["unknown"], counts["documents"]) == (4, 1, 2)


def test_text_that_gives_no_token_says_so(lab) -> None:
    ingest = lab.ingest(lab.file("a.txt", "\u200b\u200d\n"), heldout_fraction=0)
    with pytest.raises(ValueError, match="gave no example"):
        lab.shard(ingest, lab.vocab([*SPECIAL, *WORDS]))


def test_a_tokenizer_changed_behind_its_description_is_refused(lab, folders) -> None:
    (folders[1] / "tokenizer.json").write_text((folders[1] / "tokenizer.json").read_text() + " ")
    with pytest.raises(ValueError, match=r"tokenizer.json: sha256 is .*, info.json beside it says"):
        lab.shard(*folders)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sequence_length": 4}, "sequence_length is 4, must be from 5 to 65535"),
        ({"packing": Packing.PACKED, "long_lines": LongLines.TRUNCATE}, "long_lines is truncate, but packed rows"),
        ({"sequence_length": 70_000}, "sequence_length is 70000"),
        ({"shard_megabytes": 0}, "shard_megabytes is 0"),
        ({"max_unknown_fraction": 1.1}, "max_unknown_fraction is 1.1, must be from 0 to 1"),
    ],
)
def test_a_wrong_value_is_refused(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardConfig(**config)


def test_finished_parts_are_kept_after_an_interruption(lab, monkeypatch) -> None:
    import stages.shard as shard

    monkeypatch.setattr(shard, "map_items", lambda function, items, on_done=None: [function(item) for item in items])
    text = "\n\n".join(f"word{number % 200} " * 3000 for number in range(200))
    ingest = lab.ingest(lab.file("a.txt", text), part_megabytes=1, heldout_fraction=0, deduplicate=False)
    vocab = lab.vocab([*SPECIAL, *WORDS])
    whole = lab.shard(ingest, vocab)
    assert len(_index(whole)["train"]) > 2
    context = lab.context("shard", ingest=ingest, vocab=vocab)
    encoded, read = shard._encoded, []

    def failing(path, **kwargs):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(path.name)
        return encoded(path, **kwargs)

    monkeypatch.setattr(shard, "_encoded", failing)
    with pytest.raises(KeyboardInterrupt):
        shard.run(ShardConfig(), context)
    monkeypatch.setattr(shard, "_encoded", lambda path, **kwargs: read.append(path.name) or encoded(path, **kwargs))
    (context.output / "train" / ".shard-9.arrow.1234.tmp").write_bytes(b"half")
    shard.run(ShardConfig(), context)
    assert read == sorted(set(read))
    assert _tree(context.output) == _tree(whole)


def _with_strangers(lab, strangers: int) -> tuple[UPath, UPath]:
    """A corpus of 1,000 words, of which some are not in the vocabulary."""
    words = ["stranger"] * strangers + ["known"] * (1000 - strangers)
    return lab.ingest(lab.file("a.txt", " ".join(words)), heldout_fraction=0), lab.vocab([*SPECIAL, "known"])


def test_too_many_unknown_tokens_stop_the_stage_and_the_message_names_them(lab) -> None:
    ingest, vocab = _with_strangers(lab, 51)
    with pytest.raises(ValueError, match=r"5\.1 % of the corpus's tokens \(51 of 1,000\).*such as 'stranger'.*vocab"):
        lab.shard(ingest, vocab, sequence_length=32)
    with pytest.raises(ValueError, match=r"allow more than shard.max_unknown_fraction = 0\.05"):
        lab.shard(ingest, vocab, sequence_length=32)
    assert _index(lab.shard(ingest, vocab, sequence_length=32, max_unknown_fraction=0.051))


@pytest.mark.parametrize(("strangers", "messages"), [(10, 0), (11, 1), (50, 1)])
def test_some_unknown_tokens_are_told(lab, caplog, strangers: int, messages: int) -> None:
    lab.shard(*_with_strangers(lab, strangers), sequence_length=32)
    assert len([message for message in caplog.messages if "become [UNK]" in message]) == messages


KILLED = """
import sys
from upath import UPath
from stages.context import StageContext
from stages.shard import ShardConfig, run

if __name__ == "__main__":
    output, ingest, vocab = map(UPath, sys.argv[1:])
    output.mkdir(exist_ok=True)
    run(ShardConfig(sequence_length=32), StageContext(output=output, inputs={"ingest": ingest, "vocab": vocab}))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_then_again_is_byte_identical(lab) -> None:
    text = _text(6000)
    ingest = lab.ingest(lab.file("a.txt", text), part_megabytes=1, heldout_fraction=0.01)
    vocab = lab.vocab([*SPECIAL, *WORDS])
    whole = lab.shard(ingest, vocab, sequence_length=32)
    script = lab.file("killed.py", KILLED)
    output = UPath(lab.folder) / "killed"
    command = [sys.executable, script, str(output), str(ingest), str(vocab)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(output.glob("work/*.json")):
        assert process.poll() is None, "it ended before any part was done"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "index.json").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in output.glob("train/shard-*.arrow")}
    assert finished
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=240)
    assert _tree(output) == _tree(whole)
    kept = {name: (output / "train" / name).stat().st_mtime_ns for name in finished}
    assert sum(kept[name] == finished[name] for name in kept) >= 1


@pytest.mark.parametrize("packing", Packing)
def test_special_tokens_that_a_text_spells_out_are_text(lab, packing) -> None:
    """And packed documents begin where they do, not at an id."""
    vocab = [*SPECIAL, "[", "]", "cls", "sep", "mask", "pad", "unk", "a", "b"]
    ingest = lab.ingest(lab.file("a.txt", "a [CLS] b\n[SEP] [MASK][PAD]\n\nb [UNK] a\n\nb"), heldout_fraction=0)
    reader = ShardReader(lab.shard(ingest, lab.vocab(vocab), sequence_length=48, packing=packing), "train")
    rows = reader.rows(np.arange(reader.num_rows))
    words = [vocab[number] for number in rows["ids"][0]]
    assert words[:6] == ["[CLS]", "a", "[", "cls", "]", "b"]
    assert not np.isin(rows["ids"], [UNK, MASK]).any()
    assert (rows["ids"] == CLS).sum() == 3
    if packing is Packing.PACKED:
        assert np.flatnonzero(rows["begins"][0]).tolist() == [
            number for number, word in enumerate(words) if word == "[CLS]"
        ]
        assert rows["begins"].sum() == 3


def test_special_tokens_of_a_text_are_kept_where_the_vocabulary_is_told_to(lab) -> None:
    ingest = lab.ingest(lab.file("a.txt", "a [SEP] b"), heldout_fraction=0)
    vocab = lab.vocab([*SPECIAL, "a", "b"], split_special_tokens=False)
    assert ShardReader(lab.shard(ingest, vocab, sequence_length=8), "train").rows(np.arange(1))["ids"][0].tolist() == [
        CLS, 5, SEP, 6, SEP, PAD, PAD, PAD
    ]  # fmt: skip
