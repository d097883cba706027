"""The training loop: steps, with logging, evaluation and checkpoints at their intervals."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import numpy as np
from jax.experimental.multihost_utils import reached_preemption_sync_point

from stages.context import Tracker
from stages.training.checkpoint import Checkpoints
from stages.training.metrics import MetricsLog
from stages.training.state import Batch, Sums, TrainState

logger = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is infinite or not a number."""


class PreemptedError(RuntimeError):
    """A process was told to end (SIGTERM). The state is saved, and a new try goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Steps in all, steps between what happens besides, and further steps after which a checkpoint is written."""

    num_steps: int
    log: int
    evaluate: int
    checkpoint: int
    milestones: frozenset[int] = frozenset()

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


@dataclass(kw_only=True)
class Window:
    """Sums since the last row, in float64 on the host.

    A checkpoint keeps them, so that a resumed run writes the row that it cuts as if it had not.

    Attributes:
      sums: By name.
      steps: How many steps they are of.
      seconds: What these took until the clock was last stopped.
      started: When it was last started.
    """

    sums: dict[str, np.ndarray] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads back what `to_json` gave, bit for bit; nothing gives an empty window."""
        if not values:
            return cls()
        sums = {name: np.asarray(value, np.float64) for name, value in values["sums"].items()}
        return cls(sums=sums, steps=values["steps"], seconds=values["seconds"])

    def to_json(self) -> dict[str, Any]:
        return {
            "sums": {name: np.asarray(value).tolist() for name, value in self.sums.items()},
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def start_clock(self) -> None:
        self.started = time.perf_counter()

    def stop_clock(self) -> None:
        self.seconds = self.elapsed()

    def elapsed(self) -> float:
        """Seconds that the steps took, while the clock runs."""
        return self.seconds + time.perf_counter() - self.started

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
    window: Window,
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
      window: Sums of the steps before it that are not in a row yet.
      intervals: When what happens.
      train_step: From `make_train_step`, compiled here before the clock starts.
      batches: Global batches from step `state.step` on.
      evaluate: Held-out sums of parameters.
      checkpoints: Where states are kept.
      recorder: Where numbers go.
      describe_batch: The rows of the batch of a step, for the message of a non-finite loss.

    Raises:
      NonFiniteError: With the step, its rows and the last good checkpoint. Nothing after it is saved.
      PreemptedError: A process got SIGTERM. All have then stopped after the same step and saved it.
    """
    pending, step = None, int(state.step)

    def settle(step: int, sums: Sums) -> None:
        nonlocal window
        values = fetch(sums)
        bad = sorted(name for name, value in values.items() if not np.isfinite(value).all())
        if bad:
            checkpoints.wait()  # one that is still being written is good, and the newest
            raise NonFiniteError(
                f"step {step}: not finite: {', '.join(bad)}; rows of this batch: {describe_batch(step - 1)}; "
                f"last good checkpoint: {checkpoints.newest_step() or 'none'}; try a lower learning rate or float32"
            )
        window.add(values)
        if intervals.is_due(intervals.log, step):
            rates = recorder.rates(window.sums, window.steps, window.elapsed(), step)
            metrics = recorder.summarize(window.sums) | rates
            recorder.record(metrics, step=step, split="train")
            if recorder.tracker is not None:
                recorder.tracker.progress(
                    step, intervals.num_steps, unit="steps", loss=metrics["loss/total"],
                    tokens_per_second=metrics["throughput/tokens_per_second"],
                )  # fmt: skip
            window = Window()

    compiled: Callable[[TrainState, Batch], tuple[TrainState, Sums]] | None = None
    for batch in batches:
        if compiled is None:
            compiled = train_step.lower(state, batch).compile()
            window.start_clock()
        state, sums = compiled(state, batch)
        step += 1
        if pending is not None:
            settle(*pending)
        pending = (step, sums)
        evaluation_due = intervals.is_due(intervals.evaluate, step)
        preempted = reached_preemption_sync_point(step)
        checkpoint_due = intervals.is_due(intervals.checkpoint, step) or step in intervals.milestones or preempted
        if evaluation_due or checkpoint_due:
            settle(*pending)  # before anything is saved: a checkpoint never holds a non-finite state
            pending = None
            window.stop_clock()
            if evaluation_due:
                recorder.record(recorder.summarize(evaluate(state.params)), step=step, split="heldout")
            if checkpoint_due:
                if recorder.log is not None:
                    recorder.log.flush()
                checkpoints.save(state, step=step, window=window.to_json())
            if preempted and step < intervals.num_steps:
                checkpoints.wait()
                raise PreemptedError(f"a process was told to end; all saved step {step} of {intervals.num_steps}")
            window.start_clock()
    if pending is not None:
        settle(*pending)
    return state
