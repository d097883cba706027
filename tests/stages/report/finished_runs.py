"""What finished runs leave for a report, made by tests."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upath import UPath

from stages.context import Group, StageContext, Tracker
from stages.data.builders import Packing
from stages.data.shard_index import ShardIndex
from stages.report.config import ReportConfig
from stages.report.stage import run
from stages.run_warning import RunWarning

FINGERPRINT = "0123456789abcdef"
# "the quick brown fox jumps over <b>" with three words replaced, of which two are found, and a false alarm.
HELDOUT: list[dict[str, Any]] = [
    {"text": "the", "probability": 0.01},
    {"text": "slow", "probability": 0.97, "original": "quick", "guesses": [["quick", 0.5], ["slow", 0.25]]},
    {"text": "red", "probability": 0.2, "original": "brown"},
    {"text": "fox", "probability": 0.6},
    {"text": "jump", "probability": 0.1},
    {"text": "##s", "probability": 0.1, "original": "##s"},
    {"text": ",", "probability": 0.1},
    {"text": "<b>", "probability": 0.55, "original": "over"},
]


class RecordingTracker(Tracker):
    def __init__(self) -> None:
        self.recorded: dict[str, float] = {}
        self.artifacts: list[str] = []

    def metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        self.recorded.update(metrics)

    def overview(self, metrics: Mapping[str, float], params: Mapping[str, object], *, text: str) -> None:
        self.recorded.update(metrics)
        self.params, self.text = params, text

    def artifact(self, path: Any, *, folder: str = "", has_examples: bool = False) -> None:
        assert Path(path).exists()
        self.artifacts.append(Path(path).name)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in value] if path.suffix == ".jsonl" else [json.dumps(value)]
    path.write_text("\n".join(lines) + "\n")


def pretraining_rows(*, steps: int = 2000) -> list[dict[str, Any]]:
    rows = []
    for step in range(20, steps + 1, 20):
        fall, wobble = math.exp(-step / 500), math.sin(step * 12.9898) * 0.5
        metrics = {
            "loss/generator": 3.0 + 5.5 * fall + 0.4 * wobble,
            "loss/discriminator": 0.28 + 0.3 * fall + 0.03 * wobble,
            "masked/accuracy": 0.4 * (1 - fall),
            "sampled/accuracy": 0.25 * (1 - fall),
            "discriminator/accuracy": 0.93 - 0.05 * fall,
            "replaced/share": 0.11,
            "replaced/precision": 0.8 * (1 - fall),
            "replaced/recall": 0.45 * (1 - fall),
            "replaced/auc": 0.5 + 0.38 * (1 - fall),
        }
        rates = {
            "optimizer/learning_rate": 5e-4 * min(step / 200, (steps - step) / steps),
            "optimizer/gradient_norm": 1.5 + 3 * fall + 0.5 * wobble,
            "throughput/tokens_per_second": 41_000 + 900 * wobble - (20_000 if step == 20 else 0),
        }
        rows.append({"step": step, "split": "train"} | metrics | rates)
        if step % 200 == 0:
            rows.append({"step": step, "split": "heldout"} | metrics)
    return rows


def add_run(
    inputs: dict[str, UPath],
    root: Path,
    *,
    task: str,
    seed: int,
    scores: dict[str, float],
    init: str = "pretrained",
    primary: str | None = None,
    warnings: Sequence[RunWarning] = (),
    data: str | None = None,
    **config: Any,
) -> Path:
    """Adds what a fine-tuning run leaves. The primary metric is the first one."""
    name = f"finetune/{task}/{'seed' if init == 'pretrained' else 'random'}-{seed}"
    folder = root / name / FINGERPRINT
    inputs[name] = UPath(folder)
    config = {"task": task, "seed": seed, "init": init, "data": data or f"/data/{task}"} | config
    write(folder / "config.json", {"stage": name, "version": 1, "config": config, "needs": {}, "sources": []})
    result = {"task": task, "seed": seed, "init": init, "primary": primary or next(iter(scores)), "scores": scores}
    sizes = {"num_parameters": 1_234_567, "train_examples": 8551, "dev_examples": 1043, "steps": 400}
    speed = {"seconds": 61.5, "examples_per_second": 417.2}
    write(folder / "result.json", result | sizes | speed | {"warnings": [asdict(warning) for warning in warnings]})
    level = 0.3 if init == "pretrained" else 0.55
    rows = [
        {
            "step": step,
            "split": "train",
            "loss/total": level + 0.4 * math.exp(-step / 99) + 0.03 * math.sin(step + seed),
        }
        for step in range(10, 401, 10)
    ]
    write(folder / "metrics.jsonl", [*rows, {"step": 400, "split": "dev"} | scores])
    return folder


def whole_run(root: Path) -> dict[str, UPath]:
    """Folders of a finished run: four tasks, seeds 0 and 1 from pretrained and from random weights."""
    inputs: dict[str, UPath] = {}
    configs = {"pretrain": {"steps": 2000, "batch_size": 32, "learning_rate": 5e-4, "model": {"size": "tiny"}}}
    for number, stage in enumerate(("ingest", "vocab", "shard", "pretrain", "export")):
        inputs[stage] = UPath(root / stage / FINGERPRINT)
        identity = {"stage": stage, "version": 1, "config": configs.get(stage, {}), "needs": {}, "sources": []}
        write(root / stage / FINGERPRINT / "config.json", identity)
        manifest = {"seconds": 40.0 * 3**number, "python": "3.11.9", "packages": {"jax": "0.10.2", "numpy": "2.4.6"}}
        manifest |= {
            "command": "python -m pipeline.run configs/mine.yaml",
            "finished": f"2026-01-0{number + 1}T10:00:30",
        }
        write(root / stage / FINGERPRINT / "manifest.json", manifest | {"git_commit": "c0ffee" * 6 + "beef"})
    dropped = {"empty": 300, "too_short": 5, "undecodable": 40, "duplicate": 0}
    counts = {
        "documents": {"read": 12345, "train": 11880, "heldout": 120, "dropped": dropped},
        "characters": {"train": 5_600_000, "heldout": 56_000},
        "changed": {"replaced": 3, "cut": 0},
        "files": [{"path": "a.txt", "bytes": 17}],
    }
    write(root / "ingest" / FINGERPRINT / "counts.json", counts)
    info = {"size": 4096, "sha256": "ab" * 32, "lowercase": True, "special": {"pad": 0}}
    write(root / "vocab" / FINGERPRINT / "info.json", info)
    split = {"documents": 11880, "tokens": 1_234_567, "unknown": 12, "dropped": 0, "rows": 10_000}
    counts = {"train": split | {"tokens_written": 1_254_567}, "heldout": {"documents": 120, "rows": 0}}
    ShardIndex(
        sequence_length=128,
        packing=Packing.PAIRS,
        vocab_size=4096,
        tokenizer_sha256="ab" * 32,
        special_ids={"pad": 0},
        counts=counts,
        train=(),
        heldout=(),
    ).write(inputs["shard"])
    (root / "vocab" / FINGERPRINT / "vocab.txt").write_text("[PAD]\nthe\n##ing\na\nfox\n")
    write(root / "pretrain" / FINGERPRINT / "metrics.jsonl", pretraining_rows())
    result = {"steps": 2000, "device_kind": "NVIDIA H100", "num_processes": 2}
    write(root / "pretrain" / FINGERPRINT / "result.json", result)
    sizes = {"discriminator": 1_234_567, "generator": 345_678}
    heldout = {"rows": [HELDOUT], "tokens": 120, "words": 80}
    write(root / "export" / FINGERPRINT / "networks.json", {"parameters": sizes, "heldout": heldout})
    table: dict[str, tuple[dict[str, tuple[float, float]], float]] = {
        "cola": ({"matthews": (41.0, 44.5), "accuracy": (74.0, 76.0)}, 24.0),
        "mrpc": ({"accuracy": (81.2, 79.9), "f1": (86.1, 85.0)}, 11.0),
        "squad_v1": ({"exact_match": (62.3, 61.8), "f1": (70.4, 69.9)}, 40.0),
        "conll2000": ({"f1": (91.24, 91.1), "precision": (91.0, 90.9), "recall": (91.4, 91.3)}, 9.0),
    }
    for task, (scores, loss) in table.items():
        for init in ("pretrained", "random"):
            for seed in (0, 1):
                lost = loss if init == "random" else 0.0
                chosen = {metric: values[seed] - lost for metric, values in scores.items()}
                add_run(inputs, root, task=task, seed=seed, init=init, scores=chosen)
    for step, score in ((500, 21.0), (1000, 35.5)):
        add_probe(inputs, root, task="cola", step=step, scores={"matthews": score, "accuracy": 70.0})
        add_probe(inputs, root, task="conll2000", step=step, scores={"f1": 85.0 + score / 10})
    return inputs


def add_probe(inputs: dict[str, UPath], root: Path, *, task: str, step: int, scores: dict[str, float]) -> None:
    """Adds what a fine-tuning from a checkpoint leaves. The primary metric is the first one."""
    name = f"probe/{task}/step-{step}"
    inputs[name] = UPath(root / name / FINGERPRINT)
    write(root / name / FINGERPRINT / "config.json", {"stage": name, "config": {"step": step}})
    result = {"task": task, "seed": 0, "init": "pretrained", "primary": next(iter(scores)), "scores": scores}
    write(root / name / FINGERPRINT / "result.json", result)


def groups_of(inputs: Mapping[str, UPath]) -> dict[str, Group]:
    """What the pipeline says of the inputs."""
    return {name: Group(name.partition("/")[0]) for name in inputs if "/" in name}


def run_report(output: Path, inputs: Mapping[str, UPath], *, tracker: Tracker | None = None, **config: Any) -> Path:
    output.mkdir(exist_ok=True)
    told = tracker or Tracker()
    context = StageContext(output=UPath(output), inputs=inputs, groups=groups_of(inputs), tracker=told)
    run(ReportConfig(**config), context)
    return output
