"""What a pretraining leaves for `export`, without the pretraining: a tiny pair of networks and the stages' records."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from upath import UPath

from stages.data.builders import Packing
from stages.data.rows import Layout, Rows
from stages.data.shard_index import ShardIndex
from stages.data.shards import write_shard
from stages.electra.files.model_folder import save_parameters
from stages.electra.joint_model import Electra, split
from stages.electra.sizes import ModelConfig, Size
from stages.electra.tokenizer import SPECIAL_TOKENS, build_tokenizer, transformers_settings


def make_inputs(folder: Path, *, words: Sequence[str], num_positions: int) -> dict[str, UPath]:
    """Folders of `vocab`, `shard` and `pretrain`, as far as `export` reads them."""
    inputs = {name: UPath(folder / name) for name in ("vocab", "shard", "pretrain")}
    for path in (inputs["vocab"], inputs["shard"], inputs["pretrain"] / "model"):
        path.mkdir(parents=True)
    configs = dict(
        zip(
            ("discriminator", "generator"),
            ModelConfig(
                size=Size.TINY,
                embedding_size=24,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=num_positions,
            ).resolve(len(words)),
            strict=True,
        )
    )
    shapes = jax.eval_shape(lambda: split(Electra(*configs.values(), key=jax.random.key(0)))[1])
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    save_parameters(inputs["pretrain"] / "model" / "parameters.safetensors", params)

    def write(stage: str, file: str, value: object) -> None:
        (inputs[stage] / file).write_text(json.dumps(value))

    write("pretrain", "model/config.json", {name: config.to_dict() for name, config in configs.items()})
    heldout = {"replaced/auc": 0.8125, "loss/discriminator": 0.25, "masked/accuracy": 0.5}
    write("pretrain", "result.json", {"steps": 1000, "heldout": heldout, "num_processes": 2, "device_kind": "cpu"})
    settings = {
        "batch_size": 64,
        "learning_rate": 5e-4,
        "optimizer": "adam",
        "compute_dtype": "float32",
        "objective": {"kind": "replaced_token_detection", "mask_fraction": 0.25, "temperature": 1.0},
        "model": {"size": "tiny"},
    }
    write("pretrain", "config.json", {"stage": "pretrain", "config": settings})
    write("pretrain", "manifest.json", {"git_commit": "abc123"})
    tokenizer = build_tokenizer(words, lowercase=True)
    write("vocab", "tokenizer_config.json", transformers_settings(tokenizer))
    write("vocab", "info.json", {"size": len(words), "lowercase": True, "strip_accents": False})
    (inputs["vocab"] / "vocab.txt").write_text("\n".join(words) + "\n")
    (inputs["vocab"] / "tokenizer.json").write_text(tokenizer.to_str())
    special_ids = {name: words.index(token) for name, token in SPECIAL_TOKENS.items()}
    layout = Layout(sequence_length=32, special_ids=special_ids, dtype=np.dtype(np.uint16))
    heldout = Rows.of([([len(words) - 1] * 20, []), ([len(words) - 2] * 9, [])], layout=layout)
    ShardIndex(
        sequence_length=32,
        packing=Packing.PAIRS,
        vocab_size=len(words),
        tokenizer_sha256="ab",
        special_ids=special_ids,
        counts={"train": {"documents": 1234, "tokens": 500_000, "rows": 32_000}},
        train=(),
        heldout=(write_shard(inputs["shard"], file="heldout/shard-0.arrow", rows=heldout),),
    ).write(inputs["shard"])
    return inputs
