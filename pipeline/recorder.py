"""The one place that hears from all stages: it keeps their progress and feeds MLflow without making them wait.

Stages hold a `StageTracker`, which only sends messages. The actor queues them, and a thread of its own writes them.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from upath import UPath

from pipeline.progress import Progress
from pipeline.system_metrics import SystemMetrics

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.25
_LAST_WORDS_SECONDS = 30.0
_MAX_QUEUED = 200_000
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 60.0


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that begins or goes on. `key` names it for good: the same key is the same run, now and in a resumed run."""

    key: str
    name: str
    parent: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    is_new: bool = False


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Numbers of a run at one step; None lets the time since the run began decide."""

    key: str
    values: Mapping[str, float]
    step: int | None
    time: float


@dataclass(frozen=True, kw_only=True)
class Params:
    """Facts of a run."""

    key: str
    values: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Artifacts of a run, by their path among its artifacts."""

    key: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An input of a run."""

    key: str
    name: str
    source: str
    context: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A Hugging Face folder to log as a model of a run."""

    key: str
    path: str
    name: str


@dataclass(frozen=True, kw_only=True)
class CloseRun:
    """A run that ended: FINISHED, FAILED or KILLED."""

    key: str
    status: str
    error: str | None = None


Message = OpenRun | Metrics | Params | Files | Dataset | Model | CloseRun


@dataclass(frozen=True, kw_only=True)
class WriterSettings:
    """Where MLflow writes.

    Attributes:
      uri: Tracking server or database.
      artifacts: Artifact folder of a new experiment; None leaves it to the server.
      experiment: Its name.
      ledger: File that remembers which run belongs to which key.
    """

    uri: str
    artifacts: str | None
    experiment: str
    ledger: UPath


class StageTracker:
    """What a stage is given to tell about itself (`stages.context.Tracker`). Can be sent to any process of the job."""

    def __init__(self, actor: Any, *, stage: str, opening: tuple[OpenRun, ...], system_metrics_seconds: float) -> None:
        self._actor = actor
        self._stage = stage
        self._opening = opening
        self._system_metrics_seconds = system_metrics_seconds
        self._last_progress = 0.0

    @property
    def _key(self) -> str:
        return self._opening[-1].key

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the stage's work, in its process: opens its runs and samples its machine."""
        self._actor.begin.remote(self._stage, list(self._opening))
        try:
            with SystemMetrics(self.system_metrics, seconds=self._system_metrics_seconds):
                yield
        finally:
            self._wait_until_heard()

    def _wait_until_heard(self) -> None:
        """The runner may close the recorder as soon as the stage has ended, before its last words arrive."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            ray.get(self._actor.snapshot.remote(), timeout=_LAST_WORDS_SECONDS)

    def params(self, params: Mapping[str, object]) -> None:
        """Records what the stage found out about its own run."""
        self._send(Params(key=self._key, values=dict(params)))

    def metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Records numbers."""
        values = {name: float(value) for name, value in metrics.items()}
        self._send(Metrics(key=self._key, values=values, step=step or 0, time=time.time()))

    def curve(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Records points of curves in the run of the stage's group."""
        values = {name: float(value) for name, value in metrics.items()}
        self._send(Metrics(key=self._opening[-2].key, values=values, step=step, time=time.time()))

    def system_metrics(self, metrics: Mapping[str, float]) -> None:
        """Records the use of the machine, by time."""
        self._send(Metrics(key=self._key, values=dict(metrics), step=None, time=time.time()))

    def artifact(self, path: str | os.PathLike[str] | UPath, *, folder: str = "") -> None:
        """Keeps a copy; it is read at once, so that the stage may delete it."""
        source = UPath(path)
        prefix = f"{folder}/" if folder else ""
        if source.is_dir():
            files = [file for file in sorted(source.rglob("*")) if file.is_file()]
            contents = {
                f"{prefix}{source.name}/{file.relative_to(source).as_posix()}": file.read_bytes() for file in files
            }
        else:
            contents = {f"{prefix}{source.name}": source.read_bytes()}
        self._send(Files(key=self._key, files=contents))

    def dataset(self, *, name: str, source: str, context: str) -> None:
        """Names an input."""
        self._send(Dataset(key=self._key, name=name, source=source, context=context))

    def model(self, path: str | os.PathLike[str] | UPath, *, name: str) -> None:
        """Logs an exported Hugging Face folder as a model; it must stay where it is."""
        self._send(Model(key=self._key, path=str(path), name=name))

    def progress(self, done: int, total: int, *, unit: str, **fields: float) -> None:
        """Shows how far the stage is."""
        now = time.monotonic()
        if now - self._last_progress < _PROGRESS_SECONDS and done < total:
            return
        self._last_progress = now
        values = {name: float(value) for name, value in fields.items()}
        self._actor.progress.remote(self._stage, int(done), int(total), unit, values)

    def _send(self, message: Message) -> None:
        self._actor.record.remote(message)


class Recorder:
    """The actor. Its methods return at once; `close` waits for what is still to be written."""

    def __init__(self, settings: WriterSettings | None) -> None:
        self._settings = settings
        self._progress: dict[str, Progress] = {}
        self._queue: deque[Message] = deque()
        self._changed = threading.Condition()
        self._lost: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._deadline: float | None = None
        self._busy = False
        if settings is not None:
            threading.Thread(target=self._write_on, args=(settings,), name="mlflow", daemon=True).start()

    def begin(self, stage: str, opening: list[OpenRun]) -> None:
        """A stage's process began."""
        self._progress[stage] = Progress(began=time.time())
        for run in opening:
            self.record(run)

    def progress(self, stage: str, done: int, total: int, unit: str, fields: dict[str, float]) -> None:
        """A stage got further."""
        before = self._progress.get(stage) or Progress(began=time.time())
        now = time.time()
        if not before.first_time:
            before = replace(before, first_done=done, first_time=now)
        self._progress[stage] = replace(before, done=done, total=total, unit=unit, updated=now, fields=fields)

    def snapshot(self) -> dict[str, Progress]:
        """The newest progress of every stage."""
        return dict(self._progress)

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
        """Waits for the queue to be written, at most `seconds`; returns what could not be."""
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
        from pipeline.tracking import MlflowWriter

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
        """Writes, again and again while the fault may pass and there is time."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                writer.write(batch)
                return
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
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
