"""Folders as the other stages leave them, written by hand."""

import json
import math
from pathlib import Path
from typing import Any

from upath import UPath


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in value))
    else:
        path.write_text(json.dumps(value))


def pretraining_rows(*, steps: int = 2000) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(20, steps + 1, 20):
        fall = math.exp(-step / (steps / 4))
        wobble = math.sin(step * 12.9898) * 0.5
        metrics = {
            "loss/generator": 3.0 + 5.5 * fall + 0.4 * wobble,
            "loss/discriminator": 0.28 + 0.3 * fall + 0.03 * wobble,
            "loss/total": 20.0,
            "masked/accuracy": 0.4 * (1 - fall),
            "sampled/accuracy": 0.25 * (1 - fall),
            "discriminator/accuracy": 0.93 - 0.05 * fall,
            "replaced/share": 0.11,
            "replaced/precision": 0.8 * (1 - fall),
            "replaced/recall": 0.45 * (1 - fall),
            "replaced/auc": 0.5 + 0.38 * (1 - fall),
        }
        train = {
            "optimizer/learning_rate": 5e-4 * min(step / 200, (steps - step) / steps),
            "optimizer/gradient_norm": 1.5 + 3 * fall + 0.5 * wobble,
            "throughput/tokens_per_second": 41_000 + 900 * wobble - (20_000 if step == 20 else 0),
        }
        rows.append({"step": step, "split": "train"} | metrics | train)
        if step % 200 == 0:
            rows.append({"step": step, "split": "heldout"} | metrics)
    return rows


def finetuning(
    folder: Path,
    *,
    task: str,
    seed: int,
    init: str,
    primary: str,
    scores: dict[str, float],
    warnings: tuple[str, ...] = (),
    data: str = "/glue/CoLA",
) -> UPath:
    write(folder / "config.json", {"task": task, "seed": seed, "init": init, "data": data})
    write(
        folder / "result.json",
        {
            "task": task,
            "seed": seed,
            "init": init,
            "primary": primary,
            "scores": scores,
            "num_parameters": 1_234_567,
            "train_examples": 8551,
            "dev_examples": 1043,
            "steps": 400,
            "seconds": 61.5,
            "examples_per_second": 417.2,
            "warnings": list(warnings),
        },
    )
    level = 0.3 if init == "pretrained" else 0.55
    rows = [
        {
            "step": step,
            "split": "train",
            "loss": level + 0.4 * math.exp(-step / 100) + 0.05 * math.sin(step * 7.1 + seed),
        }
        for step in range(10, 401, 10)
    ]
    write(folder / "metrics.jsonl", rows)
    return UPath(folder)


def whole_run(root: Path, *, generated: bool = False) -> dict[str, UPath]:
    """A finished run: four tasks, seeds 0 and 1 from pretrained weights and 0 and 1 from random ones."""
    inputs = {
        name: UPath(root / name / "0123456789abcdef") for name in ("ingest", "vocab", "shard", "pretrain", "export")
    }
    if generated:
        inputs = {"sample": UPath(root / "sample" / "feedfeedfeed")} | inputs
        write(root / "sample/feedfeedfeed/config.json", {"seed": 0, "documents": 4000})
    write(
        root / "ingest/0123456789abcdef/counts.json",
        {"read": 12345, "kept": 12000, "dropped": {"empty": 300, "undecodable": 45}, "heldout": 120},
    )
    write(
        root / "vocab/0123456789abcdef/info.json",
        {"size": 4096, "sha256": "ab" * 32, "lowercase": True, "special": {}},
    )
    write(
        root / "shard/0123456789abcdef/index.json",
        {
            "sequence_length": 128,
            "vocab_size": 4096,
            "counts": {"documents": 12000, "tokens": 1234567},
            "train": [],
        },
    )
    write(root / "pretrain/0123456789abcdef/metrics.jsonl", pretraining_rows())
    write(root / "pretrain/0123456789abcdef/result.json", {"steps": 2000})
    write(
        root / "pretrain/0123456789abcdef/config.json",
        {"seed": 0, "model": {"size": "tiny"}, "steps": 2000, "batch_size": 32, "learning_rate": 5e-4},
    )
    table = {
        "cola": ("matthews", {"matthews": (41.0, 44.5), "accuracy": (74.0, 76.0)}, 24.0),
        "mrpc": ("accuracy", {"accuracy": (81.2, 79.9), "f1": (86.1, 85.0)}, 11.0),
        "squad_v1": ("exact_match", {"exact_match": (62.3, 61.8), "f1": (70.4, 69.9)}, 40.0),
        "conll2000": ("f1", {"f1": (91.24, 91.1), "precision": (91.0, 90.9), "recall": (91.4, 91.3)}, 9.0),
    }
    for task, (primary, scores, loss) in table.items():
        for init, prefix in (("pretrained", "seed"), ("random", "random")):
            for seed in (0, 1):
                name = f"finetune/{task}/{prefix}-{seed}"
                inputs[name] = finetuning(
                    root / name / "fedcba9876543210",
                    task=task,
                    seed=seed,
                    init=init,
                    primary=primary,
                    scores={
                        metric: values[seed] - (loss if init == "random" else 0.0) for metric, values in scores.items()
                    },
                    data="{sample}/tasks/" + task if generated else f"/data/{task}",
                )
    return inputs
