"""Checkpoints: what is saved comes back, damage is passed over, other data is refused."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from upath import UPath

from stages.training import checkpoint
from stages.training.checkpoint import Checkpoints, Kept, load_params
from stages.training.checkpoint_folder import saved_step
from stages.training.config import OptimizerConfig
from stages.training.loop import Window
from stages.training.optimizer import make_optimizer
from stages.training.state import TrainState, init_state, make_train_step

OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, steps=10, warmup_steps=0))


BATCH = {"length": jnp.ones(1)}


def noisy_loss(params, batch, key_B, *, train, over_devices):
    noise = jax.random.normal(key_B[0], (3,))
    return jnp.sum((params["kernel"] @ params["bias"] - noise) ** 2), {}


def fresh_state() -> TrainState:
    return init_state({"kernel": jnp.ones((3, 3)), "bias": jnp.arange(3.0)}, OPTIMIZER, key=jax.random.key(1))


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, without_key_type(left), without_key_type(right))


def without_key_type(tree):
    def is_key(leaf) -> bool:
        return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    return jax.tree.map(lambda leaf: np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf), tree)


@pytest.fixture
def folder(tmp_path) -> UPath:
    """A stage's output."""
    return UPath(tmp_path) / "stage"


def kept_steps(folder: UPath) -> list[int]:
    return sorted(int(entry.name) for entry in (folder / "checkpoints").iterdir())


def save_steps(folder: UPath, last: int, **identity: str) -> list[TrainState]:
    """Trains `last` steps and saves each; the states, on the host."""
    step_fn = make_train_step(noisy_loss, OPTIMIZER)
    state, states = fresh_state(), []
    checkpoints = Checkpoints(folder, keep=3, identity=identity)
    for step in range(1, last + 1):
        state, _ = step_fn(state, BATCH)
        checkpoints.save(state, step=step)
        states.append(without_key_type(state))
    checkpoints.close()
    return states


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(folder):
    whole = save_steps(folder / "whole", 6)[-1]
    save_steps(folder / "half", 3)
    state = Checkpoints(folder / "half", keep=3, identity={}).restore_newest(fresh_state()).state
    step_fn = make_train_step(noisy_loss, OPTIMIZER)
    for _ in range(3):
        state, _ = step_fn(state, BATCH)
    assert_same(state, whole)


def test_only_the_newest_are_kept(folder):
    save_steps(folder, 5)
    assert kept_steps(folder) == [3, 4, 5]
    assert saved_step(folder) == 5


def test_milestones_stay_besides_the_newest(folder):
    checkpoints = Checkpoints(folder, keep=2, identity={}, milestones=[2, 4])
    for step in range(1, 8):
        checkpoints.save(fresh_state(), step=step)
    checkpoints.close()
    assert kept_steps(folder) == [2, 4, 6, 7]


def test_sums_that_are_not_recorded_yet_come_back_with_the_state_to_the_last_bit(folder):
    window = Window(sums={"loss": np.float64(0.1) + np.arange(3) / 3, "tokens": np.asarray(7.0)}, steps=2, seconds=0.3)
    checkpoints = Checkpoints(folder, keep=1, identity={})
    checkpoints.save(fresh_state(), step=1, window=window.to_json())
    checkpoints.wait()
    restored = Window.from_json(checkpoints.restore_newest(fresh_state()).window)
    assert (restored.steps, restored.seconds) == (2, 0.3)
    assert_same(restored.sums, window.sums)
    assert Window.from_json({}).sums == {}


def test_a_damaged_newest_checkpoint_is_passed_over_loudly_and_written_again(folder, caplog):
    states = save_steps(folder, 3)
    for file in (folder / "checkpoints" / "3" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    checkpoints = Checkpoints(folder, keep=3, identity={})
    with caplog.at_level(logging.WARNING):
        state = checkpoints.restore_newest(fresh_state()).state
    assert_same(state, states[1])
    assert "3: this checkpoint is damaged and is passed over" in caplog.text
    checkpoints.save(state, step=3)
    checkpoints.close()
    assert saved_step(folder) == 3


def test_checkpoints_of_other_data_are_refused(folder):
    save_steps(folder, 1, shards="one")
    with pytest.raises(ValueError, match=r"of other data: expected .*two.*found .*one"):
        Checkpoints(folder, keep=3, identity={"shards": "two"}).restore_newest(fresh_state())


def test_without_checkpoints_there_is_nothing_to_restore(folder):
    assert Checkpoints(folder, keep=3, identity={}).restore_newest(fresh_state()) is None
    assert saved_step(folder / "absent") is None


def test_if_none_can_be_read_the_run_stops_instead_of_starting_anew(folder):
    save_steps(folder, 2)
    for file in folder.rglob("*"):
        if file.is_file() and "/state/" in str(file):
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the checkpoints \[1, 2\] can be read"):
        Checkpoints(folder, keep=3, identity={}).restore_newest(fresh_state())


def test_facts_and_the_best_parameters_come_back_where_they_were_kept(folder):
    checkpoints = Checkpoints(folder, keep=3, identity={})
    checkpoints.save(fresh_state(), step=1, kept=Kept({"number": 2}))
    checkpoints.wait()
    assert checkpoints.restore_newest(fresh_state()).kept == Kept({"number": 2}, None)
    best = {"kernel": np.full((3, 3), 0.1, np.float32), "bias": np.zeros(3, np.float32)}
    checkpoints.save(fresh_state(), step=2, kept=Kept({}, best))
    checkpoints.wait()
    assert_same(checkpoints.restore_newest(fresh_state()).kept.best, best)


def test_a_run_that_starts_over_leaves_its_first_step_alone(folder):
    save_steps(folder, 3)
    checkpoints = Checkpoints(folder, keep=3, identity={})
    checkpoints.start_over(fresh_state(), kept=Kept({"number": 1}))
    checkpoints.close()
    assert kept_steps(folder) == [0]
    restored = Checkpoints(folder, keep=3, identity={}).restore_newest(fresh_state())
    assert (int(restored.state.step), restored.kept.facts) == (0, {"number": 1})


def test_the_parameters_alone_can_be_loaded(folder):
    states = save_steps(folder, 2)
    assert_same(load_params(folder, step=2), states[1].params)


def test_a_checkpoint_of_another_version_says_so_in_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FORMAT", 1)
    save_steps(folder, 1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"written by another version of this project \(format 1, this one reads 4\)"):
        Checkpoints(folder, keep=3, identity={}).restore_newest(fresh_state())
    shutil.rmtree(folder / "checkpoints" / "1" / "digests")
    with pytest.raises(
        ValueError, match=r"/1: this checkpoint was written by an earlier version of this project; train"
    ):
        load_params(folder, step=1)
