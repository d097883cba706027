"""Runs one stage in its own process, with its log file, its config.json and its manifest."""

import errno
import logging
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from upath import UPath

from cluster.credentials import keep_out_of_logs, redact
from cluster.storage import is_local, remove_half_written, write_text
from pipeline.fingerprint import Identity
from pipeline.manifest import FAILURE, LOG, write_config, write_failure, write_manifest
from pipeline.node import Stage
from pipeline.tracking.tracker import StageTracker
from stages.context import StageContext

# Loggers whose messages do not help the reader of a stage's log.
_CHATTY = ("jax", "absl", "orbax", "fsspec", "urllib3", "filelock", "matplotlib", "asyncio", "botocore")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended; `error` is None if it succeeded. `warnings` are what its own module logged as such, and
    `outcome` what it says came out.
    """

    seconds: float
    error: str | None = None
    warnings: tuple[str, ...] = ()
    outcome: str = ""


def execute(stage: Stage, context: StageContext, identity: Identity, *, cwd: str, command: str, whole: bool) -> Outcome:
    """Runs a stage and writes its manifest. Returns a failure, in words for the user, instead of raising it.

    Args:
      cwd: Where the user ran `command`; relative paths in the config start there.
      command: The user's command.
      whole: Whether all needs are done. If not, the stage gets no manifest, and the same command runs it again.
    """
    if os.path.isdir(cwd):
        os.chdir(cwd)
    keep_out_of_logs()
    started = datetime.now(UTC)
    error: str | None = None
    warnings: list[str] = []
    try:
        with _logging_to(context.output / LOG), _kept(warnings, logger=stage.run.__module__):
            logger = logging.getLogger("pipeline")
            logger.info("%s starts in %s", stage.name, context.output)
            try:
                write_config(context.output, identity)
                (context.output / FAILURE).unlink(missing_ok=True)
                tracker = context.tracker
                with tracker.running() if isinstance(tracker, StageTracker) else nullcontext():
                    stage.run(stage.config, context)
                if whole:
                    remove_half_written(context.output)
                    write_manifest(context.output, identity, started=started, command=command)
                logger.info("%s is %s", stage.name, "done" if whole else "incomplete: a stage that it needs failed")
            except Exception as failure:
                error = explain(failure, output=context.output)
                logger.error("%s failed: %s\n%s", stage.name, error, traceback.format_exc())
                write_failure(context.output, error)
    except OSError as failure:  # the log could not be written
        error = error or explain(failure, output=context.output)
    seconds = (datetime.now(UTC) - started).total_seconds()
    return Outcome(seconds=seconds, error=error, warnings=tuple(warnings), outcome=context.tracker.outcome)


def log_failure(folder: UPath, *, name: str, error: str) -> None:
    """Writes to a stage's log what the stage could not: that it was not run, or that its process died."""
    with suppress(OSError):  # a full disk: other stages go on, and the end of the run tells the error anyway
        before = (folder / LOG).read_text(encoding="utf-8") if (folder / LOG).exists() else ""
        write_text(folder / LOG, f"{before}{datetime.now():%F %T} ERROR   pipeline: {name} failed: {error}\n")
        write_failure(folder, error)


def explain(failure: BaseException, *, output: UPath) -> str:
    """The message of the original exception, without Ray's wrapping and without credentials."""
    cause = root_cause(failure)
    text = redact(str(cause))
    if getattr(cause, "errno", None) == errno.ENOSPC or "No space left on device" in text:
        return f"no space left for {output}{_free_space(output)}. Free some, then run the same command: it resumes."
    if isinstance(cause, ValueError | FileNotFoundError) and text:
        return text
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def root_cause(failure: BaseException) -> BaseException:
    """The innermost exception that Ray's exceptions carry. Any other exception is its own cause."""
    seen: set[int] = set()
    while id(failure) not in seen:
        seen.add(id(failure))
        module = type(failure).__module__
        if not module.startswith("ray.") and not hasattr(failure, "cause"):
            return failure
        workers = getattr(failure, "worker_failures", None)
        inner = next(iter(workers.values())) if workers else getattr(failure, "cause", None) or failure.__cause__
        if not isinstance(inner, BaseException):
            return failure
        failure = inner
    return failure


def _free_space(output: UPath) -> str:
    if not is_local(output):
        return ""
    local = Path(str(output))
    existing = next(folder for folder in (local, *local.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    return f" ({usage.free / 2**30:.2f} of {usage.total / 2**30:.0f} GiB are free on its disk)"


@contextmanager
def _kept(warnings: list[str], *, logger: str) -> Iterator[None]:
    """Adds the warnings of one logger to a list."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger(logger).removeHandler(handler)


@contextmanager
def _logging_to(path: UPath) -> Iterator[None]:
    """Appends all that this process logs or warns of to a file, local or remote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(str(path)) if is_local(path) else Path(folder) / LOG
        if local != path and path.exists():
            local.write_bytes(path.read_bytes())
        handler = logging.FileHandler(local, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        root = logging.getLogger()
        before = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.captureWarnings(True)
        # On a full disk, tracebacks of the log would bury the stage's own error.
        logging.raiseExceptions = False
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(before)
            logging.captureWarnings(False)
            handler.close()
            if local != path:
                path.write_bytes(local.read_bytes())
