"""Properties that a reader of the paper expects of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from electra_miniature import NUM_TOKENS, make_batch, perturb, tiny

from stages.electra.heads import ClassificationHeadKind
from stages.electra.huggingface import flatten
from stages.electra.layers import dropout
from stages.electra.model import (
    Electra,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    merge,
    split,
)
from stages.electra.pretraining import segments


def call(electra, batch, *, network="discriminate", params=None, **options):
    graphdef, own = electra
    mask, types = segments(batch)
    return getattr(merge(graphdef, params or own), network)(batch["ids"], mask, types, **options)


@pytest.mark.parametrize("network", ["generate", "discriminate"])
def test_padding_changes_nothing(electra, network):
    long, short = make_batch([9, 14]), make_batch([9, 14])
    short |= {"ids": short["ids"][:, :14]}
    other = long | {"ids": jnp.where(segments(long)[0], long["ids"], 77)}
    expected = call(electra, short, network=network)
    for batch in (long, other):
        found = call(electra, batch, network=network)
        for row, length in enumerate([9, 14]):
            np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=1e-5)


def test_real_tokens_do_change_something(electra):
    batch = make_batch([9, 14])
    changed = batch | {"ids": batch["ids"].at[0, 4].add(1)}
    difference = np.abs(np.asarray(call(electra, batch) - call(electra, changed)))
    assert difference[0, :9].min() > 1e-6
    assert difference[1].max() == 0


@pytest.mark.parametrize("network", ["generate", "discriminate"])
def test_a_row_of_padding_alone_is_finite_and_so_are_its_gradients(electra, network):
    batch = make_batch([0, 12])
    assert np.all(np.isfinite(call(electra, batch, network=network)))
    grads = jax.grad(lambda p: jnp.sum(call(electra, batch, network=network, params=p)))(electra[1])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_both_networks_share_every_embedding_and_nothing_else(electra):
    batch = make_batch([9, 14])

    def touched(network):
        grads = jax.grad(lambda p: jnp.sum(call(electra, batch, network=network, params=p) ** 2))(electra[1])
        return {name for name, value in flatten(grads).items() if np.any(value)}

    shared = touched("generate") & touched("discriminate")
    assert shared == {name for name in flatten(electra[1]) if name.startswith("embeddings/")}
    assert touched("generate") | touched("discriminate") == set(flatten(electra[1]))


def test_networks_that_cannot_share_embeddings_are_refused():
    discriminator, generator = tiny()[0], tiny(embedding_size=16)[1]
    with pytest.raises(ValueError, match=r"embedding_size is 24 .* 16"):
        Electra(discriminator, generator, rngs_key=jax.random.key(0))


def test_a_sequence_longer_than_the_positions_is_refused(electra):
    with pytest.raises(ValueError, match=r"41 tokens.* 40"):
        call(electra, make_batch([41], num_tokens=41))


def test_split_and_merge_are_inverse_and_the_parameters_are_plain(electra):
    graphdef, params = electra
    again = split(merge(graphdef, params))
    assert again[0] == graphdef
    jax.tree.map(np.testing.assert_array_equal, again[1], params)

    def check(tree):
        assert type(tree) is dict
        assert all(type(name) is str for name in tree)
        for value in tree.values():
            if not isinstance(value, jax.Array):
                check(value)

    check(params)


def test_twelve_layers_keep_their_order():
    graphdef, params = split(Electra(*tiny(num_hidden_layers=12), rngs_key=jax.random.key(0)))
    model = merge(graphdef, params)
    for number, layer in enumerate(model.discriminator.layers):
        expected = params["discriminator"]["layers"][str(number)]["output"]["kernel"]
        np.testing.assert_array_equal(layer.output.kernel[...], expected)


def test_dropout_needs_a_key_and_follows_it(electra):
    batch = make_batch([9, 14])
    plain = call(electra, batch)
    first, second = (call(electra, batch, key=jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(plain, call(electra, batch))
    np.testing.assert_array_equal(first, call(electra, batch, key=jax.random.key(0)))
    assert np.any(first != second)
    assert np.any(first != plain)


@pytest.mark.parametrize("width", [1, 7, 64])
def test_dropout_zeroes_its_share_and_keeps_the_mean(width):
    x = jnp.ones((200_000 // width, width))
    y = np.asarray(dropout(x, 0.1, jax.random.key(0)))
    deviation = np.sqrt(0.1 * 0.9 / y.size)
    assert abs((y == 0).mean() - 0.1) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / 0.9
    assert len(np.unique(y)) == 2
    if width > 1:
        # Lanes of one random word must not agree with each other more than strangers do.
        zero = (y == 0).reshape(-1, width).astype(float)
        correlation = np.corrcoef(zero, rowvar=False) - np.eye(width)
        assert np.abs(correlation).max() < 6 / np.sqrt(len(zero))


def test_the_masks_of_two_texts_differ(electra):
    batch = make_batch([NUM_TOKENS, NUM_TOKENS])
    batch |= {"ids": jnp.broadcast_to(batch["ids"][:1], batch["ids"].shape)}
    logits = call(electra, batch, key=jax.random.key(0))
    assert np.any(logits[0] != logits[1])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda c, k: ElectraForSequenceClassification(c, num_labels=3, rngs_key=k), (2, 3)),
        (
            lambda c, k: ElectraForSequenceClassification(
                c, num_labels=3, rngs_key=k, head=ClassificationHeadKind.ORIGINAL
            ),
            (2, 3),
        ),
        (lambda c, k: ElectraForTokenClassification(c, num_labels=5, rngs_key=k), (2, NUM_TOKENS, 5)),
        (lambda c, k: ElectraForQuestionAnswering(c, rngs_key=k), (2, NUM_TOKENS, 2)),
    ],
)
def test_fine_tuning_models_give_float32_logits_and_use_every_parameter(make, shape):
    graphdef, params = split(make(tiny()[0], jax.random.key(0)))
    params = perturb(params)
    assert set(params) == {"embeddings", "encoder", "head"}
    batch = make_batch([9, 14])
    mask, types = segments(batch)

    def logits(params, dtype=jnp.float32, key=None):
        return merge(graphdef, params)(batch["ids"], mask, types, dtype=dtype, key=key)

    found = logits(params)
    assert found.shape == shape
    assert found.dtype == logits(params, dtype=jnp.bfloat16).dtype == jnp.float32
    assert np.any(logits(params, key=jax.random.key(0)) != found)
    grads = jax.grad(lambda p: jnp.sum(logits(p) ** 2))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("network", ["generate", "discriminate"])
def test_bfloat16_products_stay_near_float32_and_run_under_jit(electra, network):
    batch = make_batch([9, 14])

    def value(params, dtype):
        return jnp.mean(call(electra, batch, network=network, params=params, dtype=dtype) ** 2)

    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.05)):
        found, grads = jax.jit(jax.value_and_grad(value), static_argnums=1)(electra[1], dtype)
        expected, expected_grads = jax.value_and_grad(value)(electra[1], jnp.float32)
        np.testing.assert_allclose(found, expected, rtol=tolerance)
        ours, theirs = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (grads, expected_grads)
        )
        assert np.linalg.norm(ours - theirs) < 2 * tolerance * np.linalg.norm(theirs)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
