"""The same work on many items, spread over the cluster by Ray Data."""

import logging
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cluster.credentials import keep_out_of_logs

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    on_done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """`[function(item) for item in items]`, one CPU core an item, in whatever order cores become free.

    Items must not depend on one another, and doing one twice must do no harm: Ray repeats those of a lost worker. A
    single item is done in this process, with all its cores.

    Args:
      on_done: Is called with each result as it comes, in any order.

    Raises:
      Exception: What `function` raised, as from a single item, with a note of where. It travels as a value: what Ray
        Data 2.60 raises itself has lost its cause.
    """
    if len(items) < 2:
        done = [function(item) for item in items]
        for result in done:
            on_done(result)
        return done
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)

    def work(row: dict[str, Any]) -> dict[str, Any]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many items as cores run at once
        keep_out_of_logs()
        try:
            return {"index": row["id"], "result": pickle.dumps(function(items[row["id"]])), "error": b""}
        except Exception as error:
            error.add_note(traceback.format_exc())
            return {"index": row["id"], "result": b"", "error": _pickled(error)}

    results: dict[int, Result] = {}
    rows = ray.data.range(len(items), override_num_blocks=len(items)).map(work, num_cpus=1)
    for row in rows.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        results[row["index"]] = pickle.loads(row["result"])
        on_done(results[row["index"]])
    return [results[index] for index in range(len(items))]


def _pickled(error: Exception) -> bytes:
    """The error; one that pickle does not bring back, by its name and text."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        text = RuntimeError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            text.add_note(note)
        return pickle.dumps(text)
    return pickled
