"""Batches, made ahead by a thread: this process's rows of each global batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from stages.data.order import ExampleOrder
from stages.data.shards import ShardReader

Item = TypeVar("Item")
Made = TypeVar("Made")
Rows = dict[str, np.ndarray]  # of a batch, by name


def process_slice(batch_size: int, *, process_index: int, process_count: int) -> slice:
    """The rows of a global batch that one process holds: an equal run each, in the order of the processes."""
    if batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size}, must be a multiple of the {process_count} processes that share it"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def host_batches(
    reader: ShardReader,
    order: ExampleOrder,
    place: Callable[[Rows], Made],
    *,
    start_step: int,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Made]:
    """One process's part of the batches of `num_steps` steps, from `start_step` on, read ahead of the caller.

    Args:
      place: Puts a batch where it is used, likewise ahead. It is given `ids` int32 [n, T], `length` int32 [n],
        `first_length` int32 [n], and of packed rows `begins` bool [n, T], with n = batch size / process_count.
    """
    mine = process_slice(order.batch_size, process_index=process_index, process_count=process_count)
    if order.num_rows != reader.num_rows:
        raise ValueError(f"the order is over {order.num_rows} rows, the shards hold {reader.num_rows}")
    steps = range(start_step, start_step + num_steps)
    return made_ahead(lambda step: place(reader.rows(order.indices(step)[mine])), steps)


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item], *, ahead: int = 4) -> Iterator[Made]:
    """What `make` makes of each item, by a thread that runs up to `ahead` in front; closing the iterator ends it."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    coming: deque[Future[Made]] = deque()
    try:
        for item in items:
            coming.append(pool.submit(make, item))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
