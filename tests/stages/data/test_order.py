"""The order of examples: every row once an epoch, any step at once."""

import time

import numpy as np
import pytest

from stages.data.order import ExampleOrder


@pytest.mark.parametrize(
    ("num_rows", "batch_size"),
    # A batch is never larger than the corpus.
    [(rows, size) for rows in (1, 2, 3, 7, 64, 65, 1000, 4097) for size in (1, 3, 64) if size <= rows],
)
def test_every_row_comes_once_an_epoch(num_rows: int, batch_size: int) -> None:
    """Also where batches straddle the end of an epoch."""
    order = ExampleOrder(num_rows, batch_size, seed=3)
    steps = -(-3 * num_rows // batch_size)
    sequence = np.concatenate([order.indices(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(sequence[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


def test_epochs_and_seeds_have_different_orders() -> None:
    one, other = ExampleOrder(1000, 1000, seed=0), ExampleOrder(1000, 1000, seed=1)
    orders = [one.indices(0), one.indices(1), other.indices(0), np.arange(1000)]
    for number, first in enumerate(orders):
        for second in orders[:number]:
            assert np.mean(first == second) < 0.01


def test_the_order_looks_random() -> None:
    """Neighbours are unrelated, and each place holds each part of the rows about equally often."""
    order = ExampleOrder(10_007, 10_007, seed=5)
    rows = order.indices(0)
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.04
    assert abs(np.corrcoef(np.arange(len(rows)), rows)[0, 1]) < 0.04
    counts = np.bincount(rows[:2000] * 20 // 10_007, minlength=20)
    assert counts.min() > 60
    assert counts.max() < 145


def test_a_step_is_a_pure_function_of_the_seed_and_its_number() -> None:
    order = ExampleOrder(1000, 32, seed=0)
    forward = [order.indices(step) for step in range(100)]
    again = ExampleOrder(1000, 32, seed=0)
    for step in (99, 0, 57):
        assert np.array_equal(again.indices(step), forward[step])


def test_the_order_stays_what_it_was() -> None:
    """A changed order would silently give every resumed run other examples."""
    assert ExampleOrder(1000, 8, seed=7).indices(11).tolist() == PINNED


PINNED = [860, 258, 329, 858, 942, 400, 358, 730]


def test_any_step_of_a_huge_corpus_is_found_at_once() -> None:
    order = ExampleOrder(10_000_000_000, 2048, seed=0)
    begin = time.perf_counter()
    rows = order.indices(10**9)
    assert time.perf_counter() - begin < 1
    assert len(set(rows.tolist())) == 2048
    assert rows.max() > 2**32


@pytest.mark.parametrize(
    ("num_rows", "message"), [(0, "0 examples, nothing to order"), (31, "batch_size is 32 and there are 31")]
)
def test_too_few_rows_are_refused_with_the_numbers(num_rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExampleOrder(num_rows, 32, seed=0)
