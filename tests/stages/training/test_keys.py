"""Streams of random keys: no purpose of a run shares a key with another."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stages
from stages.electra.joint_model import Electra
from stages.electra.layers import split_keys
from stages.electra.sizes import ModelConfig, Size
from stages.training.keys import Stream, stream_key
from stages.training.state import init_state, make_eval_step, make_train_step

SEED = 42
NUM_STEPS, NUM_ROWS = 30, 6
BATCH = {"weight": jnp.ones(NUM_ROWS)}
WEIGHTS = (Stream.PRETRAINING_WEIGHTS, Stream.FINETUNING_WEIGHTS)


def words(keys: jax.Array) -> set[tuple[int, ...]]:
    """The random words of keys, in any shape."""
    return {tuple(row) for row in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()}


def row_keys(params, batch, key_B, *, train, over_devices):
    """A loss whose sums are the keys of the rows, and those that a step splits them into."""
    inside = jnp.stack([*split_keys(key_B, 4)])
    return jnp.sum(params["x"]), {"keys": jnp.concatenate([key_B[None], inside])}


def keys_of_weights(key: jax.Array, monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """The keys that initial weights are drawn from."""
    drawn: list[tuple[int, ...]] = []
    draw = jax.random.truncated_normal

    def watched(key: jax.Array, *rest: Any) -> jax.Array:
        # Equal layers are drawn under one vmap, which calls back once a layer.
        jax.debug.callback(lambda word: drawn.append(tuple(word.tolist())), jax.random.key_data(key))
        return draw(key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "truncated_normal", watched)
        networks = ModelConfig(
            size=Size.TINY, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=16
        ).resolve(30)
        Electra(*networks, key=key)
        jax.effects_barrier()
    assert len(drawn) > 20
    return set(drawn)


def keys_of_steps(key: jax.Array) -> set[tuple[int, ...]]:
    step = make_train_step(row_keys, optax.sgd(0.0))
    state, found = init_state({"x": jnp.zeros(1)}, optax.sgd(0.0), key=key), set()
    for _ in range(NUM_STEPS):
        state, sums = step(state, BATCH)
        found |= words(sums["keys"])
    return found


def keys_of_heldout(key: jax.Array) -> set[tuple[int, ...]]:
    step = make_eval_step(row_keys, key=key)
    return set().union(*(words(step({"x": jnp.zeros(1)}, BATCH, index)["keys"]) for index in range(NUM_STEPS)))


def all_keys(key_of, monkeypatch: pytest.MonkeyPatch) -> dict[Stream, set[tuple[int, ...]]]:
    """What each stream hands out where it begins with the key that it is given."""
    steps = (Stream.PRETRAINING_STEPS, Stream.FINETUNING_STEPS)
    return {
        **{stream: keys_of_weights(key_of(stream), monkeypatch) for stream in WEIGHTS},
        **{stream: keys_of_steps(key_of(stream)) for stream in steps},
        Stream.HELDOUT: keys_of_heldout(key_of(Stream.HELDOUT)),
        Stream.PRETRAINING_WAVES: words(key_of(Stream.PRETRAINING_WAVES)),
    }


def test_no_two_streams_of_a_seed_share_a_key_in_many_steps_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = all_keys(lambda stream: stream_key(SEED, stream), monkeypatch)
    assert set(found) == set(Stream)
    assert len(found[Stream.PRETRAINING_STEPS]) == NUM_STEPS * NUM_ROWS * 5  # nor do its own steps and rows
    assert len(set().union(*found.values())) == sum(len(keys) for keys in found.values())


def test_without_streams_they_would() -> None:
    key = jax.random.key(SEED)
    weights, steps = jax.random.split(key, 5), jnp.stack([jax.random.fold_in(key, step) for step in range(5)])
    assert words(weights) == words(steps)


def test_each_stream_depends_on_the_seed() -> None:
    for stream in Stream:
        assert words(stream_key(0, stream)) != words(stream_key(1, stream))


def test_runs_take_their_keys_from_the_table_alone() -> None:
    root = Path(stages.__file__).parent
    makers = [
        str(path.relative_to(root))
        for folder in ("training", "pretrain", "finetune", "data")
        for path in (root / folder).rglob("*.py")
        if "random.key(" in path.read_text()
    ]
    assert makers == ["training/keys.py"]
