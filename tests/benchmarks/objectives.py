"""What each pretraining objective is worth: the same small budget on real text, then the same fine-tuning.

    python tests/benchmarks/objectives.py --steps 3000 --seeds 2 --output outputs/objectives

Every objective runs through the pipeline with configs/wikipedia-cpu.yaml, its data under data/; text, vocabulary and
shards are shared. Prints a row an objective: the FLOPs of its step, the discriminator's AUC on held-out text, and the
median scores on CoNLL-2000 and MRPC. Stopped, it goes on where it was; `--objectives` names some of them.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from upath import UPath

from pipeline.config.sections import load_config
from stages.data.shard_index import ShardIndex
from stages.electra.flops import pretraining_step_flops
from stages.electra.objectives.corruption import max_masked

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "wikipedia-cpu.yaml"
TASKS = {"conll2000": "f1", "mrpc": "accuracy"}
# What differs from the config: the objective, then the model.
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "replaced_token_detection": ({}, {}),
    "masked_language_modeling": ({"kind": "masked_language_modeling"}, {}),
    "replace_mlm": ({"kind": "replace_mlm"}, {}),
    "all_tokens_mlm": ({"kind": "all_tokens_mlm"}, {}),
    "electric": ({"kind": "electric"}, {"local_attention": False}),
    "disentangled": ({}, {"embedding_sharing": "disentangled"}),
    "shared_encoder": ({}, {"shared_encoder": True}),
}


def configure(name: str, *, steps: int, epochs: float, seeds: int, output: Path) -> dict[str, Any]:
    """The config of one objective's run."""
    config = yaml.safe_load(CONFIG.read_text())
    objective, model = OBJECTIVES[name]
    pretrain = config["pretrain"]
    ours = {"discriminator_weight": pretrain["objective"]["discriminator_weight"]}
    if name not in ("masked_language_modeling", "electric"):
        ours["temperature"] = pretrain["objective"]["temperature"]
    if name in ("masked_language_modeling", "replace_mlm", "all_tokens_mlm"):
        del ours["discriminator_weight"]
    pretrain |= {
        "steps": steps,
        "warmup_steps": steps // 10,
        "eval_every": steps,
        "checkpoint_every": max(1, steps // 4),
    }
    pretrain |= {"objective": ours | objective, "model": pretrain["model"] | model}
    finetune = config["finetune"]
    finetune |= {"seeds": list(range(seeds)), "from_random": False}
    finetune["tasks"] = {task: finetune["tasks"][task] | {"epochs": epochs} for task in TASKS}
    return config | {"output": str(output)}


def run(path: Path) -> dict[str, Path]:
    """Runs the pipeline, and returns the folder of each stage."""
    command = [sys.executable, "-m", "pipeline.run", str(path)]
    subprocess.run(command, cwd=ROOT, check=True)
    plan = subprocess.run([*command, "--plan", "--json"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {row["stage"]: Path(row["path"]) for row in map(json.loads, plan.splitlines())}


def step_flops(path: Path, shards: Path) -> float:
    """Matrix FLOPs of a step."""
    pretrain = load_config(path).pretrain
    assert pretrain is not None
    index = ShardIndex.read(UPath(shards))
    objective = pretrain.objective.resolve(pretrain.model.size)
    return pretraining_step_flops(
        *objective.networks(*pretrain.model.resolve(index.vocab_size)),
        batch_size=pretrain.batch_size,
        sequence_length=index.sequence_length,
        num_masked=max_masked(index.sequence_length, objective.mask_fraction or 0.0),
        kind=objective.kind,
    )


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="of pretraining, each")
    parser.add_argument("--epochs", type=float, default=5, help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--output", type=Path, default=Path("outputs/objectives"))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES), metavar="NAME")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.objectives:
        path = (options.output / f"{name}.yaml").resolve()
        config = configure(
            name, steps=options.steps, epochs=options.epochs, seeds=options.seeds, output=options.output.resolve()
        )
        path.write_text(yaml.safe_dump(config))
        folders = run(path)
        heldout = result(folders["pretrain"])["heldout"]
        scores = {
            task: [result(folders[f"finetune/{task}/seed-{seed}"])["scores"][metric] for seed in range(options.seeds)]
            for task, metric in TASKS.items()
        }
        flops = step_flops(path, folders["shard"])
        rows.append((name, flops, heldout.get("replaced/auc"), heldout.get("loss/generator"), scores))
    print(f"\n{options.steps} steps each; scores are medians, every seed behind them\n")
    titles = "".join(f"{task:>26}" for task in TASKS)
    print(f"{'objective':<26}{'FLOPs a step':>14}{'AUC':>8}{'generator loss':>16}{titles}")
    for name, flops, auc, loss, scores in rows:
        cells = [f"{statistics.median(s):.2f} ({', '.join(f'{x:.2f}' for x in s)})" for s in scores.values()]
        shown = "" if auc is None else f"{auc:.3f}"
        print(f"{name:<26}{flops:>14.3g}{shown:>8}{loss:>16.3f}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
