"""Twenty fine-tuning steps of ours, and of the benchmarks' torch loop, from the same files: the same weights.

Dropout is off, all rows are in every batch, and the head starts as ours.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from upath import UPath

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stages.electra import ElectraConfig, ElectraForPreTraining, ElectraTokenizer  # noqa: E402
from stages.electra.files.huggingface import Architecture, to_huggingface  # noqa: E402
from stages.electra.files.model_folder import load_backbone  # noqa: E402
from stages.electra.tokenizer import build_tokenizer  # noqa: E402
from stages.tasks.base import Split, TaskOptions  # noqa: E402
from stages.tasks.buckets import make_batch  # noqa: E402
from stages.tasks.kinds import KINDS  # noqa: E402
from stages.tasks.model import init_model, make_layer_scale, make_task_loss  # noqa: E402
from stages.tasks.named import TaskName  # noqa: E402
from stages.tasks.registry import make_task  # noqa: E402
from stages.tasks.tokens import WordPiece  # noqa: E402
from stages.training.config import OptimizerConfig  # noqa: E402
from stages.training.optimizer import make_optimizer  # noqa: E402
from stages.training.state import init_state, make_train_step  # noqa: E402

pytestmark = pytest.mark.parity

NUM_STEPS, NUM_LAYERS, MAX_LENGTH, TOLERANCE = 20, 2, 16, 1e-5
WORDS = "the a cat dog fox sat ran on mat ##s .".split()  # noqa: SIM905
FILES = {
    "mrpc": {
        "train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t1\t2\tthe cats " ran .\ta Cat ran .\n0\t1\t2\tthe dog ran on the mat .\ta fox sat .\n'
    },
    "conll2000": {
        "train.txt": "the DT B-NP\ncats NN I-NP\nsat VBD B-VP\non IN B-PP\nthe DT B-NP\nmat NN I-NP\n. . O\n\n"
        "a DT B-NP\ndogs NN I-NP\nran VBZ B-VP\n. . O\n\n"
    },
}


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The torch loop."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import torch_finetune

    return torch_finetune


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = ElectraConfig(
        vocab_size=len(tokens),
        embedding_size=24,
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    tokenizer = ElectraTokenizer(build_tokenizer(tokens, lowercase=True))
    ElectraForPreTraining(config).save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    return tmp_path / "model"


@pytest.fixture(params=FILES)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    for name, text in FILES[request.param].items():
        for split in ("train", "test" if request.param == "conll2000" else "dev"):
            (tmp_path / name.replace("train", split)).write_text(text)
    return request.param


@pytest.fixture
def settings(loop: Any, model: Path) -> Any:
    return loop.Settings(
        model=str(model),
        seed=0,
        epochs=NUM_STEPS,
        max_length=MAX_LENGTH,
        batch_size=4,
        learning_rate=1e-3,
        layer_decay=0.8,
        weight_decay=0.1,
        warmup_fraction=0.25,
        clip_norm=1.0,
    )


def train_both(loop: Any, task: str, folder: Path, ours: Any, theirs: Any) -> tuple[float, float]:
    """The largest difference between what both end with, and between that and where they began."""
    config, backbone = load_backbone(ours.model)
    known = make_task(TaskName(task), TaskOptions(max_length=MAX_LENGTH))
    data = known.load(UPath(folder))
    tokenizer = WordPiece.from_file(UPath(ours.model) / "tokenizer.json")
    features = known.features(data.train, tokenizer, labels=data.labels, split=Split.TRAIN)
    graphdef, params = init_model(known.kind, config=config, num_labels=len(data.labels), seed=0, backbone=backbone)
    config = config.change(num_labels=len(data.labels))

    def named(params: Any) -> dict[str, np.ndarray]:
        return to_huggingface(
            jax.device_get(params), config=config, architecture=Architecture(KINDS[known.kind].architecture)
        )

    start = named(params)
    optimizer = make_optimizer(
        OptimizerConfig(
            learning_rate=ours.learning_rate,
            steps=NUM_STEPS,
            warmup_steps=round(NUM_STEPS * ours.warmup_fraction),
            weight_decay=ours.weight_decay,
            clip_norm=ours.clip_norm,
        ),
        lr_scale=make_layer_scale(num_layers=NUM_LAYERS, decay=ours.layer_decay, offset=1),
    )
    step = make_train_step(make_task_loss(graphdef, known.kind, dtype="float32"), optimizer)
    state, size = init_state(params, optimizer, key=jax.random.key(0)), features.num_rows
    batch = make_batch(features, np.arange(size), buckets=(MAX_LENGTH,), batch_size=size, pad=tokenizer.pad)
    for _ in range(NUM_STEPS):
        state, _ = step(state, batch)

    train, _ = loop.read(task, folder)
    rows = loop.encode(
        train,
        data.labels if task == "conll2000" else ("0", "1"),
        transformers.AutoTokenizer.from_pretrained(theirs.model),
        max_length=theirs.max_length,
    )
    network = loop.make_model(theirs, is_tagging=task == "conll2000", num_labels=len(data.labels))
    network.load_state_dict({name: torch.tensor(value) for name, value in start.items()})
    adam = loop.Adam(network, theirs, num_steps=NUM_STEPS, num_layers=NUM_LAYERS)
    for _ in range(NUM_STEPS):
        network(**loop.collate(rows)).loss.backward()
        adam.step()
    found = {name: value.numpy() for name, value in network.state_dict().items()}
    return largest_difference(named(state.params), found), largest_difference(start, found)


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def test_twenty_steps_end_where_torch_ends(loop, task, tmp_path, settings):
    difference, moved = train_both(loop, task, tmp_path, settings, settings)
    assert moved > 1e-2
    assert difference < TOLERANCE


@pytest.mark.parametrize("change", [{"layer_decay": 0.9}, {"warmup_fraction": 0.5}, {"weight_decay": 0.0}], ids=str)
def test_another_setting_ends_elsewhere(loop, task, tmp_path, settings, change):
    difference, _ = train_both(loop, task, tmp_path, settings, replace(settings, **change))
    assert difference > 10 * TOLERANCE


def test_the_torch_loop_trains_and_scores(loop, task, tmp_path, settings):
    assert all(0 <= value <= 100 for value in loop.finetune(task, tmp_path, settings).values())
