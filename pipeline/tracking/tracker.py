"""The tracker that a stage is given: it only sends messages to the recorder."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from upath import UPath

from cluster.credentials import redact
from pipeline.tracking.messages import Dataset, Description, Files, Message, Metrics, Model, OpenRun, Params
from pipeline.tracking.system_metrics import sampling
from stages.context import Tracker

_PROGRESS_SECONDS = 0.25
_LAST_WORDS_SECONDS = 30.0


class StageTracker(Tracker):
    """Sends what a stage records to the recorder. Can be sent to any process of the job."""

    def __init__(
        self,
        actor: Any,
        *,
        stage: str,
        opening: tuple[OpenRun, ...],
        system_metrics_seconds: float,
        keeps_examples: bool = True,
    ) -> None:
        """Tells `actor` of a stage.

        Args:
          opening: The run of the pipeline, of the stage's group if it has one, and its own.
          keeps_examples: Whether files with texts of the data are recorded.
        """
        self._actor = actor
        self._stage = stage
        self._opening = opening
        self._system_metrics_seconds = system_metrics_seconds
        self._keeps_examples = keeps_examples
        self._last_progress = 0.0

    @property
    def _key(self) -> str:
        return self._opening[-1].key

    @contextmanager
    def running(self) -> Iterator[None]:
        """Wraps the stage's work, in its process: opens its runs and samples the machine's use."""
        self._actor.begin.remote(self._stage, list(self._opening))
        try:
            with sampling(self.system_metrics, seconds=self._system_metrics_seconds):
                yield
        finally:
            self._wait_until_heard()

    def _wait_until_heard(self) -> None:
        """The runner may close the recorder when the stage has ended: its last messages must have arrived."""
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

    def overview(self, metrics: Mapping[str, float], params: Mapping[str, object], *, text: str) -> None:
        """Records what the whole run came to."""
        key, values = self._opening[0].key, {name: float(value) for name, value in metrics.items()}
        self._send(Metrics(key=key, values=values, step=0, time=time.time()))
        self._send(Params(key=key, values=dict(params)))
        self._send(Description(key=key, text=text))

    def system_metrics(self, metrics: Mapping[str, float]) -> None:
        """Records the use of the machine, by time."""
        self._send(Metrics(key=self._key, values=dict(metrics), step=None, time=time.time()))

    def artifact(self, path: str | os.PathLike[str] | UPath, *, folder: str = "", has_examples: bool = False) -> None:
        """Keeps a copy; it is read at once, so that the stage may delete it."""
        if has_examples and not self._keeps_examples:
            return
        source = UPath(path)
        files = sorted(file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
        prefix = f"{folder}/" if folder else ""
        names = (f"{prefix}{file.relative_to(source.parent).as_posix()}" for file in files)
        contents = {name: file.read_bytes() for name, file in zip(names, files, strict=True)}
        self._send(Files(key=self._key, files=contents))

    def dataset(self, *, name: str, source: str, context: str) -> None:
        """Names an input."""
        self._send(Dataset(key=self._key, name=name, source=redact(source), context=context))

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

    def phase(self, text: str) -> None:
        """Names what the stage does now."""
        self._last_progress = 0.0  # the next progress ends the phase: it must not be passed over
        self._actor.phase.remote(self._stage, text)

    def _send(self, message: Message) -> None:
        self._actor.record.remote(message)
