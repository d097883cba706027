"""What a task's model learns from, how fast each layer learns, and what a random start changes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stages.electra.config import IGNORED, ElectraConfig
from stages.electra.files.huggingface import flatten
from stages.tasks.base import Features, load_work
from stages.tasks.kinds import TaskKind
from stages.tasks.model import init_model, make_layer_scale, make_predict, make_task_loss

CONFIG = ElectraConfig(
    vocab_size=20,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
)


def _batch(kind: TaskKind) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    labels = {
        TaskKind.CLASSIFICATION: {"label": np.array([0, 2, 1], np.int32)},
        TaskKind.TAGGING: {"labels": np.where(np.arange(8) < 3, random.integers(0, 3, (3, 8)), IGNORED)},
        TaskKind.MULTI_LABEL: {"label": np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32)},
        TaskKind.REGRESSION: {"label": np.array([0.0, 0.5, 1.0], np.float32)},
        TaskKind.QUESTION_ANSWERING: {"start": np.array([0, 1, 2]), "end": np.array([0, 3, 2])},
        TaskKind.ANSWERABILITY: {
            "start": np.array([0, 1, 2]),
            "end": np.array([0, 3, 2]),
            "unanswerable": np.array([1, 0, 0], np.float32),
        },
    }[kind]
    return labels | {
        "ids": random.integers(5, 20, (3, 8)).astype(np.int32),
        "length": np.array([8, 5, 4], np.int32),
        "first_length": np.array([4, 5, 2], np.int32),
        "weight": np.ones(3, np.float32),
    }


@pytest.mark.parametrize("kind", list(TaskKind))
def test_padding_and_rows_without_weight_change_no_loss(kind: TaskKind) -> None:
    graphdef, params = init_model(kind, config=CONFIG, num_labels=3, seed=0)
    loss_fn = jax.jit(make_task_loss(graphdef, kind, dtype="float32"), static_argnames="train")
    batch = _batch(kind)
    expected, _ = loss_fn(params, batch, jax.random.split(jax.random.key(0), 3), train=False)

    padded = dict(batch)
    padded["ids"] = np.pad(batch["ids"], ((0, 2), (0, 5)), constant_values=7)
    for name in ("length", "first_length", "label", "start", "end", "unanswerable"):
        if name in batch:
            padded[name] = np.pad(batch[name], [(0, 2), *[(0, 0)] * (batch[name].ndim - 1)], mode="edge")
    if "labels" in batch:
        padded["labels"] = np.pad(
            np.pad(batch["labels"], ((0, 0), (0, 5)), constant_values=IGNORED), ((0, 2), (0, 0)), mode="edge"
        )
    padded["weight"] = np.array([1, 1, 1, 0, 0], np.float32)
    found, _ = loss_fn(params, padded, jax.random.split(jax.random.key(0), 3), train=False)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_loss_is_the_mean_cross_entropy() -> None:
    kind = TaskKind.CLASSIFICATION
    graphdef, params = init_model(kind, config=CONFIG, num_labels=3, seed=0)
    batch = _batch(kind)
    loss, sums = jax.jit(make_task_loss(graphdef, kind, dtype="float32"), static_argnames="train")(
        params, batch, jax.random.split(jax.random.key(0), 3), train=False
    )
    logits = np.asarray(make_predict(graphdef, dtype="float32")(params, batch))
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert float(loss) == pytest.approx(-log_shares[np.arange(3), batch["label"]].mean(), rel=1e-5)
    assert {name: float(value) for name, value in sums.items() if name != "loss"} == {
        "targets": 3.0,
        "examples": 3.0,
        "tokens": 17.0,
    }


def _loss_and_logits(kind: TaskKind, batch: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    graphdef, params = init_model(kind, config=CONFIG, num_labels=3, seed=0)
    loss_fn = jax.jit(make_task_loss(graphdef, kind, dtype="float32"), static_argnames="train")
    loss, _ = loss_fn(params, batch, jax.random.split(jax.random.key(0), 3), train=False)
    return float(loss), np.asarray(make_predict(graphdef, dtype="float32")(params, batch), np.float64)


def test_classes_count_by_their_weight() -> None:
    batch = _batch(TaskKind.CLASSIFICATION) | {"label_weight": np.array([1.0, 4.0, 0.0], np.float32)}
    loss, logits = _loss_and_logits(TaskKind.CLASSIFICATION, batch)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), batch["label"]]
    assert loss == pytest.approx((losses[0] + 4 * losses[1]) / 5, rel=1e-5)


def test_the_loss_of_several_labels_is_the_mean_binary_cross_entropy() -> None:
    weight = np.array([[1, 3, 3], [1, 1, 1], [2, 1, 1]], np.float32)
    batch = _batch(TaskKind.MULTI_LABEL) | {"label_weight": weight}
    loss, logits = _loss_and_logits(TaskKind.MULTI_LABEL, batch)
    shares = 1 / (1 + np.exp(-logits))
    losses = -np.where(batch["label"] > 0, np.log(shares), np.log(1 - shares))
    assert loss == pytest.approx((losses * weight).mean(), rel=1e-5)


def test_the_loss_of_a_number_is_its_mean_squared_error() -> None:
    batch = _batch(TaskKind.REGRESSION)
    loss, logits = _loss_and_logits(TaskKind.REGRESSION, batch)
    assert loss == pytest.approx(np.square(logits[:, 0] - batch["label"]).mean(), rel=1e-5)


def test_no_answer_costs_half_of_its_cross_entropy_beside_the_span() -> None:
    batch = _batch(TaskKind.ANSWERABILITY)
    loss, logits = _loss_and_logits(TaskKind.ANSWERABILITY, batch)
    assert (logits[:, :, 2] == logits[:, :1, 2]).all()
    spans = 0.0
    for row, length in enumerate(batch["length"]):
        for column, name in enumerate(("start", "end")):
            values = logits[row, :length, column]
            spans += (np.log(np.exp(values).sum()) - values[batch[name][row]]) / 2
    share = 1 / (1 + np.exp(-logits[:, 0, 2]))
    none = -np.where(batch["unanswerable"] > 0, np.log(share), np.log(1 - share))
    assert loss == pytest.approx(spans / 3 + 0.5 * none.mean(), rel=1e-5)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_dropout_follows_the_key(kind: TaskKind) -> None:
    graphdef, params = init_model(kind, config=CONFIG, num_labels=3, seed=0)
    loss_fn = jax.jit(make_task_loss(graphdef, kind, dtype="float32"), static_argnames="train")

    def loss(key: int, *, train: bool = True) -> float:
        return float(loss_fn(params, _batch(kind), jax.random.split(jax.random.key(key), 3), train=train)[0])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)
    assert loss(0, train=False) == loss(1, train=False)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_random_and_pretrained_runs_differ_in_the_backbone_only(kind: TaskKind) -> None:
    _, random = init_model(kind, config=CONFIG, num_labels=3, seed=1)
    _, other = init_model(kind, config=CONFIG, num_labels=3, seed=2)
    backbone = {name: other[name] for name in ("embeddings", "encoder")}
    _, pretrained = init_model(kind, config=CONFIG, num_labels=3, seed=1, backbone=backbone)

    def equal(a: object, b: object) -> bool:
        return all(jnp.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert equal(pretrained["head"], random["head"])
    assert equal(pretrained["encoder"], other["encoder"])
    assert not equal(pretrained["encoder"], random["encoder"])
    assert not equal(random["head"], other["head"])


@pytest.mark.parametrize(("offset", "last"), [(1, 0.5), (2, 0.25)])
def test_lower_layers_learn_slower(offset: int, last: float) -> None:
    scale = make_layer_scale(num_layers=12, decay=0.5, offset=offset)
    assert scale("head/dense/kernel") == 1.0
    assert scale("encoder/layers/11/output/kernel") == last
    assert scale("encoder/layers/10/output/kernel") == last / 2
    assert scale("encoder/layers/1/output/kernel") == last / 2**10
    assert scale("embeddings/word/embedding") == last / 2**12
    assert scale("encoder/embeddings_project/bias") == last / 2**12


@pytest.mark.parametrize("path", ["encoder/layers/12/output/kernel", "encoder/extra/kernel", "pooler/kernel"])
def test_a_parameter_of_no_layer_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match=path):
        make_layer_scale(num_layers=12, decay=0.8, offset=1)(path)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_every_parameter_has_a_rate(kind: TaskKind) -> None:
    _, params = init_model(kind, config=CONFIG, num_labels=3, seed=0)
    scale = make_layer_scale(num_layers=2, decay=0.8, offset=2)
    assert {round(scale(path), 6) for path in flatten(params)} == {
        1.0,
        round(0.8**2, 6),
        round(0.8**3, 6),
        round(0.8**4, 6),
    }


def test_the_loss_of_a_constant_guess() -> None:
    features = Features(
        ids=[np.zeros(8, np.int32)] * 4,
        first_length=np.full(4, 3),
        examples=np.arange(4),
        labels={
            "label": np.array([0, 0, 0, 1]),
            "labels": [np.array([IGNORED, 0, 0, IGNORED])] * 3 + [np.array([1, 1, IGNORED, IGNORED])],
        },
    )
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert load_work(TaskKind.CLASSIFICATION).constant_loss(features) == pytest.approx(entropy)
    assert load_work(TaskKind.TAGGING).constant_loss(features) == pytest.approx(entropy)
    assert load_work(TaskKind.QUESTION_ANSWERING).constant_loss(features) == pytest.approx(math.log(6))


def _constant_features(**labels: np.ndarray) -> Features:
    return Features(ids=[np.zeros(8, np.int32)] * 4, first_length=np.full(4, 3), examples=np.arange(4), labels=labels)


def test_the_loss_of_a_constant_guess_is_the_smallest_one() -> None:
    label = np.array([0, 0, 0, 1])
    weighted = _constant_features(label=label, label_weight=np.array([1.0, 1.0, 1.0, 3.0]))
    assert load_work(TaskKind.CLASSIFICATION).constant_loss(weighted) == pytest.approx(math.log(2))
    number = _constant_features(label=label.astype(np.float32))
    assert load_work(TaskKind.REGRESSION).constant_loss(number) == pytest.approx(3 / 16)

    several = np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.float32)
    weight = np.where(several > 0, 2.0, 1.0)
    guesses = np.linspace(0.001, 0.999, 999)
    smallest = np.mean(
        [
            min(-(w * np.where(side, np.log(p), np.log(1 - p))).mean() for p in guesses)
            for side, w in zip(several.T > 0, weight.T, strict=True)
        ]
    )
    found = load_work(TaskKind.MULTI_LABEL).constant_loss(_constant_features(label=several, label_weight=weight))
    assert found == pytest.approx(smallest, rel=1e-4)

    none = _constant_features(unanswerable=np.array([1, 1, 0, 0], np.float32))
    expected = math.log(6) / 2 + 1.5 * math.log(2)
    assert load_work(TaskKind.ANSWERABILITY).constant_loss(none) == pytest.approx(expected)
