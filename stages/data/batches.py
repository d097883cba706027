"""Host batches: this process's rows of each global batch, read ahead by a thread."""

import queue
import threading
from collections.abc import Iterator

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
      `ids` int32 [n, T], `length` int32 [n], `first_length` int32 [n] with n = batch size / process_count.
    """
    mine = process_slice(order.batch_size, process_index=process_index, process_count=process_count)
    if order.num_rows != reader.num_rows:
        raise ValueError(f"the order is over {order.num_rows} rows, the shards hold {reader.num_rows}")
    return _prefetched(reader, order, steps=range(start_step, start_step + num_steps), mine=mine, ahead=ahead)


def _prefetched(
    reader: ShardReader, order: ExampleOrder, *, steps: range, mine: slice, ahead: int
) -> Iterator[dict[str, np.ndarray]]:
    ready: queue.Queue[dict[str, np.ndarray] | BaseException | None] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: dict[str, np.ndarray] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for step in steps:
                if stop.is_set():
                    return
                put(reader.rows(order.indices(step)[mine]))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, name="host-batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
