"""Answers of a model to rows of features, batch by batch: the one way in which anything here predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from cluster.distributed import global_batch
from stages.data.batches import process_slice
from stages.tasks.base import Features
from stages.tasks.buckets import make_batch, sorted_batches
from stages.training.state import Batch, Params

EVAL_BATCH_SIZE = 64

Predict = Callable[[Params, Batch], jax.Array]  # the logits of a batch


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """Shapes of batches: rows, the lengths they may be padded to, what fills them up, and the devices they lie on.

    Without a mesh that is this process's one device.
    """

    batch_size: int
    buckets: tuple[int, ...]
    pad: int
    mesh: Mesh | None = None

    def make(self, features: Features, rows: np.ndarray) -> Batch:
        """The batch of these rows, on the devices."""
        batch = make_batch(features, rows, buckets=self.buckets, batch_size=self.batch_size, pad=self.pad)
        if self.mesh is None:
            return jax.device_put(batch)
        mine = process_slice(self.batch_size, process_index=jax.process_index(), process_count=jax.process_count())
        return global_batch(self.mesh, {name: values[mine] for name, values in batch.items()})


def predict_rows(params: Params, features: Features, *, shape: BatchShape, predict: Predict) -> Sequence[np.ndarray]:
    """Logits of every row, in the order of the rows: [C], or [T, C] without those of padding.

    A batch's logits are fetched after the next batch is dispatched.
    """
    found: list[np.ndarray] = [np.empty(0)] * features.num_rows

    def collect(rows: np.ndarray, logits: jax.Array) -> None:
        for row, value in zip(rows, np.asarray(logits), strict=False):  # the batch may be filled up with further rows
            found[row] = value if value.ndim == 1 else value[: len(features.ids[row])].copy()

    waiting: tuple[np.ndarray, jax.Array] | None = None
    for rows in sorted_batches(features.lengths, batch_size=shape.batch_size):
        logits = predict(params, shape.make(features, rows))
        if waiting is not None:
            collect(*waiting)
        waiting = (rows, logits)
    if waiting is not None:
        collect(*waiting)
    return found
