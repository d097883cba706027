"""Batches of like lengths: every row once, few shapes, the same order for the same seed."""

import numpy as np
import pytest

from stages.electra.config import IGNORED
from stages.tasks.base import Features
from stages.tasks.buckets import bucket_lengths, epoch_batches, make_batch, num_batches, sorted_batches

BUCKETS = (32, 64, 128)


def _lengths(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 129, count).astype(np.int32)


@pytest.mark.parametrize("count", [1, 7, 8, 100, 1001])
def test_an_epoch_has_every_row_once_in_full_batches_but_one(count: int) -> None:
    batches = epoch_batches(_lengths(count), buckets=BUCKETS, batch_size=8, seed=0, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert len(batches) == num_batches(count, batch_size=8)
    assert sum(len(batch) < 8 for batch in batches) <= 1


def test_the_order_follows_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        rows = epoch_batches(_lengths(64), buckets=BUCKETS, batch_size=8, seed=seed, epoch=epoch)
        return np.concatenate(rows).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_rows_of_a_batch_share_a_bucket_but_for_the_left_over() -> None:
    lengths = _lengths(1000)
    batches = epoch_batches(lengths, buckets=BUCKETS, batch_size=16, seed=3, epoch=0)
    mixed = sum(len(set(np.searchsorted(BUCKETS, lengths[batch]))) > 1 for batch in batches)
    assert mixed <= len(BUCKETS)


def test_a_length_is_used_where_it_saves_more_than_its_compilation() -> None:
    few, many = np.array([20] * 50 + [128] * 50), np.array([20] * 5000 + [128] * 5000)
    assert bucket_lengths(few, max_length=128) == (128,)
    assert bucket_lengths(few, max_length=128, epochs=100) == (24, 128)
    assert bucket_lengths(many, max_length=128) == (24, 128)
    assert bucket_lengths(np.full(10_000, 20), max_length=128) == (24,)
    assert bucket_lengths(np.full(3, 50), max_length=50) == (50,)


def test_every_length_has_a_bucket() -> None:
    for longest in range(1, 300):
        buckets = bucket_lengths(np.arange(1, longest + 1), max_length=300, epochs=100)
        assert list(buckets) == sorted(set(buckets))
        assert longest <= buckets[-1] <= 300


def test_a_short_batch_is_filled_with_rows_of_no_weight() -> None:
    features = Features(
        ids=[np.arange(1, 4, dtype=np.int32), np.arange(1, 6, dtype=np.int32)],
        first_length=np.array([3, 2], np.int32),
        examples=np.arange(2),
        labels={"label": np.array([1, 0], np.int32), "labels": [np.ones(3, np.int32), np.ones(5, np.int32)]},
    )
    batch = make_batch(features, np.array([1]), buckets=(4, 8), batch_size=3, pad=9)
    assert batch["ids"].tolist() == [[1, 2, 3, 4, 5, 9, 9, 9]] * 3
    assert batch["weight"].tolist() == [1.0, 0.0, 0.0]
    assert batch["length"].tolist() == [5, 5, 5]
    assert batch["label"].tolist() == [0, 0, 0]
    assert batch["labels"][0].tolist() == [1] * 5 + [IGNORED] * 3


def test_inference_goes_from_long_to_short() -> None:
    batches = sorted_batches(np.array([3, 9, 5, 9, 1]), batch_size=2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0], [4]]
