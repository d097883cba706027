"""Probes: fine-tuning from pretraining's checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from upath import UPath

from stages.context import StageContext, Tracker
from stages.data.builders import Packing
from stages.data.rows import Layout, Rows
from stages.data.shard_index import ShardIndex
from stages.data.shards import write_shard
from stages.electra.sizes import ModelConfig, Size
from stages.export import ExportConfig
from stages.export import run as export
from stages.finetune.config import FinetuneConfig
from stages.finetune.stage import run as finetune
from stages.pretrain.config import PretrainConfig
from stages.pretrain.worker import pretrain
from stages.probe import ProbeConfig, run

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
STEPS = 8
CONFIG = PretrainConfig(
    model=ModelConfig(
        size=Size.TINY,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    ),
    steps=STEPS,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=1,
    eval_batches=1,
    milestones=(50.0, 100.0),
)


class Curve(Tracker):
    def __init__(self) -> None:
        self.points: dict[int, dict[str, float]] = {}

    def curve(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.points[step] = dict(metrics)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, vocabulary: list[str], raw_tokenizer: Tokenizer) -> dict[str, UPath]:
    """A vocabulary, and a pretraining of a few steps on random text, done."""
    root, random = UPath(tmp_path_factory.mktemp("pretrained")), np.random.default_rng(0)
    inputs = {name: root / name for name in ("vocab", "shard", "pretrain")}
    inputs["vocab"].mkdir()
    (inputs["vocab"] / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (inputs["vocab"] / "tokenizer.json").write_text(raw_tokenizer.to_str())
    (inputs["vocab"] / "tokenizer_config.json").write_text("{}")
    size = len(vocabulary)
    written = {}
    for split in ("train", "heldout"):
        segments = [(random.integers(5, size, 20).tolist(), []) for _ in range(8)]
        layout = Layout(sequence_length=32, special_ids=SPECIAL_IDS, dtype=np.dtype(np.uint16))
        rows = Rows.of(segments, layout=layout)
        written[split] = write_shard(inputs["shard"], file=f"{split}/shard-0.arrow", rows=rows)
    ShardIndex(
        sequence_length=32,
        vocab_size=size,
        packing=Packing.PAIRS,
        tokenizer_sha256="ab",
        special_ids=SPECIAL_IDS,
        counts={},
        train=(written["train"],),
        heldout=(written["heldout"],),
    ).write(inputs["shard"])
    identity = {"config": {"objective": asdict(CONFIG.objective), "model": {"size": CONFIG.model.size}}}
    pretrain(CONFIG, StageContext(output=inputs["pretrain"], inputs=inputs))
    (inputs["pretrain"] / "config.json").write_text(json.dumps(identity))  # as the pipeline does
    return inputs


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss/total"] for row in rows if row["split"] == "train"]


def cola(task_data: Path, model: str) -> FinetuneConfig:
    return FinetuneConfig(task="cola", data=str(task_data / "cola"), epochs=4, max_length=16, batch_size=4, model=model)


def test_a_probe_is_the_fine_tuning_of_the_model_as_it_was_at_its_step(inputs, task_data, tmp_path):
    tracker = Curve()
    found = {}
    for step in (STEPS // 2, STEPS):
        output = tmp_path / f"step-{step}"
        config = ProbeConfig(step=step, finetune=cola(task_data, "checkpoint"))
        run(config, StageContext(output=UPath(output), inputs=inputs, tracker=tracker))
        found[step] = losses(output)
    export(ExportConfig(), StageContext(output=UPath(tmp_path / "export"), inputs=inputs))
    networks = json.loads((tmp_path / "export" / "networks.json").read_text())
    assert networks["parameters"].keys() == {"discriminator", "generator"}
    assert all(row for row in networks["heldout"]["rows"])
    model = str(tmp_path / "export" / "discriminator")
    finetune(cola(task_data, model), StageContext(output=UPath(tmp_path / "finetune")))
    assert found[STEPS] == losses(tmp_path / "finetune")
    assert found[STEPS // 2] != found[STEPS]
    assert set(tracker.points) == set(found)
    assert set(tracker.points[STEPS]) == {"cola/matthews", "cola/accuracy"}


def test_a_checkpoint_that_is_gone_is_told(inputs, task_data, tmp_path):
    config = ProbeConfig(step=3, finetune=cola(task_data, "checkpoint"))
    with pytest.raises(FileNotFoundError, match="the checkpoint of step 3 is not there"):
        run(config, StageContext(output=UPath(tmp_path), inputs=inputs))
