"""Joint spans and 'no answer': the heads against numpy, the search against an exhaustive one, exports that answer."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stages.electra.config import ElectraConfig, HeadKind
from stages.electra.joint_model import merge, split
from stages.tasks.answers import BEAM_SIZE, AnswerHead
from stages.tasks.kinds import TaskKind
from stages.tasks.model import init_model, make_predict, make_task_loss
from stages.tasks.spans import Window, window_candidates

CONFIG = ElectraConfig(
    vocab_size=20,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=64,
    initializer_range=0.5,
)
B, T, D = 3, 40, CONFIG.hidden_size
LENGTHS, FIRST = np.array([40, 31, 12]), np.array([5, 4, 6])
positions = np.arange(T)[None, :]
MASK = positions < LENGTHS[:, None]
TYPES = (MASK & (positions >= FIRST[:, None])).astype(np.int32)
CONTEXT = (positions >= FIRST[:, None]) & (positions < LENGTHS[:, None] - 1)
# What google-research/electra lets an answer be: input_mask * segment_ids, and [CLS].
ANSWER_MASK = MASK * TYPES + (positions == 0) > 0


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.fixture(params=[False, True], ids=["answered", "perhaps"])
def head(request: pytest.FixtureRequest) -> tuple[Callable[..., np.ndarray], Any, np.ndarray]:
    """A joint head, its parameters in float64 with biases that are not 0, and vectors to put in."""
    made = AnswerHead(CONFIG, kind=HeadKind.ORIGINAL, unanswerable=request.param, key=jax.random.key(1))
    graphdef, params = split(made)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32) / 4, params)
    x_BTD = random.normal(size=(B, T, D)).astype(np.float32)

    def logits(start_B: np.ndarray | None = None, params: Any = params) -> np.ndarray:
        found = merge(graphdef, jax.tree.map(jnp.float32, params))(
            jnp.asarray(x_BTD),
            jnp.asarray(MASK),
            jnp.asarray(TYPES),
            start_B=None if start_B is None else jnp.asarray(start_B),
            dtype=jnp.float32,
        )
        return np.asarray(found)

    return logits, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), x_BTD.astype(np.float64)


def _dense(x: np.ndarray, params: Any) -> np.ndarray:
    return x @ params["kernel"] + params["bias"]


def _ends(x_TD: np.ndarray, start: int, params: Any) -> np.ndarray:
    """What the paper's code computes: each token beside the start, dense, gelu, dense."""
    both = np.concatenate([x_TD, np.broadcast_to(x_TD[start], x_TD.shape)], axis=-1)
    return _dense(_gelu(_dense(both, params["dense"])), params["prediction"])[:, 0]


def _log_softmax(logits_T: np.ndarray) -> np.ndarray:
    return logits_T - np.log(np.exp(logits_T).sum())


def test_the_end_is_scored_beside_the_start(head: Any) -> None:
    logits, params, x_BTD = head
    start_B = np.array([7, 0, 9])
    found = logits(start_B)
    for row, start in enumerate(start_B):
        real = ANSWER_MASK[row]
        starts = _log_softmax(_dense(x_BTD[row, real], params["prediction"])[:, 0])
        ends = _log_softmax(_ends(x_BTD[row], start, params["end"])[real])
        np.testing.assert_allclose(found[row, real, 0], starts, atol=1e-5)
        np.testing.assert_allclose(found[row, real, 1], ends, atol=1e-4)
    assert found.shape[-1] == 2 + ("unanswerable" in params)


def test_the_likeliest_starts_of_the_context_are_followed_up_in_their_order(head: Any) -> None:
    logits, params, x_BTD = head
    found = logits()
    for row in range(B):
        places = np.nonzero(CONTEXT[row])[0]
        best = places[np.argsort(-found[row, places, 0], kind="stable")][:BEAM_SIZE]
        real = ANSWER_MASK[row]
        for number, start in enumerate(best):
            ends = _log_softmax(_ends(x_BTD[row], start, params["end"])[real])
            np.testing.assert_allclose(found[row, real, 1 + number], ends, atol=1e-4)
    assert found.shape[-1] == 1 + BEAM_SIZE + ("unanswerable" in params)


@pytest.mark.parametrize("kind", list(HeadKind))
def test_no_answer_is_judged_by_cls_and_by_where_an_answer_would_start(kind: HeadKind) -> None:
    graphdef, params = split(AnswerHead(CONFIG, kind=kind, unanswerable=True, key=jax.random.key(1)))
    x_BTD = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    found = merge(graphdef, params)(x_BTD, jnp.asarray(MASK), jnp.asarray(TYPES), start_B=None, dtype=jnp.float32)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for row in range(B):
        seen = ANSWER_MASK[row] if kind is HeadKind.ORIGINAL else MASK[row]
        x_TD = x_BTD[row, seen].astype(np.float64)
        starts = _dense(x_TD, params["prediction"])[:, 0]
        weights = np.exp(starts) / np.exp(starts).sum()
        both = np.concatenate([x_TD[0], weights @ x_TD])
        none = params["unanswerable"]
        expected = _dense(_gelu(_dense(both, none["dense"])), none["prediction"])[0]
        np.testing.assert_allclose(found[row, :, -1], expected, atol=1e-5)


@pytest.mark.parametrize("given", [False, True], ids=["predicting", "training"])
def test_the_question_has_no_part_in_where_the_answer_lies(head: Any, given: bool) -> None:
    logits, params, _ = head
    found = logits(np.array([7, 0, 9]) if given else None).astype(np.float64)
    spans_BTC = found[..., :-1] if "unanswerable" in params else found
    shares_BTC = np.exp(spans_BTC)
    assert (shares_BTC[~ANSWER_MASK] == 0).all()
    assert (shares_BTC[ANSWER_MASK] > 0).all()
    np.testing.assert_allclose(shares_BTC.sum(axis=1), 1, atol=1e-5)


def _batch(kind: TaskKind) -> dict[str, Any]:
    batch: dict[str, Any] = {
        "ids": np.random.default_rng(0).integers(5, 20, (B, T)).astype(np.int32),
        "length": LENGTHS.astype(np.int32),
        "first_length": FIRST.astype(np.int32),
        "start": np.array([7, 0, 9], np.int32),
        "end": np.array([9, 0, 10], np.int32),
        "weight": np.ones(B, np.float32),
    }
    if kind is TaskKind.ANSWERABILITY:
        batch["unanswerable"] = np.array([0, 1, 0], np.float32)
    return batch


@pytest.mark.parametrize("kind", [TaskKind.QUESTION_ANSWERING, TaskKind.ANSWERABILITY])
def test_the_end_is_learnt_given_the_true_start(kind: TaskKind) -> None:
    graphdef, params = init_model(kind, config=CONFIG, num_labels=2, seed=0, head=HeadKind.ORIGINAL)
    batch = _batch(kind)
    keys = jax.random.split(jax.random.key(0), B)
    loss, _ = make_task_loss(graphdef, kind, dtype="float32")(params, batch, keys, train=False)

    logits = np.asarray(
        merge(graphdef, params)(
            batch["ids"], jnp.asarray(MASK), jnp.asarray(TYPES), start_B=jnp.asarray(batch["start"])
        ),
        np.float64,
    )
    losses = []
    for row, length in enumerate(LENGTHS):
        spans = logits[row, :length, :2]
        answers = ANSWER_MASK[row, :length]
        shares = spans - np.log(np.exp(spans[answers]).sum(axis=0))
        losses.append(-(shares[batch["start"][row], 0] + shares[batch["end"][row], 1]) / 2)
        if kind is TaskKind.ANSWERABILITY:
            share = 1 / (1 + np.exp(-logits[row, 0, -1]))
            losses[-1] -= 0.5 * np.log(share if batch["unanswerable"][row] else 1 - share)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_joint_spans_are_those_of_an_exhaustive_search(seed: int) -> None:
    length, first, longest, num_starts = 12, 3, 4, 5
    random = np.random.default_rng(seed)
    offsets = np.stack([np.arange(length), np.arange(length) + 1], axis=1)
    owned = random.random(length) < 0.7
    window = Window(question=0, first=first, offsets=offsets, owned=owned)
    logits = random.normal(size=(length + first + 1, 1 + num_starts)).astype(np.float32)
    found = window_candidates(window, logits, n_best=length, max_answer_length=longest)
    inside = logits[first : first + length].astype(np.float64)
    spans = [
        (-inside[start, 0] - inside[end, 1 + number], start, end + 1)
        for number, start in enumerate(np.argsort(-inside[:, 0])[:num_starts])
        for end in range(start, min(length, start + longest))
        if owned[start]
    ]
    assert [(each.start, each.end) for each in found] == [(i, j) for _, i, j in sorted(spans)[:length]]


def test_what_the_end_head_adds_to_all_ends_of_a_start_changes_no_answer(head: Any) -> None:
    logits, params, _ = head
    before = logits()
    # A unit that reads the start alone: its part is the same for every end.
    kernel = params["end"]["dense"]["kernel"]
    random = np.random.default_rng(1)
    kernel[:D, 0], kernel[D:, 0] = 0.0, random.normal(size=D)
    params["end"]["prediction"]["kernel"][0] = 0.0
    level = logits(params=params)
    params["end"]["prediction"]["kernel"][0] = 5.0
    np.testing.assert_allclose(logits(params=params), level, atol=1e-3)
    assert np.abs(level - before).max() > 1e-3


@pytest.mark.parametrize("kind", [TaskKind.QUESTION_ANSWERING, TaskKind.ANSWERABILITY])
def test_the_joint_head_trains_and_predicts_in_bfloat16(kind: TaskKind) -> None:
    graphdef, params = init_model(kind, config=CONFIG, num_labels=2, seed=0, head=HeadKind.ORIGINAL)
    batch = _batch(kind)
    keys = jax.random.split(jax.random.key(0), B)
    losses = []
    for dtype in ("float32", "bfloat16"):
        loss_fn = make_task_loss(graphdef, kind, dtype=dtype)
        gradient_of = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), static_argnames="train")
        (loss, _), gradients = gradient_of(params, batch, keys, train=True)
        losses.append(float(loss))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert np.isfinite(make_predict(graphdef, dtype="bfloat16")(params, batch)).all()


def test_a_window_that_owns_none_of_the_starts_and_an_empty_one_have_no_spans() -> None:
    logits = np.zeros((30, 1 + BEAM_SIZE))
    offsets = np.stack([np.arange(28), np.arange(28) + 1], axis=1)
    window = Window(question=0, first=1, offsets=offsets, owned=np.arange(28) >= BEAM_SIZE)
    assert window_candidates(window, logits, n_best=20, max_answer_length=30) == []
    empty = Window(question=0, first=1, offsets=np.zeros((0, 2), int), owned=np.zeros(0, bool))
    for num_logits in (2, 1 + BEAM_SIZE):
        assert window_candidates(empty, np.zeros((2, num_logits)), n_best=20, max_answer_length=30) == []


def test_fewer_tokens_than_starts_are_no_fault() -> None:
    window = Window(question=0, first=1, offsets=np.array([[0, 2], [3, 5]]), owned=np.ones(2, bool))
    found = window_candidates(window, np.zeros((4, 1 + BEAM_SIZE)), n_best=20, max_answer_length=30)
    assert {(each.start, each.end) for each in found} == {(0, 2), (0, 5), (3, 5)}
