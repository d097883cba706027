"""Pretraining as a stage, in this process: what is configured, what is kept, and what it goes on from."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from killed_runs import recorded, run_killed_at
from upath import UPath

from stages.context import StageContext
from stages.data.builders import Packing
from stages.data.rows import Layout, Rows
from stages.data.shard_index import ShardIndex
from stages.data.shards import write_shard
from stages.electra.config import ElectraConfig
from stages.electra.files.huggingface import flatten
from stages.electra.files.model_folder import load_parameters, save_pretrained
from stages.electra.objectives.objective import ObjectiveConfig, ObjectiveKind
from stages.electra.sizes import EmbeddingSharing, ModelConfig, Size
from stages.pretrain.config import InitFrom, PretrainConfig
from stages.pretrain.worker import pretrain
from stages.training.config import OptimizerName, ScheduleName
from stages.training.loop import NonFiniteError

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
LAYOUT = Layout(sequence_length=16, special_ids=SPECIAL_IDS, dtype=np.dtype(np.uint16))
TINY = ModelConfig(
    size=Size.TINY,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=32,
    max_position_embeddings=16,
)
CONFIG = PretrainConfig(
    model=TINY,
    steps=16,
    batch_size=4,
    learning_rate=1e-3,
    warmup_steps=2,
    log_every=4,
    eval_every=16,
    eval_batches=1,
    checkpoint_every=6,
    keep_checkpoints=1,
)
SHORT = replace(CONFIG, steps=2, warmup_steps=1, milestones=(100.0,))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> UPath:
    """Shards of sixteen tokens a row, of a vocabulary of sixty."""
    folder, random = UPath(tmp_path_factory.mktemp("shards")), np.random.default_rng(0)
    written = {}
    for split, num_rows in (("train", 40), ("heldout", 4)):
        segments = [
            (random.integers(5, 60, 1 + row % 8).tolist(), random.integers(5, 60, row % 5).tolist())
            for row in range(num_rows)
        ]
        rows = Rows.of(segments, layout=LAYOUT)
        written[split] = write_shard(folder, file=f"{split}/shard-0.arrow", rows=rows)
    ShardIndex(
        sequence_length=16,
        vocab_size=60,
        packing=Packing.PAIRS,
        tokenizer_sha256="ab",
        special_ids=SPECIAL_IDS,
        counts={},
        train=(written["train"],),
        heldout=(written["heldout"],),
    ).write(folder)
    return folder


def run(output: Path, shards: UPath, config: PretrainConfig) -> Path:
    output.mkdir(exist_ok=True)
    pretrain(config, StageContext(output=UPath(output), inputs={"shard": shards}))
    return output


def parameters(folder: Path) -> dict[str, np.ndarray]:
    return flatten(load_parameters(UPath(folder) / "model" / "parameters.safetensors"))


def export(folder: Path, output: Path) -> tuple[str, str]:
    """Hugging Face folders of what was pretrained: discriminator and generator."""
    params = load_parameters(UPath(folder) / "model" / "parameters.safetensors")
    configs = json.loads((folder / "model" / "config.json").read_text())
    for name, architecture in (("discriminator", "ElectraForPreTraining"), ("generator", "ElectraForMaskedLM")):
        save_pretrained(
            UPath(output / name),
            architecture=architecture,
            config=ElectraConfig.from_dict(configs[name]),
            params={
                "embeddings": params["embeddings"],
                "encoder": params.get(name, params["discriminator"]),
                "head": params[f"{name}_head"],
            },
        )
    return str(output / "discriminator"), str(output / "generator")


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), shards, CONFIG)


def test_milestones_stay_beside_the_newest_checkpoint(whole):
    kept = {int(entry.name) for entry in (whole / "checkpoints").iterdir()}
    assert kept == {1, 2, 4, 8, 16} == CONFIG.milestone_steps


def test_a_flipped_bit_in_the_newest_checkpoint_is_told_and_the_one_before_gives_the_same_bits(whole, shards, tmp_path):
    damaged = Path(shutil.copytree(whole, tmp_path / "damaged"))
    (damaged / "result.json").unlink()
    path = max((damaged / "checkpoints" / "16" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    run(damaged, shards, CONFIG)
    result = json.loads((damaged / "result.json").read_text())
    assert result["resumed_from_step"] == 8
    (told,) = result["passed_over_checkpoints"]
    assert "checkpoints/16: this checkpoint is damaged and is passed over" in told
    found, expected = parameters(damaged), parameters(whole)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_run_goes_on_from_released_weights_with_a_fresh_optimizer_and_a_new_warm_up(whole, shards, tmp_path):
    discriminator, generator = export(whole, tmp_path)
    init_from = InitFrom(discriminator=discriminator, generator=generator)
    # A rate so low that nothing moves: what is saved is what was loaded, all of it.
    still = replace(CONFIG, init_from=init_from, steps=1, warmup_steps=0, learning_rate=1e-30, checkpoint_every=1)
    found, expected = parameters(run(tmp_path / "still", shards, still)), parameters(whole)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    rows = [json.loads(line) for line in (tmp_path / "still" / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {1}


def test_a_shared_encoder_starts_from_either_model_and_not_from_two_that_differ(whole, shards, tmp_path):
    model = replace(TINY, generator_multiplier=None, shared_encoder=True)
    first = replace(CONFIG, model=model, steps=1, warmup_steps=0, checkpoint_every=1)
    start = run(tmp_path / "start", shards, first)
    (tmp_path / "a").mkdir()
    discriminator, generator = export(start, tmp_path / "a")
    still = replace(first, init_from=InitFrom(generator=generator), learning_rate=1e-30)
    found, expected = parameters(run(tmp_path / "still", shards, still)), parameters(start)
    assert found.keys() == expected.keys()
    for name in expected:
        if not name.startswith("discriminator_head"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    other = run(tmp_path / "other", shards, replace(first, seed=1))
    (tmp_path / "b").mkdir()
    _, foreign = export(other, tmp_path / "b")
    both = replace(still, init_from=InitFrom(discriminator=discriminator, generator=foreign))
    with pytest.raises(ValueError, match="cannot be shared"):
        run(tmp_path / "both", shards, both)


def test_weights_of_another_size_are_refused_with_what_to_change(whole, shards, tmp_path):
    discriminator, generator = export(whole, tmp_path)
    wider = replace(CONFIG, model=replace(TINY, intermediate_size=64), init_from=InitFrom(discriminator=discriminator))
    with pytest.raises(
        ValueError, match=r"intermediate_size is 32, this run's discriminator has 64; change pretrain.mod"
    ):
        run(tmp_path / "wider", shards, wider)
    swapped = replace(CONFIG, init_from=InitFrom(discriminator=generator))
    with pytest.raises(ValueError, match=r"is an ElectraForMaskedLM, must be ElectraForPreTraining"):
        run(tmp_path / "swapped", shards, swapped)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": ObjectiveConfig(kind=ObjectiveKind.MASKED_LANGUAGE_MODELING)},
        {"model": replace(TINY, embedding_sharing=EmbeddingSharing.UNTIED), "gradient_accumulation_steps": 2},
        {"model": replace(TINY, generator_multiplier=None, shared_encoder=True, local_attention=True)},
        {"objective": ObjectiveConfig(uniform_generator=True), "optimizer": OptimizerName.LAMB},
        {
            "objective": ObjectiveConfig(kind=ObjectiveKind.REPLACE_MLM),
            "model": replace(TINY, embedding_sharing=EmbeddingSharing.DISENTANGLED),
        },
        {"objective": ObjectiveConfig(kind=ObjectiveKind.ALL_TOKENS_MLM), "gradient_accumulation_steps": 2},
        {"objective": ObjectiveConfig(kind=ObjectiveKind.ELECTRIC)},
    ],
    ids=["mlm", "untied", "shared and local", "uniform", "replace, disentangled", "all tokens", "electric"],
)
def test_every_kind_of_run_reaches_its_end(shards, tmp_path, changes):
    output = run(tmp_path / "out", shards, replace(CONFIG, steps=2, warmup_steps=1, **changes))
    result = json.loads((output / "result.json").read_text())
    assert result["steps"] == 2
    assert np.isfinite(result["heldout"]["loss/total"])


def test_packed_rows_train_as_far_and_are_refused_where_they_cannot(shards, tmp_path):
    packed, random = UPath(tmp_path / "packed"), np.random.default_rng(0)
    written = {}
    for split, num_rows in (("train", 8), ("heldout", 3)):
        segments = [(random.integers(5, 60, 14).tolist(), [])] * num_rows
        rows = Rows.of(segments, layout=LAYOUT, begins=[[0, 6]] * num_rows)
        written[split] = (write_shard(packed, file=f"{split}/shard-0.arrow", rows=rows),)
    replace(ShardIndex.read(shards), packing=Packing.PACKED, **written).write(packed)
    short = replace(CONFIG, steps=2, warmup_steps=1)
    result = json.loads((run(tmp_path / "out", packed, short) / "result.json").read_text())
    assert np.isfinite(result["heldout"]["loss/total"])
    with pytest.raises(ValueError, match="electric reads one text a row"):
        run(tmp_path / "electric", packed, replace(short, objective=ObjectiveConfig(kind=ObjectiveKind.ELECTRIC)))


def test_a_loss_that_is_not_finite_ends_the_stage(shards, tmp_path):
    with pytest.raises(NonFiniteError, match=r"rows of this batch: \[\d+, \d+, \d+, \d+\]; last good checkpoint"):
        run(tmp_path / "out", shards, replace(CONFIG, learning_rate=1e30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"milestones": (0.0,)}, "milestones has 0.0, must be percentages above 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"schedule": ScheduleName.WSD, "warmup_steps": 15}, r"warmup_steps is 15, must be at most 14.4"),
        (
            {"objective": ObjectiveConfig(uniform_generator=True), "init_from": InitFrom(generator="a/b")},
            "init_from has a generator, but this objective trains none",
        ),
        (
            {
                "objective": ObjectiveConfig(kind=ObjectiveKind.MASKED_LANGUAGE_MODELING),
                "init_from": InitFrom(discriminator="a/b"),
            },
            "init_from has a discriminator, but this objective trains none",
        ),
        (
            {"model": replace(TINY, local_attention=True), "init_from": InitFrom(discriminator="a/b")},
            "model.local_attention is true, but init_from has weights to start with",
        ),
        (
            {"objective": ObjectiveConfig(kind=ObjectiveKind.REPLACE_MLM), "init_from": InitFrom(discriminator="a/b")},
            "init_from is given, but replace_mlm starts from random weights only",
        ),
        (
            {"objective": ObjectiveConfig(kind=ObjectiveKind.ELECTRIC), "model": replace(TINY, local_attention=True)},
            "model.local_attention is true, but electric's generator has two towers",
        ),
    ],
)
def test_impossible_runs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_a_start_from_nothing_is_refused():
    with pytest.raises(ValueError, match="names no model"):
        InitFrom()


def test_parts_that_do_not_divide_the_batch_are_refused(shards, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size is 4, must be a multiple of 3: 1 devices x gradient_accum"):
        run(tmp_path / "out", shards, replace(CONFIG, gradient_accumulation_steps=3))


LONG = replace(
    CONFIG, steps=3000, warmup_steps=100, log_every=10, eval_every=1000, checkpoint_every=70, keep_checkpoints=2
)


def last_state(output: Path) -> dict[str, np.ndarray]:
    """Parameters, optimizer state and key after the last step."""
    state = ocp.StandardCheckpointer().restore(output / "checkpoints" / str(LONG.steps) / "state")
    state["key"] = jax.random.key_data(state["key"])
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


@pytest.mark.slow
def test_killed_at_ten_random_steps_it_ends_with_the_same_bits(shards, tmp_path):
    whole, killed = run(tmp_path / "whole", shards, LONG), tmp_path / "killed"
    killed.mkdir()
    chance = random.Random(0)
    steps = chance.sample(range(20, LONG.steps - 200), 10)
    context = StageContext(output=UPath(killed), inputs={"shard": shards})
    run_killed_at(steps, pretrain, LONG, context, output=killed, chance=chance)
    # It goes on from one of the last checkpoints.
    assert (
        json.loads((killed / "result.json").read_text())["resumed_from_step"] >= max(steps) - 3 * LONG.checkpoint_every
    )

    assert recorded(killed) == recorded(whole)
    expected, found = last_state(whole), last_state(killed)
    assert found.keys() == expected.keys()
    assert any("opt_state" in name for name in expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


_ON_FOUR_DEVICES = """
    import sys
    from upath import UPath
    from cluster.config import ClusterConfig, MeshConfig
    from stages.context import StageContext
    from stages.pretrain.worker import pretrain
    from test_pretrain import SHORT

    output, shards = (UPath(folder) for folder in sys.argv[1:])
    cluster = ClusterConfig(mesh=MeshConfig(fsdp=2, tensor=2))
    pretrain(SHORT, StageContext(output=output, inputs={"shard": shards}, cluster=cluster))
"""


def test_a_model_that_is_split_over_devices_is_saved_whole(shards, tmp_path):
    expected = parameters(run(tmp_path / "one", shards, SHORT))
    (tmp_path / "four").mkdir()
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": ":".join([str(Path(__file__).parent), *(entry for entry in sys.path if entry)]),
    }
    command = [sys.executable, "-c", textwrap.dedent(_ON_FOUR_DEVICES), str(tmp_path / "four"), str(shards)]
    subprocess.run(command, env=environment, check=True)
    found = parameters(tmp_path / "four")
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
