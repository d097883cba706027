"""Host batches: this process's rows of each global batch, read ahead by a thread."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from stages.data.order import ExampleOrder
from stages.data.shards import ShardReader


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
    *,
    start_step: int,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
    ahead: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """One process's part of the batches of `num_steps` steps, from `start_step` on.

    Reading runs up to `ahead` batches in front of the caller; closing the iterator ends it.

    Yields:
      `ids` int32 [n, T], `length` int32 [n], `first_length` int32 [n], and of packed rows `begins` bool [n, T], with
      n = batch size / process_count.
    """
    mine = process_slice(order.batch_size, process_index=process_index, process_count=process_count)
    if order.num_rows != reader.num_rows:
        raise ValueError(f"the order is over {order.num_rows} rows, the shards hold {reader.num_rows}")
    return _prefetched(reader, order, steps=range(start_step, start_step + num_steps), mine=mine, ahead=ahead)


def _prefetched(
    reader: ShardReader, order: ExampleOrder, *, steps: range, mine: slice, ahead: int
) -> Iterator[dict[str, np.ndarray]]:
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="host-batches")
    coming: deque[Future[dict[str, np.ndarray]]] = deque()
    try:
        for step in steps:
            coming.append(pool.submit(lambda step: reader.rows(order.indices(step)[mine]), step))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
