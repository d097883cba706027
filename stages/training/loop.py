"""The training loop: steps, with logging, evaluation and checkpoints at their intervals."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from stages.context import Tracker
from stages.training.checkpoint import Checkpoints
from stages.training.metrics import MetricsLog
from stages.training.state import Batch, Sums, TrainState

logger = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Steps in all, and steps between what happens besides."""

    num_steps: int
    log: int
    evaluate: int
    checkpoint: int

    def is_due(self, interval: int, step: int) -> bool:
        """Whether what happens every `interval` steps happens after `step`: the last step always counts."""
        return step % interval == 0 or step == self.num_steps


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Where the loop's numbers go; on all processes but the first, `log` and `tracker` are None.

    Attributes:
      summarize: Metrics of summed-up sums.
      rates: Metrics of (sums of a window, its steps, its seconds, the step it ends with): throughput, learning rate.
    """

    log: MetricsLog | None
    tracker: Tracker | None
    summarize: Callable[[dict[str, np.ndarray]], dict[str, float]]
    rates: Callable[[dict[str, np.ndarray], int, float, int], dict[str, float]]

    def record(self, metrics: dict[str, float], *, step: int, split: str) -> None:
        """Keeps a row of metrics of `train` or `heldout`."""
        if self.log is not None:
            self.log.append({"step": step, "split": split} | metrics)
        if self.tracker is not None:
            prefix = "" if split == "train" else f"{split}/"
            self.tracker.metrics({prefix + name: value for name, value in metrics.items()}, step=step)


class _Window:
    """Sums since the last row, in float64 on the host."""

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self.steps = 0
        self.started = time.perf_counter()

    def add(self, sums: dict[str, np.ndarray]) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.astype(np.float64)
        self.steps += 1


def fetch(sums: Sums) -> dict[str, np.ndarray]:
    """The values on the host; waits for the device."""
    return {name: np.asarray(value) for name, value in jax.device_get(sums).items()}


def run_loop(
    state: TrainState,
    *,
    intervals: Intervals,
    train_step: Any,
    batches: Iterable[Batch],
    evaluate: Callable[[Any], dict[str, np.ndarray]],
    checkpoints: Checkpoints,
    recorder: Recorder,
    describe_batch: Callable[[int], str],
) -> TrainState:
    """Trains from `state.step` to the last step.

    Step n is dispatched before the sums of step n - 1 are fetched, so that the device has work meanwhile.

    Args:
      state: Where to go on from; its buffers are used up.
      intervals: When what happens.
      train_step: From `make_train_step`, compiled here before the clock starts.
      batches: Global batches from step `state.step` on.
      evaluate: Held-out sums of parameters.
      checkpoints: Where states are kept.
      recorder: Where numbers go.
      describe_batch: The rows of the batch of a step, for the message of a non-finite loss.

    Raises:
      NonFiniteError: With the step, its rows and the last good checkpoint. Nothing after it is saved.
    """
    window, pending, step = _Window(), None, int(state.step)

    def settle(step: int, sums: Sums) -> None:
        nonlocal window
        values = fetch(sums)
        bad = sorted(name for name, value in values.items() if not np.isfinite(value).all())
        if bad:
            raise NonFiniteError(
                f"step {step}: not finite: {', '.join(bad)}; rows of this batch: {describe_batch(step - 1)}; "
                f"last good checkpoint: {checkpoints.newest_step() or 'none'}; try a lower learning rate or float32"
            )
        window.add(values)
        if intervals.is_due(intervals.log, step):
            seconds = time.perf_counter() - window.started
            metrics = recorder.summarize(window.sums) | recorder.rates(window.sums, window.steps, seconds, step)
            recorder.record(metrics, step=step, split="train")
            if recorder.tracker is not None:
                recorder.tracker.progress(
                    step, intervals.num_steps, unit="steps", loss=metrics["loss/total"],
                    tokens_per_second=metrics["throughput/tokens_per_second"],
                )  # fmt: skip
            window = _Window()

    compiled: Callable[[TrainState, Batch], tuple[TrainState, Sums]] | None = None
    for batch in batches:
        if compiled is None:
            compiled = train_step.lower(state, batch).compile()
            window = _Window()
        state, sums = compiled(state, batch)
        step += 1
        if pending is not None:
            settle(*pending)
        pending = (step, sums)
        evaluation_due = intervals.is_due(intervals.evaluate, step)
        checkpoint_due = intervals.is_due(intervals.checkpoint, step)
        if evaluation_due or checkpoint_due:
            settle(*pending)  # before anything is saved: a checkpoint never holds a non-finite state
            pending = None
            paused = time.perf_counter()
            if evaluation_due:
                recorder.record(recorder.summarize(evaluate(state.params)), step=step, split="heldout")
            if checkpoint_due:
                if recorder.log is not None:
                    recorder.log.flush()
                checkpoints.save(state, step=step)
            window.started += time.perf_counter() - paused
    if pending is not None:
        settle(*pending)
    return state
