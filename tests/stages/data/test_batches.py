"""Reading shards: by row, in batches, from anywhere, with clear words where something is wrong."""

import hashlib
import json
import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from upath import UPath

from stages.data.batches import host_batches, process_slice
from stages.data.builders import Packing
from stages.data.order import ExampleOrder
from stages.data.rows import Layout, Rows
from stages.data.shard_index import Shard, ShardIndex
from stages.data.shards import ShardReader, write_shard

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
LAYOUT = Layout(sequence_length=8, special_ids=SPECIAL_IDS, dtype=np.dtype(np.uint16))


def _write(folder: UPath, *, shards: tuple[int, ...] = (5, 1, 7), heldout: tuple[int, ...] = (3,)) -> None:
    """Shards whose row n begins with the token 10 + n."""
    written: dict[str, list[Shard]] = {"train": [], "heldout": []}
    for split, sizes in (("train", shards), ("heldout", heldout)):
        number = 10
        for at, size in enumerate(sizes):
            segments = [([number + row], [9] * (row % 3)) for row in range(size)]
            number += size
            rows = Rows.of(segments, layout=LAYOUT)
            written[split].append(write_shard(folder, file=f"{split}/shard-{at}.arrow", rows=rows))
    ShardIndex(
        sequence_length=8,
        vocab_size=100,
        packing=Packing.PAIRS,
        tokenizer_sha256="ab",
        special_ids=SPECIAL_IDS,
        counts={},
        train=tuple(written["train"]),
        heldout=tuple(written["heldout"]),
    ).write(folder)


@pytest.fixture
def folder(tmp_path) -> UPath:
    _write(UPath(tmp_path))
    return UPath(tmp_path)


def test_rows_come_in_the_order_asked_from_whatever_shard(folder: UPath) -> None:
    reader = ShardReader(folder, "train")
    assert (reader.num_rows, reader.sequence_length, reader.index.vocab_size) == (13, 8, 100)
    rows = reader.rows(np.array([12, 0, 5, 6, 4, 0]))
    assert rows["ids"][:, 1].tolist() == [22, 10, 15, 16, 14, 10]
    assert rows["ids"][0].tolist() == [2, 22, 3, 0, 0, 0, 0, 0]
    assert rows["ids"][3].tolist() == [2, 16, 3, 0, 0, 0, 0, 0]
    assert rows["ids"][4].tolist() == [2, 14, 3, 9, 3, 0, 0, 0]
    assert rows["length"].tolist() == [3, 3, 3, 3, 5, 3]
    assert rows["first_length"].tolist() == [3] * 6


@pytest.mark.parametrize("row", [-1, 13])
def test_a_row_that_is_not_there_is_an_error(folder: UPath, row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of 13"):
        ShardReader(folder, "train").rows(np.array([3, row]))


def test_remote_shards_are_copied_once_and_read_alike(folder: UPath, tmp_path) -> None:
    remote = UPath("memory://batches-test")
    _write(remote)
    cache = tmp_path / "cache"
    expected = ShardReader(folder, "train").rows(np.arange(13))
    for _ in range(2):
        rows = ShardReader(remote, "train", cache=cache).rows(np.arange(13))
        assert all(np.array_equal(rows[name], expected[name]) for name in rows)
    assert len(list(cache.iterdir())) == 3
    for path in (remote / "train").iterdir():
        path.unlink()
    assert ShardReader(remote, "train", cache=cache).rows(np.arange(13))["ids"][12, 1] == 22


def test_a_remote_shard_that_arrives_damaged_is_refused(tmp_path) -> None:
    remote = UPath("memory://batches-damaged")
    _write(remote)
    (remote / "train" / "shard-1.arrow").write_bytes(b"ARROW1 nonsense")
    with pytest.raises(ValueError, match=r"shard-1.arrow: damaged: its sha256 is .* the index says .*--rerun shard"):
        ShardReader(remote, "train", cache=tmp_path / "cache").rows(np.arange(13))


def test_a_damaged_or_foreign_shard_is_named(folder: UPath) -> None:
    path = folder / "train" / "shard-2.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"shard-2.arrow: damaged"):
        ShardReader(folder, "train").rows(np.arange(13))
    path.write_bytes((folder / "train" / "shard-0.arrow").read_bytes())
    with pytest.raises(ValueError, match=r"shard-2.arrow: damaged: its sha256 is .* the index says .*--rerun shard"):
        ShardReader(folder, "train").rows(np.arange(13))


def test_a_hundred_flipped_bits_in_a_shard_are_each_named(folder: UPath) -> None:
    path, generator = folder / "train" / "shard-1.arrow", random.Random(0)
    whole = path.read_bytes()
    for _ in range(100):
        data = bytearray(whole)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"shard-1.arrow: damaged: its sha256"):
            ShardReader(folder, "train").rows(np.arange(13))
    path.write_bytes(whole)
    assert len(ShardReader(folder, "train").rows(np.arange(13))["ids"]) == 13


def test_a_hundred_flipped_bits_in_an_index_are_noticed_or_harmless(folder: UPath) -> None:
    path, generator = folder / "index.json", random.Random(0)
    whole, index, noticed = path.read_bytes(), ShardIndex.read(folder), 0
    for _ in range(100):
        data = bytearray(whole)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            assert ShardIndex.read(folder) == index
        except ValueError as error:
            noticed += 1
            assert str(path) in str(error)  # noqa: PT017 - white space may change
    assert noticed > 50


def test_an_id_beyond_the_vocabulary_is_named(folder: UPath) -> None:
    replace(ShardIndex.read(folder), vocab_size=22).write(folder)
    with pytest.raises(ValueError, match=r"shard-2.arrow: has the token id 22, .* vocabulary has 22 tokens"):
        ShardReader(folder, "train").rows(np.arange(13))


def test_an_empty_split_says_what_to_change(tmp_path) -> None:
    _write(UPath(tmp_path), heldout=())
    with pytest.raises(ValueError, match=r"split 'heldout' has no examples; raise ingest.heldout_fraction"):
        ShardReader(UPath(tmp_path), "heldout")


def test_a_folder_without_an_index_is_not_finished(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index.json does not exist: the shard stage has not finished"):
        ShardReader(UPath(tmp_path), "train")


def test_an_index_is_read_as_it_was_written_and_its_hash_is_that_of_its_json(folder: UPath) -> None:
    """Checkpoints keep this hash: a change here ends every run that was interrupted."""
    index = ShardIndex.read(folder)
    assert (index.packing, [shard.rows for shard in index.train]) == (Packing.PAIRS, [5, 1, 7])
    value = json.loads((folder / "index.json").read_text())
    assert value.pop("hash") == index.hash
    text = json.dumps(value, sort_keys=True)
    assert index.hash == hashlib.sha256(text.encode()).hexdigest()
    index.write(folder)
    assert ShardIndex.read(folder) == index
    _write(folder, shards=(5, 1, 8))
    assert ShardIndex.read(folder).hash != index.hash


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"packing": None}, "index.json lacks packing: "),
        ({"strange": 1}, "index.json has strange: "),
        ({"train": [{"file": "a", "rows": 1, "tokens": 2}]}, r"index.json: train\[0\] lacks sha256: "),
    ],
)
def test_an_index_with_other_fields_is_refused_with_what_to_do(folder: UPath, change: dict, words: str) -> None:
    value = json.loads((folder / "index.json").read_text()) | change
    kept = {name: entry for name, entry in value.items() if entry is not None}
    (folder / "index.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=f"{words}.* --rerun shard"):
        ShardReader(folder, "train")


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_any_number_of_processes_sees_the_same_global_batches(folder: UPath, process_count: int) -> None:
    reader = ShardReader(folder, "train")
    order = ExampleOrder(reader.num_rows, 4, seed=0)
    parts = [
        list(
            host_batches(
                reader, order, dict, start_step=0, num_steps=9, process_index=index, process_count=process_count
            )
        )
        for index in range(process_count)
    ]
    assert all(len(part) == 9 for part in parts)
    for step in range(9):
        ids = np.concatenate([part[step]["ids"] for part in parts])
        assert np.array_equal(ids, reader.rows(order.indices(step))["ids"])


def test_a_resumed_run_reads_on_where_it_stopped(folder: UPath) -> None:
    reader = ShardReader(folder, "train")
    order = ExampleOrder(reader.num_rows, 4, seed=0)
    whole = [batch["ids"] for batch in host_batches(reader, order, dict, start_step=0, num_steps=10)]
    rest = [batch["ids"] for batch in host_batches(reader, order, dict, start_step=7, num_steps=3)]
    assert np.array_equal(whole[7:], rest)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 10, must be a multiple of the 4 processes"):
        process_slice(10, process_index=0, process_count=4)


def test_an_order_over_other_rows_is_refused(folder: UPath) -> None:
    with pytest.raises(ValueError, match="the order is over 20 rows, the shards hold 13"):
        host_batches(ShardReader(folder, "train"), ExampleOrder(20, 4, seed=0), dict, start_step=0, num_steps=1)


def test_an_error_while_reading_ahead_reaches_the_caller(folder: UPath) -> None:
    reader = ShardReader(folder, "train")
    (folder / "train" / "shard-2.arrow").unlink()
    with pytest.raises(FileNotFoundError):
        list(host_batches(reader, ExampleOrder(13, 4, seed=0), dict, start_step=0, num_steps=10))


def test_leaving_early_ends_the_reading_thread(folder: UPath) -> None:
    reader = ShardReader(folder, "train")
    batches = host_batches(reader, ExampleOrder(13, 4, seed=0), dict, start_step=0, num_steps=10**9)
    next(batches)
    batches.close()
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("host-batches") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
