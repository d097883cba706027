"""Cross-entropy, and samples that follow the softmax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stages.electra.losses import binary_cross_entropy, cross_entropy, guess_evenly, predict_words, sample


def sample_words(uniform_N2: jax.Array, mass_V: jax.Array, *, group_size: int = 32) -> jax.Array:
    """Draws from one row of masses."""
    groups_GW = jnp.pad(mass_V, (0, -len(mass_V) % group_size)).reshape(-1, group_size)
    sums_NG = jnp.broadcast_to(jnp.sum(groups_GW, axis=1), (len(uniform_N2), len(groups_GW)))
    return sample(uniform_N2, sums_NG, lambda group_N: groups_GW[group_N])


def draw(mass: np.ndarray, num: int, seed: int = 0) -> np.ndarray:
    """Index counts of `num` draws from one row of masses."""
    uniform_N2 = jax.random.uniform(jax.random.key(seed), (num, 2))
    words = jax.jit(sample_words)(uniform_N2, jnp.asarray(mass, jnp.float32))
    return np.bincount(np.asarray(words), minlength=len(mass))


def is_plausible(counts: np.ndarray, mass: np.ndarray) -> bool:
    """Chi-square test of the counts against the shares, rare words pooled."""
    expected = mass / mass.sum() * counts.sum()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    return stats.chisquare(observed, wanted).pvalue > 1e-4


@pytest.mark.parametrize("num_words", [3, 31, 32, 33, 1000])
def test_samples_follow_the_softmax(num_words):
    mass = np.exp(np.random.default_rng(num_words).normal(size=num_words))
    counts = draw(mass, 20_000)
    assert is_plausible(counts, mass)
    # The same counts do not pass for another distribution.
    assert not is_plausible(counts, np.roll(mass, 1))


def test_words_without_mass_are_never_drawn():
    mass = np.zeros(1000)
    mass[[5, 400, 401, 990]] = [1, 2, 3, 4]
    counts = draw(mass, 5000)
    assert set(np.flatnonzero(counts)) == {5, 400, 401, 990}
    assert is_plausible(counts, mass)


def test_a_certain_word_is_always_drawn():
    for word in (0, 499, 999):
        mass = np.zeros(1000)
        mass[word] = 1e-30
        assert draw(mass, 200)[word] == 200


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_uniform_interval_draw_a_word_with_mass(uniform):
    mass = jnp.zeros(500).at[jnp.array([100, 300])].set(1.0)
    assert int(sample_words(jnp.full((1, 2), uniform, jnp.float32), mass)[0]) == (100 if uniform == 0 else 300)


def naive(x_NE, table_VE, bias_V, targets_N):
    logits_NV = x_NE @ table_VE.T + bias_V[None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_NV), targets_N[:, None], axis=1)[:, 0]


def inputs(num: int = 13, width: int = 8, num_words: int = 300):
    random = np.random.default_rng(3)
    shapes = ((num, width), (num_words, width), (num_words,))
    return (*(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes), jnp.arange(num) * 7)


@partial(jax.jit, static_argnames=("temperature", "disallow_correct"))
def predict(x_NE, table_VE, bias_V, targets_N, *, temperature=1.0, disallow_correct=False):
    uniform_N2 = jax.random.uniform(jax.random.key(0), (len(x_NE), 2))
    return predict_words(
        x_NE,
        table_VE,
        bias_V,
        targets_N,
        uniform_N2=uniform_N2,
        temperature=temperature,
        disallow_correct=disallow_correct,
        dtype=jnp.float32,
    )


def test_cross_entropy_and_its_gradients_are_those_of_log_softmax():
    *weights, targets = inputs()
    scale = jnp.arange(13.0)
    np.testing.assert_allclose(predict(*weights, targets).loss_N, naive(*weights, targets), rtol=1e-5)
    ours = jax.grad(lambda w: jnp.sum(scale * predict(*w, targets).loss_N))(weights)
    theirs = jax.grad(lambda w: jnp.sum(scale * naive(*w, targets)))(weights)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)


def test_cross_entropy_survives_huge_logits():
    x, table, bias, targets = inputs()
    loss = predict(x * 1e4, table, bias, targets).loss_N
    assert np.all(np.isfinite(loss))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_predicted_words_are_drawn_at_the_temperature(temperature):
    x, table, bias, _ = inputs()
    repeated = jnp.broadcast_to(x[:1], (20_000, x.shape[1]))
    words = predict(repeated, table, bias, jnp.zeros(20_000, jnp.int32), temperature=temperature)
    logits = np.asarray(x[0] @ table.T + bias, np.float64)
    counts = np.bincount(np.asarray(words.samples_N), minlength=300)
    assert is_plausible(counts, np.exp(logits / temperature))
    assert not is_plausible(counts, np.exp(logits / temperature / 1.1))
    assert not np.any(words.is_best_N)
    best = jnp.full(20_000, logits.argmax(), jnp.int32)
    assert np.all(predict(repeated, table, bias, best).is_best_N)


@pytest.mark.parametrize("sureness", [0.0, 500.0])
def test_a_disallowed_target_is_never_drawn_and_the_others_as_before(sureness):
    x, table, bias, _ = inputs()
    repeated = jnp.broadcast_to(x[:1], (20_000, x.shape[1]))
    logits = np.asarray(x[0] @ table.T + bias, np.float64)
    target = int(logits.argmax())
    bias = bias.at[target].add(sureness)  # no other word has mass beside a word that is 500 likelier
    targets = jnp.full(20_000, target, jnp.int32)
    words = predict(repeated, table, bias, targets, disallow_correct=True)
    shares = np.exp(logits)
    shares[target] = 0
    assert is_plausible(np.bincount(np.asarray(words.samples_N), minlength=300), shares)
    allowed = predict(repeated, table, bias, targets)
    assert np.any(allowed.samples_N == target)
    np.testing.assert_array_equal(words.loss_N, allowed.loss_N)
    assert np.all(words.is_best_N)


@pytest.mark.parametrize("disallow_correct", [False, True])
def test_even_guesses_are_even(disallow_correct):
    keys = jax.random.split(jax.random.key(1), 20_000)
    targets = jnp.full(20_000, 7, jnp.int32)
    words = guess_evenly(keys, targets, num_words=50, disallow_correct=disallow_correct)
    shares = np.ones(50)
    shares[7] = not disallow_correct
    assert is_plausible(np.bincount(np.asarray(words.samples_N), minlength=50), shares)
    np.testing.assert_allclose(words.loss_N, np.log(50), rtol=1e-6)


def test_binary_cross_entropy_is_safe_at_any_logit():
    logits = jnp.array([-1e4, -2.0, 0.0, 2.0, 1e4])
    np.testing.assert_allclose(
        binary_cross_entropy(logits, jnp.array([True, True, True, False, False])),
        [1e4, np.log1p(np.exp(2.0)), np.log(2.0), np.log1p(np.exp(2.0)), 1e4],
        rtol=1e-6,
    )


def test_cross_entropies_of_numbers_are_those_of_their_definitions():
    logits_BC, labels_B = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 1, 2])
    expected_B = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits_BC, labels_B, strict=True)]
    np.testing.assert_allclose(cross_entropy(jnp.float32(logits_BC), jnp.asarray(labels_B)), expected_B, rtol=1e-5)
    shares_BC = np.random.default_rng(1).uniform(size=(4, 3))
    present_BC, absent_BC = np.log1p(np.exp(-logits_BC)), np.log1p(np.exp(logits_BC))
    np.testing.assert_allclose(
        binary_cross_entropy(jnp.float32(logits_BC), jnp.float32(shares_BC)),
        shares_BC * present_BC + (1 - shares_BC) * absent_BC,
        rtol=1e-5,
    )
