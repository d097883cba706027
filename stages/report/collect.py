"""Reads what the other stages left in their folders, and computes nothing."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from upath import UPath

from cluster.storage import parse_json, read_json
from stages.context import Group
from stages.data.shard_index import ShardIndex
from stages.finetune.config import Init
from stages.pieces import as_pieces
from stages.run_warning import RunWarning, WarningKind, read_warnings


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """How one stage was run: its folder, its config (in config.json) and its manifest, {} where absent."""

    name: str
    folder: UPath
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One finished fine-tuning run.

    Attributes:
      result: The run's result.json.
      curve: Its metrics.jsonl.
      generated: Whether its data came from the `sample` stage.
      incomparable: Why its scores must not be compared with published ones; "" where they may.
    """

    stage: str
    task: str
    seed: int
    init: Init
    primary: str
    scores: Mapping[str, float]
    warnings: tuple[RunWarning, ...]
    result: Mapping[str, Any]
    curve: tuple[Mapping[str, Any], ...]
    generated: bool
    incomparable: str

    @property
    def score(self) -> float:
        """The primary score."""
        return self.scores[self.primary]

    @property
    def is_degenerate(self) -> bool:
        """Whether it learnt nothing."""
        return any(warning.kind is WarningKind.DEGENERATE for warning in self.warnings)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A fine-tuning from the checkpoint of pretraining at `step`."""

    step: int
    run: FineTuning


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What the report should show and cannot, and why.

    Attributes:
      task, init: Of a fine-tuning run that gave no score, as far as its config.json is there.
    """

    what: str
    reason: str
    task: str | None = None
    init: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Curves and end state of pretraining."""

    metrics: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that the other stages left.

    Attributes:
      networks: Numbers of parameters by the network's name.
      heldout: Rows of held-out text, each a list of tokens as `stages.heldout_text` describes them.
      tokens: The vocabulary, by id.
    """

    stages: tuple[StageRecord, ...]
    runs: tuple[FineTuning, ...]
    probes: tuple[Probe, ...]
    pretraining: Pretraining | None
    networks: Mapping[str, int]
    heldout: tuple[tuple[Mapping[str, Any], ...], ...]
    tokens_per_word: float | None
    tokens: tuple[str, ...]
    documents: Mapping[str, Any]
    shards: ShardIndex | None
    vocabulary: Mapping[str, Any]
    gaps: tuple[Gap, ...]


def collect(inputs: Mapping[str, UPath], *, groups: Mapping[str, Group]) -> Results:
    """Reads every input folder.

    Args:
      inputs: Output folders by stage name.
      groups: The group of each that has one.

    Raises:
      ValueError: A file is there but is not what its stage writes; the message names file and line.
    """
    gaps: list[Gap] = []
    stages = {
        name: StageRecord(
            name=name,
            folder=folder,
            config=_read_if_there(folder / "config.json").get("config", {}),
            manifest=_read_if_there(folder / "manifest.json"),
        )
        for name, folder in inputs.items()
    }
    runs, probes = [], []
    for name, stage in stages.items():
        match groups.get(name):
            case Group.FINETUNE:
                runs += _read_run(stage, stage.config, stages, gaps)
            case Group.PROBE:
                found = _read_run(stage, stage.config.get("finetune", {}), stages, gaps)
                probes += [Probe(step=stage.config["step"], run=run) for run in found]
    networks = _read_if_there(inputs["export"] / "networks.json") if "export" in inputs else {}
    heldout = networks.get("heldout", {})  # not every objective leaves it
    return Results(
        stages=tuple(stages.values()),
        runs=tuple(sorted(runs, key=lambda run: (run.task, run.init, run.seed))),
        probes=tuple(sorted(probes, key=lambda probe: (probe.run.task, probe.step))),
        pretraining=_read_pretraining(inputs, gaps),
        networks=networks.get("parameters", {}),
        heldout=tuple(tuple(row) for row in heldout.get("rows", ())),
        tokens_per_word=heldout["tokens"] / heldout["words"] if heldout.get("words") else None,
        tokens=_read_tokens(inputs),
        documents=_read_object(inputs, "ingest", "counts.json", gaps),
        shards=_read_index(inputs, gaps),
        vocabulary=_read_object(inputs, "vocab", "info.json", gaps),
        gaps=tuple(gaps),
    )


def read_records(path: UPath) -> tuple[Mapping[str, Any], ...]:
    """Reads a metrics.jsonl, in order of steps.

    Raises:
      ValueError: A line is no object with an integer `step`.
    """
    records: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        record = parse_json(line, f"{path}:{number}")
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(f'{path}:{number}: expected an object with an integer "step", found {line[:80]!r}')
        records.append(record)
    return tuple(sorted(records, key=lambda record: record["step"]))


def select_records(records: Iterable[Mapping[str, Any]], metric: str, *, split: str) -> list[Mapping[str, Any]]:
    """The rows of a split that have a metric."""
    return [row for row in records if row.get("split") == split and row.get(metric) is not None]


def _read_if_there(path: UPath) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _read_object(inputs: Mapping[str, UPath], stage: str, name: str, gaps: list[Gap]) -> Mapping[str, Any]:
    """A stage's JSON file. A stage that left none is a gap; one that is not part of the run is none."""
    if stage not in inputs:
        return {}
    path = inputs[stage] / name
    if not path.exists():
        gaps.append(Gap(what=stage, reason=f"it left no {name} in {inputs[stage]}"))
    return _read_if_there(path)


def _read_index(inputs: Mapping[str, UPath], gaps: list[Gap]) -> ShardIndex | None:
    try:
        return ShardIndex.read(inputs["shard"]) if "shard" in inputs else None
    except FileNotFoundError as error:
        gaps.append(Gap(what="shard", reason=str(error)))
        return None


def _read_tokens(inputs: Mapping[str, UPath]) -> tuple[str, ...]:
    path = inputs["vocab"] / "vocab.txt" if "vocab" in inputs else None
    if path is None or not path.exists():
        return ()
    return tuple(as_pieces(path.read_text(encoding="utf-8").removesuffix("\n").split("\n")))


def _read_pretraining(inputs: Mapping[str, UPath], gaps: list[Gap]) -> Pretraining | None:
    if "pretrain" not in inputs:
        return None
    folder = inputs["pretrain"]
    if not (folder / "metrics.jsonl").exists():
        gaps.append(Gap(what="pretrain", reason=_why_unfinished(folder, missing="metrics.jsonl")))
        return None
    result = _read_object(inputs, "pretrain", "result.json", gaps)
    return Pretraining(metrics=read_records(folder / "metrics.jsonl"), result=result)


def _read_run(
    stage: StageRecord, config: Mapping[str, Any], stages: Mapping[str, StageRecord], gaps: list[Gap]
) -> list[FineTuning]:
    """A fine-tuning run that has a finite primary score, else none and a gap."""
    path = stage.folder / "result.json"
    if not path.exists():
        reason = _why_unfinished(stage.folder, missing="result.json")
        gaps.append(Gap(what=stage.name, reason=reason, task=config.get("task"), init=config.get("init")))
        return []
    result = _read_if_there(path)
    missing = [key for key in ("task", "seed", "init", "primary", "scores") if key not in result]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}; found {', '.join(sorted(result)) or 'nothing'}")
    primary, scores = result["primary"], result["scores"]
    if primary not in scores:
        found = ", ".join(sorted(scores)) or "nothing"
        raise ValueError(f"{path}: the primary metric is {primary!r}, but scores holds {found}")
    if not math.isfinite(scores[primary]):
        reason = f"its {primary} is {scores[primary]}"
        gaps.append(Gap(what=stage.name, reason=reason, task=result["task"], init=result["init"]))
        return []
    generated = _is_generated(str(config.get("data", "")), stages)
    curve = stage.folder / "metrics.jsonl"
    run = FineTuning(
        stage=stage.name,
        task=result["task"],
        seed=result["seed"],
        init=Init(result["init"]),
        primary=primary,
        scores={name: float(value) for name, value in scores.items() if math.isfinite(value)},
        warnings=read_warnings(result.get("warnings", ()), file=path),
        result=result,
        curve=read_records(curve) if curve.exists() else (),
        generated=generated,
        incomparable="its data is generated" if generated else _cut(config, result),
    )
    return [run]


def _why_unfinished(folder: UPath, *, missing: str) -> str:
    failure = _read_if_there(folder / "failure.json")
    return f"{failure['error']} (log: {folder / 'log.txt'})" if failure else f"not finished: no {missing} in {folder}"


def _is_generated(data: str, stages: Mapping[str, StageRecord]) -> bool:
    """Whether the data lies in the `sample` stage's folder."""
    return "{sample}" in data or ("sample" in stages and data.startswith(str(stages["sample"].folder)))


def _cut(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Why the scores are of a part of the task's data; "" where they are of all."""
    for limit, count, verb in (
        ("max_eval_examples", "dev_examples", "scored"),
        ("max_train_examples", "train_examples", "trained"),
    ):
        if config.get(limit) is not None and result.get(count, 0) >= config[limit]:
            return f"it was {verb} on {result[count]:,} examples only ({limit})"
    return ""
