"""The same work on many items, spread over the cluster by Ray Data."""

import logging
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
    single item is done in this process, with all its cores. An exception of `function` arrives as it was raised, not
    in Ray's wrapping.

    Args:
      on_done: Is called with each result as it comes, in any order.
    """
    if len(items) < 2:
        done = [function(item) for item in items]
        for result in done:
            on_done(result)
        return done
    import ray.data
    from ray.exceptions import RayError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)

    def work(row: dict[str, Any]) -> dict[str, Any]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many items as cores run at once
        return {"index": row["id"], "result": pickle.dumps(function(items[row["id"]]))}

    results: dict[int, Result] = {}
    try:
        rows = ray.data.range(len(items), override_num_blocks=len(items)).map(work, num_cpus=1)
        for row in rows.iter_rows():
            results[row["index"]] = pickle.loads(row["result"])
            on_done(results[row["index"]])
    except RayError as error:
        raise _cause(error) from error
    return [results[index] for index in range(len(items))]


def _cause(error: BaseException) -> BaseException:
    """The exception that the function raised, below Ray's."""
    from ray.exceptions import RayError

    inner = getattr(error, "cause", None) or error.__cause__
    return _cause(inner) if isinstance(error, RayError) and isinstance(inner, BaseException) else error
