"""Fine-tuning: epochs of bucketed batches, with rows of metrics, evaluations and a check of every loss."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.tasks.base import Features
from stages.tasks.buckets import epoch_batches, num_batches
from stages.tasks.prediction import BatchShape
from stages.training.loop import NonFiniteError, fetch
from stages.training.state import Batch, Sums, TrainState


@dataclass(frozen=True, kw_only=True)
class Window:
    """What happened in the steps up to `step` since the last window."""

    step: int
    sums: dict[str, float]
    steps: int
    seconds: float

    @property
    def loss(self) -> float:
        return self.sums["loss"] / max(1.0, self.sums["targets"])


def num_steps(num_rows: int, *, batch_size: int, epochs: float) -> int:
    """Updates of so many passes over the rows, at least one."""
    return max(1, round(num_batches(num_rows, batch_size=batch_size) * epochs))


def training_rows(features: Features, *, shape: BatchShape, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of the batches, epoch after epoch, without end."""
    lengths, epoch = features.lengths, 0
    while True:
        yield from epoch_batches(lengths, buckets=shape.buckets, batch_size=shape.batch_size, seed=seed, epoch=epoch)
        epoch += 1


def train(
    state: TrainState,
    features: Features,
    *,
    steps: int,
    seed: int,
    shape: BatchShape,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Sums]],
    log_every: int,
    on_window: Callable[[Window], None],
    evaluate_every: int,
    on_evaluation: Callable[[int, Any], bool],
) -> TrainState:
    """Trains from the first step to the last, or to where an evaluation ends it.

    Step n is dispatched before the sums of n - 1 are fetched.

    Args:
      on_window: Told the sums of every `log_every` steps and of the last ones.
      on_evaluation: Given the step and the parameters every `evaluate_every` steps and at the end; True ends it.

    Raises:
      NonFiniteError: A loss or gradient is infinite or not a number; names the step and its examples.
    """
    pending: tuple[int, np.ndarray, Sums] | None = None
    sums: dict[str, float] = {}
    counted, started = 0, time.perf_counter()

    def close_window(step: int) -> None:
        nonlocal counted, started, sums
        now = time.perf_counter()
        on_window(Window(step=step, sums=sums, steps=counted, seconds=now - started))
        sums, counted, started = {}, 0, now

    def settle() -> None:
        nonlocal pending, counted, sums
        if pending is None:
            return
        step, rows, values = pending
        pending = None
        fetched = {name: float(value) for name, value in fetch(values).items()}
        bad = sorted(name for name, value in fetched.items() if not np.isfinite(value))
        if bad:
            examples = sorted(set(features.examples[rows].tolist()))
            raise NonFiniteError(
                f"step {step} of {steps}: not finite: {', '.join(bad)}; training examples of this batch: "
                f"{examples}; try a lower learning rate or float32"
            )
        sums = {name: sums.get(name, 0.0) + value for name, value in fetched.items()}
        counted += 1
        if step % log_every == 0 or step == steps:
            close_window(step)

    batches = training_rows(features, shape=shape, seed=seed)
    for step in range(1, steps + 1):
        rows = next(batches)
        seeds = np.full(shape.batch_size, seed % 2**32, np.uint32)
        state, values = train_step(state, shape.make(features, rows, seed=seeds))
        settle()
        pending = (step, rows, values)
        if step % evaluate_every == 0 or step == steps:
            settle()
            paused = time.perf_counter()
            is_over = on_evaluation(step, state.params)
            started += time.perf_counter() - paused
            if is_over:
                if counted:
                    close_window(step)
                break
    return state
