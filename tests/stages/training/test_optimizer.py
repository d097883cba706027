"""The optimizer against a plain transcription of the paper's algorithm, and its schedule."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stages.training.config import OptimizerConfig, OptimizerName, ScheduleName
from stages.training.optimizer import is_decayed, make_optimizer, make_schedule, parameter_table


def make_params(rng: np.random.Generator) -> dict:
    """Of two equal layers and a head."""
    return {
        "layers": {
            "kernel": rng.normal(size=(2, 4, 3)) * np.array([1, 5])[:, None, None],
            "bias": rng.normal(size=(2, 3)),
            "layer_norm": {"scale": rng.normal(size=(2, 3)), "bias": rng.normal(size=(2, 3))},
        },
        "head": {"kernel": rng.normal(size=(3, 2))},
    }


def rate_in_words(config: OptimizerConfig, step: int) -> float:
    """The schedules as their papers have them, in Python's float64."""
    n, w = config.steps, config.warmup_steps
    warmup = min(1.0, step / w)
    if config.schedule is ScheduleName.COSINE:
        return config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * max(0, step - w) / (n - w)))
    if config.schedule is ScheduleName.WSD:
        return config.learning_rate * warmup * min(1.0, (n - step) / (n * config.decay_fraction))
    return config.learning_rate * warmup * (1 - step / n)


@pytest.mark.parametrize("schedule", ScheduleName)
@pytest.mark.parametrize("name", OptimizerName)
def test_fifty_updates_equal_the_papers_algorithm_written_in_numpy(name, schedule):
    rng = np.random.default_rng(0)
    config = OptimizerConfig(
        learning_rate=0.01,
        steps=50,
        warmup_steps=7,
        optimizer=name,
        schedule=schedule,
        decay_fraction=0.3,
        weight_decay=0.1,
        clip_norm=1.0,
        adam_eps=1e-6,
    )
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, make_params(rng))
        expected = jax.tree.map(np.array, params)
        start = jax.tree.map(np.array, params)
        optimizer = make_optimizer(config)
        state, update_of = optimizer.init(params), jax.jit(optimizer.update)
        m = jax.tree.map(np.zeros_like, expected)
        v = jax.tree.map(np.zeros_like, expected)
        for step in range(50):
            grads = jax.tree.map(lambda p, scale=0.1 if step % 2 else 3.0: rng.normal(size=p.shape) * scale, expected)
            updates, state = update_of(grads, state, params)
            params = jax.tree.map(lambda p, u: p + u, params, updates)

            norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
            flat, _ = jax.tree_util.tree_flatten_with_path(grads)
            keep = jax.tree.leaves(expected), jax.tree.leaves(m), jax.tree.leaves(v)
            for (path, g), p, m_, v_ in zip(flat, *keep, strict=True):
                is_matrix = "kernel" in str(path[-1])
                g = g * min(1.0, 1.0 / norm)
                m_[...] = 0.9 * m_ + 0.1 * g
                v_[...] = 0.999 * v_ + 0.001 * g**2
                if name is OptimizerName.ADAM:
                    update = m_ / (np.sqrt(v_) + 1e-6)
                else:
                    update = (m_ / (1 - 0.9 ** (step + 1))) / (np.sqrt(v_ / (1 - 0.999 ** (step + 1))) + 1e-6)
                if is_matrix:
                    update = update + 0.1 * p
                if is_matrix and name is OptimizerName.LAMB:
                    each = (1, 2) if "layers" in str(path[0]) else None  # a ratio a layer
                    norm_p, norm_u = (np.linalg.norm(x, axis=each, keepdims=True) for x in (p, update))
                    update = update * norm_p / norm_u
                p[...] = p - rate_in_words(config, step) * update
        for ours, theirs, before in zip(*map(jax.tree.leaves, (params, expected, start)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
            assert np.abs(theirs - before).max() > 0.01


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        (ScheduleName.COSINE, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        (ScheduleName.WSD, {0: 0.0, 5: 0.5, 10: 1.0, 80: 1.0, 90: 0.5, 100: 0.0}),
    ],
)
def test_the_rate_falls_as_its_schedule_says(schedule, at):
    config = OptimizerConfig(learning_rate=1.0, steps=100, warmup_steps=10, schedule=schedule, decay_fraction=0.2)
    rate = make_schedule(config)
    assert {step: pytest.approx(float(rate(step)), abs=1e-6) for step in at} == at


def test_the_rate_is_zero_at_first_peaks_after_warmup_and_ends_at_zero():
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, steps=100, warmup_steps=10))
    assert float(schedule(0)) == 0.0
    assert float(schedule(10)) == pytest.approx(0.9)
    assert max(float(schedule(step)) for step in range(101)) == pytest.approx(0.9)
    assert float(schedule(100)) == 0.0


def test_no_warmup_is_not_a_division_by_zero():
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, steps=4, warmup_steps=0))
    assert [float(schedule(step)) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("path", "decayed"),
    [
        ("embeddings/word/embedding", True),
        ("discriminator/layers/0/attention/query/kernel", True),
        ("discriminator/layers/0/attention/query/bias", False),
        ("embeddings/layer_norm/scale", False),
        ("generator_head/bias", False),
    ],
)
def test_biases_and_layer_norms_are_not_decayed_and_embeddings_are(path, decayed):
    assert is_decayed(path) is decayed


def test_layer_scales_multiply_the_update_of_their_layer_only():
    config = OptimizerConfig(learning_rate=0.1, steps=10, warmup_steps=0, weight_decay=0.0)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make_params(np.random.default_rng(0)))
    grads = jax.tree.map(jnp.ones_like, params)

    def updates(lr_scale):
        optimizer = make_optimizer(config, lr_scale=lr_scale)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    plain, scaled = updates(None), updates(lambda path: 0.5 if path.startswith("layers/1/") else 1.0)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(scaled["layers"][name][1], 0.5 * plain["layers"][name][1], rtol=1e-6)
        np.testing.assert_allclose(scaled["layers"][name][0], plain["layers"][name][0], rtol=1e-6)
    np.testing.assert_allclose(scaled["head"]["kernel"], plain["head"]["kernel"], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"warmup_steps": 11}, "warmup_steps is 11, must be from 0 to steps = 10"),
        ({"steps": 0}, "steps is 0"),
        ({"adam_b2": 1.0}, "adam_b2 is 1.0"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"decay_fraction": 0.0}, "decay_fraction is 0.0"),
        (
            {"schedule": ScheduleName.WSD, "warmup_steps": 6, "decay_fraction": 0.5},
            "must be at most 5, where the decay",
        ),
    ],
)
def test_impossible_hyperparameters_are_refused_with_the_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**({"learning_rate": 1e-3, "steps": 10, "warmup_steps": 1} | change))


def test_the_parameter_table_names_every_parameter_once():
    table = parameter_table(make_params(np.random.default_rng(0)))
    assert len(table.splitlines()) == 1 + 2 * 4 + 1
    assert "layers/0/layer_norm/scale" in table
    assert "layers/1/kernel" in table
