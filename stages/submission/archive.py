"""Predictions for GLUE's test sets, and the archive of them."""

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from upath import UPath

from cluster.storage import read_json, write_bytes, write_json, write_text
from stages.context import Group, StageContext
from stages.electra.files.model_folder import load_pretrained
from stages.finetune.config import Init
from stages.submission.config import SubmissionConfig
from stages.tasks.base import Split, TaskOptions
from stages.tasks.buckets import bucket_lengths
from stages.tasks.classification import Classification
from stages.tasks.files.reading import find_file
from stages.tasks.glue import GLUE
from stages.tasks.model import init_model, make_predict
from stages.tasks.named import TASKS, TaskName
from stages.tasks.prediction import EVAL_BATCH_SIZE, BatchShape, predict_rows
from stages.tasks.targets import Classes, Number
from stages.tasks.tokens import WordPiece


@dataclass(frozen=True, kw_only=True)
class SubmissionFile:
    """One file of the archive.

    Attributes:
      name: Its name.
      task: Whose model predicts it.
      tests: Names of the test file, in lower case.
      num_rows: Published size of the test set.
    """

    name: str
    task: TaskName
    tests: tuple[str, ...]
    num_rows: int


def _file(name: str, task: TaskName, num_rows: int, *, part: str = "") -> SubmissionFile:
    tests = tuple(f"test{part}{ending}" for ending in (".tsv", ".jsonl", ".parquet", "-*.parquet"))
    return SubmissionFile(name=f"{name}.tsv", task=task, tests=tests, num_rows=num_rows)


FILES = (
    _file("CoLA", TaskName.COLA, 1063),
    _file("SST-2", TaskName.SST2, 1821),
    _file("MRPC", TaskName.MRPC, 1725),
    _file("STS-B", TaskName.STSB, 1379),
    _file("QQP", TaskName.QQP, 390_965),
    _file("MNLI-m", TaskName.MNLI, 9796, part="_matched"),
    _file("MNLI-mm", TaskName.MNLI, 9847, part="_mismatched"),
    _file("QNLI", TaskName.QNLI, 5463),
    _file("RTE", TaskName.RTE, 3000),
    _file("WNLI", TaskName.WNLI, 146),
    SubmissionFile(name="AX.tsv", task=TaskName.MNLI, tests=("diagnostic.tsv",), num_rows=1104),
)
_HEADER = "index\tprediction"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The run that predicts a task's files: its stage, folder, configuration and dev score."""

    stage: str
    folder: UPath
    config: Mapping[str, Any]
    score: float


def write_submission(config: SubmissionConfig, context: StageContext) -> None:
    """Writes what `stages.submission.stage.run` promises. JAX is configured already."""
    texts: dict[str, str] = {}
    record: dict[str, Any] = {}
    for task_name in dict.fromkeys(file.task for file in FILES):
        files = [file for file in FILES if file.task is task_name]
        chosen = _choose(task_name, config, context)
        if chosen is None:
            if not config.partial:
                raise FileNotFoundError(f"{task_name} is not fine-tuned: add it to finetune.tasks, or set partial")
            continue
        task = GLUE[task_name](TaskOptions(max_length=chosen.config["max_length"]))
        predictions = _predict(task, chosen, [_test_file(file, chosen, config, context) for file in files])
        for file, written in zip(files, predictions, strict=True):
            texts[file.name] = "\n".join([_HEADER, *(f"{n}\t{text}" for n, text in enumerate(written))]) + "\n"
            record[file.name] = {"stage": chosen.stage, "folder": str(chosen.folder), "rows": len(written)}
            record[file.name][f"dev/{task.primary}"] = chosen.score
    if not config.partial and (problems := find_problems(texts)):
        raise ValueError("not what GLUE takes: " + "; ".join(problems))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            write_text(context.output / name, text)
            archive.writestr(zipfile.ZipInfo(name), text)  # with a fixed date: the same bytes every time
    write_bytes(context.output / "submission.zip", buffer.getvalue())
    chosen_by = "best on dev" if config.seed is None else f"seed {config.seed}"
    write_json(context.output / "submission.json", {"runs": chosen_by, "partial": config.partial, "files": record})
    for name in ("submission.zip", "submission.json"):
        context.tracker.artifact(context.output / name, folder="submission")


def find_problems(texts: Mapping[str, str]) -> list[str]:
    """What GLUE's site would refuse in the files of an archive, by name: missing, header, order, rows, labels."""
    expected = {file.name: file for file in FILES}
    problems = [f"{name} is missing" for name in expected if name not in texts]
    for name, text in texts.items():
        if name not in expected:
            problems.append(f"{name} is no file of GLUE's")
            continue
        file = expected[name]
        header, *lines = text.splitlines()
        rows = [line.split("\t") for line in lines]
        if header != _HEADER:
            problems.append(f"{name} begins with {header!r}, expected {_HEADER!r}")
        if [row[0] for row in rows] != [str(number) for number in range(len(rows))]:
            problems.append(f"{name}: the indices do not count up from 0")
        if len(rows) != file.num_rows:
            problems.append(f"{name} has {len(rows):,} rows, its published test set {file.num_rows:,}")
        target = GLUE[file.task](TaskOptions(max_length=16)).target
        for number, row in enumerate(rows):
            if len(row) != 2 or not _allowed(row[1], target):
                problems.append(f"{name}: row {number} is {row}, no label of {file.task}")
                break
    return problems


def _allowed(text: str, target: Any) -> bool:
    if isinstance(target, Classes):
        return text in target.written
    try:
        return bool(target.low <= float(text) <= target.high)
    except ValueError:
        return False


def _choose(task: TaskName, config: SubmissionConfig, context: StageContext) -> Chosen | None:
    """The run of the configured seed, else the one with the best dev score, the lower seed of equal ones."""
    runs = []
    for stage, folder in context.of_group(Group.FINETUNE).items():
        result = read_json(folder / "result.json")
        is_wanted = (result["task"], result["init"]) == (task, Init.PRETRAINED)
        if is_wanted and config.seed in (None, result["seed"]):
            values = read_json(folder / "config.json")["config"]
            score = float(result["scores"][TASKS[task].primary])
            runs.append(Chosen(stage=stage, folder=folder, config=values, score=score))
    return max(runs, key=lambda run: (run.score, -run.config["seed"]), default=None)


def _test_file(file: SubmissionFile, chosen: Chosen, config: SubmissionConfig, context: StageContext) -> UPath:
    data = UPath(os.path.expanduser(context.expand(str(chosen.config["data"]))))
    if file.name != "AX.tsv":
        return find_file(data, patterns=file.tests, override=None, what="data")
    if config.diagnostics is not None:
        return find_file(data, patterns=(), override=os.path.expanduser(config.diagnostics), what="diagnostics")
    beside = data.parent / "diagnostic"
    folder = beside if beside.exists() and not (data / "diagnostic.tsv").exists() else data
    return find_file(folder, patterns=file.tests, override=None, what="submission.diagnostics")


def _predict(task: Classification, chosen: Chosen, paths: Sequence[UPath]) -> list[list[str]]:
    """What each file holds, as the model of the run predicts it."""
    model = load_pretrained(chosen.folder / "model")
    tokenizer = WordPiece.from_file(chosen.folder / "model" / "tokenizer.json")
    names = task.target.names
    graphdef, _ = init_model(task.kind, config=model.config, num_labels=len(names), seed=0)
    predict = make_predict(graphdef, dtype=str(chosen.config["compute_dtype"]))
    found = []
    for path in paths:
        examples = task.load_unlabelled(path)
        features = task.features(examples, tokenizer, labels=names, split=Split.TEST)
        buckets = bucket_lengths(features.lengths, max_length=task.options.max_length)
        shape = BatchShape(batch_size=EVAL_BATCH_SIZE, buckets=buckets, pad=tokenizer.pad)
        logits = predict_rows(model.params, features, shape=shape, predict=predict)
        found.append(task.predict(features, [_as_trained(row, task) for row in logits]))
    return found


def _as_trained(logits_C: np.ndarray, task: Classification) -> np.ndarray:
    """An exported regression answers in the units of its labels; in training it learns a share of their range."""
    if isinstance(task.target, Number):
        return (logits_C - task.target.low) / (task.target.high - task.target.low)
    return logits_C
