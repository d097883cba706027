"""The one training loop: steps, and between them rows of metrics, evaluations and checkpoints.

It promises:
- The device does not wait for the host. The sums of a step stay on it as one vector, and come to the host some steps
  at a time, after the next step is dispatched.
- A run that goes on from one of its checkpoints ends with the bits of an undisturbed one. The state holds all that a
  step changes, the caller gives the batches from the state's step on, and a checkpoint keeps the sums that are in no
  row yet.
- No state whose loss or gradient is not finite is evaluated or saved. The first such step is named, up to
  `_HELD` steps later.
- SIGTERM to any process ends all of them after the same step, which is saved.

It does not promise a checkpoint to a process that is killed: that one goes on from the last. Throughput is of steps
alone: compilations, evaluations and the start of a checkpoint stop the clock.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import reached_preemption_sync_point

from stages.training.checkpoint import Checkpoints, Kept
from stages.training.state import Batch, Params, Sums, TrainState, TrainStep

# Steps whose sums wait on the device at most: a fetch costs the host more than all else that it does for a step.
_HELD = 32


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is infinite or not a number."""


class PreemptedError(RuntimeError):
    """A process was told to end (SIGTERM). The state is saved, and a new try goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """When what happens, in steps.

    Attributes:
      num_steps: Steps in all.
      log: Steps between rows of metrics; the last step ends a row too.
      evaluate: Steps between evaluations; the last step is followed by one too.
      checkpoint: Steps between checkpoints; the last step is not saved by this.
      milestones: Further steps that are saved.
    """

    num_steps: int
    log: int
    evaluate: int
    checkpoint: int
    milestones: frozenset[int] = frozenset()

    def is_due(self, interval: int, step: int) -> bool:
        """Whether what happens every `interval` steps, and at the end, happens after `step`."""
        return step % interval == 0 or step == self.num_steps


@dataclass(kw_only=True)
class Window:
    """Sums since the last row, in float64 on the host.

    A checkpoint keeps them, so that a resumed run writes the row that it cuts as if it had not.

    Attributes:
      step: The last step in it.
      sums: By name.
      steps: How many steps they are of.
      seconds: What these took until the clock was last stopped.
      started: When the clock was started; None where it stands.
    """

    step: int = 0
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    started: float | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads back what `to_json` gave, bit for bit; nothing gives an empty window."""
        sums = {name: np.asarray(value, np.float64) for name, value in values.get("sums", {}).items()}
        return cls(**values | {"sums": sums})

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "sums": {name: np.asarray(value).tolist() for name, value in self.sums.items()},
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def start_clock(self) -> None:
        self.started = time.perf_counter()

    def stop_clock(self) -> None:
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
        self.started = None


def fetch(sums: Sums) -> dict[str, np.ndarray]:
    """The values on the host; waits for the device."""
    return {name: np.asarray(value) for name, value in jax.device_get(sums).items()}


def run_loop(
    state: TrainState,
    *,
    window: Window,
    intervals: Intervals,
    train_step: TrainStep,
    batches: Iterable[Batch],
    on_window: Callable[[Window], None],
    evaluate: Callable[[int, Params], bool],
    describe_rows: Callable[[int], str],
    checkpoints: Checkpoints | None = None,
    keep: Callable[[], Kept] = Kept,
    on_step: Callable[[int], None] = lambda step: None,
    on_phase: Callable[[str], None] = lambda text: None,
) -> TrainState:
    """Trains from `state.step` to the last step, or to where an evaluation ends it.

    Args:
      state: Where to go on from; its buffers are used up.
      window: Sums of the steps before it that are in no row yet.
      intervals: When what happens.
      train_step: From `make_train_step`; compiled here for each new shape of batches.
      batches: Global batches from step `state.step` on, as arrays on the devices.
      on_window: Records the sums of the steps between two rows.
      evaluate: Given the step and the parameters, which the next step uses up. True ends the run.
      describe_rows: Names the rows with which the step after so many steps worked, for the message of a loss that is
        not finite.
      checkpoints: Where states are kept; None keeps none, and leaves SIGTERM alone.
      keep: Called before a checkpoint is written: what it holds besides.
      on_step: Given the last step that is over, after each that is dispatched.
      on_phase: Told what takes long besides steps.

    Raises:
      NonFiniteError: With the step, its rows and the last good checkpoint.
      PreemptedError: A process got SIGTERM. All have then stopped after the same step and saved it.
    """
    step = int(state.step)
    pending: list[jax.Array] = []  # sums of the last steps, up to `step`
    packed = _Packed(train_step)

    def settle() -> None:
        """Fetches the sums of all steps that were dispatched."""
        if not pending:
            return
        first = step - len(pending) + 1
        vectors = jax.device_get(pending)
        pending.clear()
        total = packed.pack(window.sums)
        for number, vector in enumerate(vectors, first):
            if not np.isfinite(vector).all():
                raise_not_finite(number, packed.unpack(vector))
            total += vector
            window.step = number
            window.steps += 1
            if intervals.is_due(intervals.log, number):
                window.sums = packed.unpack(total)
                close_window()
                total = packed.pack({})
        if window.steps:
            window.sums = packed.unpack(total)
        on_step(step)

    def raise_not_finite(step: int, sums: dict[str, np.ndarray]) -> None:
        names = [name for name, value in sums.items() if not np.isfinite(value).all()]
        good = None
        if checkpoints is not None:
            checkpoints.wait()  # one that is still being written is good, and the newest
            good = checkpoints.newest_step()
        raise NonFiniteError(
            f"step {step} of {intervals.num_steps}: not finite: {', '.join(names)}; {describe_rows(step - 1)}; "
            f"last good checkpoint: {'none' if good is None else good}; try a lower learning rate or float32"
        )

    def close_window() -> None:
        nonlocal window
        is_running = window.started is not None
        window.stop_clock()
        closed, window = window, Window()
        if is_running:
            window.start_clock()
        on_window(closed)

    with _preemption(checkpoints) as is_preempted:
        for batch in batches:
            if packed.is_new(batch):
                settle()
                window.stop_clock()
                on_phase("compiling the training step")
                packed.compile(state, batch)
                window.start_clock()
            with jax.transfer_guard("disallow"):
                state, sums = packed.run(state, batch)
            if len(pending) == _HELD or (pending and intervals.is_due(intervals.log, step)):
                settle()
            step += 1
            pending.append(sums)
            lag = next((held for held, one in enumerate(reversed(pending)) if _is_over(one)), len(pending))
            on_step(step - lag)
            is_over = step == intervals.num_steps
            evaluation_due = intervals.is_due(intervals.evaluate, step)
            preempted = is_preempted(step)
            checkpoint_due = preempted or step % intervals.checkpoint == 0 or step in intervals.milestones
            if not (evaluation_due or checkpoint_due):
                continue
            settle()
            window.stop_clock()
            if evaluation_due:
                is_over |= evaluate(step, state.params)
            if checkpoints is not None and checkpoint_due and (not is_over or step in intervals.milestones):
                checkpoints.save(state, step=step, window=window.to_json(), kept=keep())
                if preempted and not is_over:
                    checkpoints.wait()
                    raise PreemptedError(f"a process was told to end; step {step} of {intervals.num_steps} is saved")
            if is_over:
                break
            window.start_clock()
        settle()
        if window.steps:
            close_window()
    return state


class _Packed:
    """A step whose sums are one vector, since a fetch takes as long for one number as for many.

    It is compiled once a shape of batches.
    """

    def __init__(self, train_step: TrainStep) -> None:
        self._compiled: set[tuple[tuple[int, ...], ...]] = set()
        self._shapes: dict[str, tuple[int, ...]] = {}

        def run(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
            state, sums = train_step(state, batch)
            self._shapes = {name: sums[name].shape for name in sorted(sums)}
            return state, jnp.concatenate([sums[name].ravel() for name in self._shapes])

        self.run = jax.jit(run, donate_argnums=0)

    def is_new(self, batch: Batch) -> bool:
        """Whether no batch of this shape was compiled for."""
        return _shapes(batch) not in self._compiled

    def compile(self, state: TrainState, batch: Batch) -> None:
        self.run.lower(state, batch).compile()  # jax.jit finds it again
        self._compiled.add(_shapes(batch))

    def pack(self, sums: dict[str, np.ndarray]) -> np.ndarray:
        """Reverses `unpack`, in float64; no sums give zeros."""
        parts = [np.asarray(sums.get(name, np.zeros(shape)), np.float64) for name, shape in self._shapes.items()]
        return np.concatenate([part.ravel() for part in parts])

    def unpack(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The sums by name."""
        ends = np.cumsum([math.prod(shape) for shape in self._shapes.values()])
        parts = np.split(vector, ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}


def _is_over(sums: jax.Array) -> bool:
    """Whether the devices have computed them."""
    return bool(sums.is_ready())  # type: ignore[attr-defined]


def _shapes(batch: Batch) -> tuple[tuple[int, ...], ...]:
    return tuple(value.shape for value in batch.values())


@contextmanager
def _preemption(checkpoints: Checkpoints | None) -> Iterator[Callable[[int], bool]]:
    """Says after each step whether all processes are to end here, because one of them was told to (SIGTERM).

    Several processes agree on the step through `jax.distributed`. A process of its own has none, and listens itself:
    else SIGTERM would end it at once, or raise whatever its host (Ray) makes of it.
    """
    if checkpoints is not None and jax.distributed.is_initialized():
        yield reached_preemption_sync_point
    elif checkpoints is None or threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # only a main thread may listen
    else:
        told = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda number, frame: told.set())
        try:
            yield lambda step: told.is_set()
        finally:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
