"""Scores of our fine-tuning against those of the same written a second time in torch, from one checkpoint.

    python tests/benchmarks/scores.py outputs/export/0123456789ab/discriminator --output outputs/scores.jsonl
    python tests/benchmarks/scores.py my-model --tasks mrpc conll2000 --seeds 0 --epochs 1 --output short.jsonl

The torch side (`torch_finetune.py`) has its own files, tokens, batches, optimizer and scores; what both are given are
the settings. They share no random numbers, and ours batches rows of like length: so one seed says little, and the
difference of the means is held against the deviation over seeds. Finished runs are kept in the output file: the same
command goes on where it was stopped, and prints the table.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from upath import UPath

from cluster.config import ClusterConfig
from cluster.distributed import configure
from stages.context import StageContext
from stages.finetune.config import FinetuneConfig, published_layer_decay, published_learning_rate
from stages.finetune.stage import run
from stages.report.comparison import difference
from stages.report.statistics import Statistics, compute_statistics
from stages.tasks.named import TASKS, TaskName

FOLDERS = {"mrpc": "glue/MRPC", "cola": "glue/CoLA", "rte": "glue/RTE", "conll2000": "conll2000"}
CONTESTANTS = ("jax", "torch")


def make_settings(options: argparse.Namespace, *, task: str, seed: int) -> dict[str, Any]:
    """What both are given, by the names of `FinetuneConfig`; where nothing is said, what was published."""
    width = json.loads((Path(options.model) / "config.json").read_text())["hidden_size"]
    defaults = TASKS[TaskName(task)]
    return {
        "model": options.model,
        "seed": seed,
        "epochs": options.epochs or defaults.epochs,
        "max_length": defaults.max_length,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate or published_learning_rate(width),
        "layer_decay": options.layer_decay or published_layer_decay(width),
        "weight_decay": options.weight_decay,
        "warmup_fraction": 0.1,
        "clip_norm": 1.0,
    }


def finetune(contestant: str, task: str, folder: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """Scores of one run by name."""
    if contestant == "torch":
        import torch_finetune

        return torch_finetune.finetune(task, folder, torch_finetune.Settings(**settings))
    with tempfile.TemporaryDirectory() as output:
        run(FinetuneConfig(task=task, data=str(folder), **settings), StageContext(output=UPath(output)))
        return json.loads((Path(output) / "result.json").read_text())["scores"]


def report(task: str, metric: str, scores: Mapping[str, Mapping[int, float]]) -> str:
    """A Markdown table of one metric, by contestant and seed."""
    seeds = sorted({seed for by_seed in scores.values() for seed in by_seed})
    lines = [f"| {task}, {metric} | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | deviation |"]
    lines.append(f"|{' --- |' * (len(seeds) + 3)}")
    found: list[Statistics] = []
    for contestant, by_seed in scores.items():
        of = compute_statistics(by_seed)
        cells = [f"{by_seed[seed]:.2f}" if seed in by_seed else "-" for seed in seeds]
        deviation = "-" if of.deviation is None else f"{of.deviation:.2f}"
        lines.append(f"| {contestant} | {' | '.join(cells)} | {of.mean:.2f} | {deviation} |")
        found.append(of)
    if len(found) == 2 and (between := difference(found[1], found[0])):
        lines.append(f"\njax - torch: {between.means:+.2f}, {between.verdict}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Hugging Face folder of a pretrained discriminator, with its tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines of finished runs")
    parser.add_argument("--data", type=Path, default=Path("data"), help=f"holds {', '.join(FOLDERS.values())}")
    parser.add_argument("--tasks", nargs="+", default=list(FOLDERS), choices=list(FOLDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--epochs", type=float, help="default: the published number of each task")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="default: published for a model of that width")
    parser.add_argument("--layer-decay", type=float, help="likewise")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--only", nargs="+", default=CONTESTANTS, choices=CONTESTANTS, help="contestants")
    options = parser.parse_args()
    configure(ClusterConfig(cpus_per_process=2))

    lines = options.output.read_text().splitlines() if options.output.exists() else []
    finished: list[dict[str, Any]] = [json.loads(line) for line in lines]
    wanted = [
        {"task": task, "contestant": contestant, "settings": make_settings(options, task=task, seed=seed)}
        for seed in options.seeds
        for task in options.tasks
        for contestant in options.only
    ]

    def find(identity: Mapping[str, Any]) -> dict[str, Any] | None:
        return next((done for done in finished if identity.items() <= done.items()), None)

    for number, identity in enumerate(wanted, start=1):
        if find(identity) is None:
            name, task, settings = identity["contestant"], identity["task"], identity["settings"]
            started = time.perf_counter()
            scores = finetune(name, task, options.data / FOLDERS[task], settings)
            finished.append(identity | {"scores": scores, "seconds": time.perf_counter() - started})
            with options.output.open("a") as file:
                file.write(json.dumps(finished[-1]) + "\n")
        done = find(identity)
        assert done is not None
        found = ", ".join(f"{name} {value:.2f}" for name, value in done["scores"].items())
        print(f"{number} of {len(wanted)}: {identity['task']}, {identity['contestant']}, "
              f"seed {identity['settings']['seed']}: {found} ({done['seconds']:.0f} s)", flush=True)  # fmt: skip

    print("\n" + ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "transformers")))
    for task in options.tasks:
        runs = [done for identity in wanted if identity["task"] == task and (done := find(identity))]
        for metric in runs[-1]["scores"]:
            if all(metric in done["scores"] for done in runs):
                scores: dict[str, dict[int, float]] = {name: {} for name in options.only}
                for done in runs:
                    scores[done["contestant"]][done["settings"]["seed"]] = done["scores"][metric]
                print("\n" + report(task, metric, scores))


if __name__ == "__main__":
    main()
