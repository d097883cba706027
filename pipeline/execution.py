"""One stage in its own process: its log file, its record, its run."""

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

from cluster.storage import is_local, write_text
from pipeline.fingerprint import Identity
from pipeline.manifest import LOG, write_config, write_manifest
from pipeline.node import Stage
from pipeline.tracking.tracker import StageTracker
from stages.context import StageContext, Tracker

# These tell much that is of no use to the reader of a stage's log.
_CHATTY = ("jax", "absl", "orbax", "fsspec", "urllib3", "filelock", "matplotlib", "asyncio", "botocore")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended: `error` is None where it is done."""

    seconds: float
    error: str | None = None


def execute(stage: Stage, context: StageContext, identity: Identity, *, cwd: str, command: str, whole: bool) -> Outcome:
    """Runs a stage and closes its folder. A failure is returned, not raised, in the user's words.

    Args:
      cwd: The folder of `command`, which relative paths in the config are relative to.
      command: What the user ran.
      whole: All that it needs is done. If not, neither is the stage: the same command runs it again.
    """
    if os.path.isdir(cwd):
        os.chdir(cwd)
    started = datetime.now(UTC)
    error: str | None = None
    try:
        with _logging_to(context.output / LOG):
            logger = logging.getLogger("pipeline")
            logger.info("%s starts in %s", stage.name, context.output)
            try:
                write_config(context.output, identity)
                with _recording(context.tracker):
                    stage.run(stage.config, context)
                if whole:
                    write_manifest(context.output, identity, started=started, command=command)
                logger.info("%s is %s", stage.name, "done" if whole else "done as far as it can be")
            except Exception as failure:
                error = explain(failure, output=context.output)
                logger.error("%s failed: %s\n%s", stage.name, error, traceback.format_exc())
    except OSError as failure:  # the log itself could not be written
        error = error or explain(failure, output=context.output)
    return Outcome(seconds=(datetime.now(UTC) - started).total_seconds(), error=error)


@contextmanager
def _recording(tracker: Tracker) -> Iterator[None]:
    with tracker.running() if isinstance(tracker, StageTracker) else nullcontext():
        yield


def log_failure(folder: UPath, *, name: str, error: str) -> None:
    """Says in a stage's log what the stage could not say itself: it was not run, or its process died."""
    with suppress(OSError):  # of a full disk: the others go on, and the error is told at the end anyway
        before = (folder / LOG).read_text(encoding="utf-8") if (folder / LOG).exists() else ""
        write_text(folder / LOG, f"{before}{datetime.now():%F %T} ERROR   pipeline: {name} failed: {error}\n")


def explain(failure: BaseException, *, output: UPath) -> str:
    """The message of the exception that began it, below the wrapping of Ray."""
    cause = root_cause(failure)
    text = str(cause)
    if getattr(cause, "errno", None) == errno.ENOSPC or "No space left on device" in text:
        return f"no space left for {output}{_free_space(output)}. Free some and run the same command again: it goes on."
    if isinstance(cause, ValueError | FileNotFoundError) and text:
        return text
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def root_cause(failure: BaseException) -> BaseException:
    """The innermost exception that Ray's exceptions carry; others are their own cause, as their author meant them."""
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
def _logging_to(path: UPath) -> Iterator[None]:
    """Everything that this process logs or warns of, appended to a file, local or remote."""
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
        # A full disk must not bury the stage's own error under tracebacks of the log.
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
