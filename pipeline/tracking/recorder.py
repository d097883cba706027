"""The one actor that hears from all stages: keeps their progress and writes to MLflow without making them wait.

Stages hold a `StageTracker`, which only sends messages. The actor queues them, and a thread of its own writes them.
"""

import logging
import threading
import time
from collections import Counter, deque
from dataclasses import replace
from typing import Any, NamedTuple

from cluster.credentials import keep_out_of_logs, redact
from pipeline.screen.progress import Progress
from pipeline.tracking.messages import Message, Metrics, OpenRun, WriterSettings

logger = logging.getLogger(__name__)

_MAX_QUEUED = 200_000
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 60.0


class Snapshot(NamedTuple):
    """The newest progress of every stage, and why MLflow cannot be written at the moment, if it cannot."""

    progress: dict[str, Progress]
    trouble: str | None


class Recorder:
    """The actor. Its methods return at once, except `close`, which waits until all is written."""

    def __init__(self, settings: WriterSettings | None) -> None:
        keep_out_of_logs()
        self._settings = settings
        self._progress: dict[str, Progress] = {}
        self._trouble: str | None = None
        self._queue: deque[Message] = deque()
        self._changed = threading.Condition()
        self._lost: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._deadline: float | None = None
        self._busy = False
        if settings is not None:
            threading.Thread(target=self._write_on, args=(settings,), name="mlflow", daemon=True).start()

    def begin(self, stage: str, opening: list[OpenRun]) -> None:
        """Notes that a stage's process began."""
        self._progress[stage] = Progress(began=time.time())
        for run in opening:
            self.record(run)

    def progress(self, stage: str, done: int, total: int, unit: str, fields: dict[str, float]) -> None:
        """Notes how far a stage is."""
        before = self._progress.get(stage) or Progress(began=time.time())
        now = time.time()
        if not before.updated:
            before = replace(before, resumed_at=done, first_done=done, first_time=now)
        elif before.phase and before.done == before.resumed_at:  # it was prepared until now
            before = replace(before, first_done=done, first_time=now)
        self._progress[stage] = replace(before, done=done, total=total, unit=unit, updated=now, fields=fields, phase="")

    def phase(self, stage: str, text: str) -> None:
        """Notes what a stage does now."""
        before = self._progress.get(stage) or Progress(began=time.time())
        self._progress[stage] = replace(before, phase=text)

    def snapshot(self) -> Snapshot:
        """What the runner shows."""
        return Snapshot(dict(self._progress), self._trouble)

    def record(self, message: Message) -> None:
        """Queues something for MLflow."""
        if self._settings is None:
            return
        with self._changed:
            if len(self._queue) >= _MAX_QUEUED:
                self._lose(self._queue.popleft(), "the queue was full")
            self._queue.append(message)
            self._changed.notify()

    def close(self, *, seconds: float) -> list[str]:
        """Waits until the queue is written, at most `seconds`; returns what was lost, and why."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._changed.notify()
            while (self._queue or self._busy) and time.monotonic() < self._deadline:
                self._changed.wait(timeout=0.1)
            for message in self._queue:
                self._lose(message, self._reasons.get("last", f"not written within {seconds:.0f} s"))
            self._queue.clear()
            return [f"{count} {what} ({self._reasons.get(what, '?')})" for what, count in sorted(self._lost.items())]

    def _lose(self, message: Message, reason: str) -> None:
        what = f"{type(message).__name__} of {message.key}"
        self._lost[what] += 1
        self._reasons[what] = reason

    def _write_on(self, settings: WriterSettings) -> None:
        from pipeline.tracking.mlflow_writer import MlflowWriter

        writer = MlflowWriter(settings)
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._queue:
                    self._changed.wait()
                batch = self._next_batch()
                self._busy = True
            self._write(writer, batch)

    def _next_batch(self) -> list[Message]:
        """Consecutive metrics of one run, or a single message."""
        batch = [self._queue.popleft()]
        while self._queue and isinstance(batch[0], Metrics) and len(batch) < 1000:
            following = self._queue[0]
            if not isinstance(following, Metrics) or following.key != batch[0].key:
                break
            batch.append(self._queue.popleft())
        return batch

    def _write(self, writer: Any, batch: list[Message]) -> None:
        """Writes; retries while the error may pass and time is left."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                writer.write(batch)
                self._trouble = None
                return
            except Exception as error:
                reason = redact(f"{type(error).__name__}: {error}").splitlines()[0][:300]
                if pause > _FIRST_RETRY_SECONDS or not writer.may_pass(error):  # a busy database is free the next time
                    self._trouble = reason
                out_of_time = self._deadline is not None and time.monotonic() + pause > self._deadline
                if not writer.may_pass(error) or out_of_time:
                    logger.exception("MLflow: %s of %s is lost", type(batch[0]).__name__, batch[0].key)
                    with self._changed:
                        self._reasons["last"] = reason
                        for message in batch:
                            self._lose(message, reason)
                    return
                logger.warning("MLflow: %s; trying again in %.0f s", reason, pause)
                self._sleep(pause)
                pause = min(2 * pause, _LAST_RETRY_SECONDS)

    def _sleep(self, seconds: float) -> None:
        """Sleeps; wakes early when the run is closing."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.2)
            if self._deadline is not None and time.monotonic() > self._deadline - 1:
                return
