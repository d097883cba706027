"""Reads all examples of a task before anything is pretrained for it; fetches the published files if it names none."""

import logging
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from upath import UPath

from cluster.storage import write_json
from stages.context import StageContext
from stages.tasks.files.published import PublishedFile
from stages.tasks.form import TaskForm

if TYPE_CHECKING:
    from stages.tasks.base import Task, TaskData

VERSION = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig:
    """A task, and where its examples are.

    Attributes:
      task: The task's name in the configuration.
      data: Folder of its files; None where `published` are taken.
      published: Files to fetch into the stage's folder.
      train_file: Training file, relative to `data` or absolute, where its name is another.
      eval_file: File that is scored, likewise.
      form: The description of a task of the user's own.
    """

    task: str
    data: str | None
    published: tuple[PublishedFile, ...] = ()
    train_file: str | None = None
    eval_file: str | None = None
    form: TaskForm | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """What is read: the folder, and the files that are named, perhaps relative to it. Two files need no folder."""
        named = [file for file in (self.train_file, self.eval_file) if file is not None]
        folder = [self.data] if self.data is not None and len(named) < 2 else []
        files = (
            file if file.startswith(("/", "~")) or "://" in file else self.data and f"{self.data.rstrip('/')}/{file}"
            for file in named
        )
        return (*folder, *(file for file in files if file is not None))


def run(config: ExamplesConfig, context: StageContext) -> None:
    """Writes result.json, which counts the examples, and the published files that fine-tuning reads.

    Raises:
      FileNotFoundError: A file cannot be had.
      ValueError: A file is not what its task expects, or not the one that was published.
    """
    from stages.tasks.base import TaskOptions
    from stages.tasks.files.fetch import fetch
    from stages.tasks.registry import make_task

    if config.published:
        fetch(config.published, folder=context.output, task=config.task, tracker=context.tracker)
    task = make_task(config.task, TaskOptions(max_length=0), form=config.form)  # options are of inputs, not of files
    data = load(
        task,
        data=str(context.output) if config.data is None else config.data,
        train_file=config.train_file,
        eval_file=config.eval_file,
        context=context,
    )
    counts = {"train_examples": len(data.train), "dev_examples": len(data.dev)}
    logger.info("%s: %d training examples, %d to be scored", config.task, *counts.values())
    for warning in data.warnings:
        logger.warning("%s: %s", config.task, warning)
    context.tracker.params(counts)
    files = {"train_file": data.train_file, "dev_file": data.dev_file}
    write_json(
        context.output / "result.json",
        {"task": config.task, **counts, **files, "warnings": [asdict(warning) for warning in data.warnings]},
    )


def load(
    task: "Task", *, data: str, train_file: str | None, eval_file: str | None, context: StageContext
) -> "TaskData":
    """Reads a task's examples from the files that its config names."""

    def expand(location: str) -> str:
        return os.path.expanduser(context.expand(location))

    examples = task.load(
        UPath(expand(data)),
        train_file=None if train_file is None else expand(train_file),
        eval_file=None if eval_file is None else expand(eval_file),
    )
    context.tracker.dataset(name=f"{task.name} train", source=examples.train_file, context="training")
    context.tracker.dataset(name=f"{task.name} dev", source=examples.dev_file, context="validation")
    return examples
