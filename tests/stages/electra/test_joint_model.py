"""Properties that a reader of the paper expects of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from electra_miniature import KEY, NUM_TOKENS, build, build_electra, call, gradients, make_batch, row_keys, tiny
from flax import nnx

from stages.electra.attention.sight import Sight
from stages.electra.config import HeadKind, Rematerialize
from stages.electra.files.huggingface import flatten
from stages.electra.joint_model import Electra, merge, split
from stages.electra.layers import Dense, dropout, hashed_words
from stages.electra.layout import segments
from stages.electra.network import SequenceClassifier, SpanPredictor, TokenClassifier


def run(electra, batch, network="discriminate", seed=None, **options):
    graphdef, params = electra
    key_B = None if seed is None else row_keys(seed, len(batch["ids"]))
    return np.asarray(call(params, batch, key_B, graphdef=graphdef, network=network, **options))


def touched(electra, batch, network) -> set[str]:
    """Names of the parameters that the network's output depends on."""
    graphdef, params = electra
    _, grads = gradients(params, batch, graphdef=graphdef, network=network)
    return {name for name, value in flatten(grads).items() if np.any(value)}


@pytest.mark.parametrize("network", ["generate", "discriminate"])
def test_padding_changes_nothing(electra, network):
    long, short = make_batch([9, 14]), make_batch([9, 14])
    short |= {"ids": short["ids"][:, :14]}
    other = long | {"ids": jnp.where(segments(long)[0], long["ids"], 77)}
    expected = run(electra, short, network)
    for batch in (long, other):
        found = run(electra, batch, network)
        for row, length in enumerate([9, 14]):
            np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=1e-5)


def test_every_real_token_sees_every_other_and_no_other_text(electra):
    batch = make_batch([9, 14])
    changed = batch | {"ids": batch["ids"].at[0, 4].add(1)}
    difference = np.abs(run(electra, batch) - run(electra, changed))
    assert difference[0, :9].min() > 1e-6
    assert difference[1].max() == 0


@pytest.mark.parametrize("network", ["generate", "discriminate"])
def test_a_row_of_padding_alone_is_finite_and_so_are_its_gradients(electra, network):
    batch = make_batch([0, 12])
    assert np.all(np.isfinite(run(electra, batch, network)))
    _, grads = gradients(electra[1], batch, graphdef=electra[0], network=network)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_both_networks_share_every_embedding_and_nothing_else(electra):
    batch = make_batch([0, 12])
    generator, discriminator = (touched(electra, batch, name) for name in ("generate", "discriminate"))
    assert generator & discriminator == {name for name in flatten(electra[1]) if name.startswith("embeddings/")}
    assert generator | discriminator == set(flatten(electra[1]))


def test_networks_that_cannot_share_embeddings_are_refused():
    discriminator, generator = tiny()[0], tiny(embedding_size=16)[1]
    with pytest.raises(ValueError, match=r"embedding_size is 24 .* 16"):
        Electra(discriminator, generator, key=KEY)


def test_a_sequence_longer_than_the_positions_is_refused(electra):
    with pytest.raises(ValueError, match=r"41 tokens.* 40"):
        run(electra, make_batch([41], num_tokens=41))


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


def test_a_module_held_twice_is_refused():
    """`jax.jit` would take the two for different ones and train them apart."""

    class Twice(nnx.Module):
        def __init__(self):
            self.first = self.second = Dense(jnp.ones((2, 2)))

    with pytest.raises(ValueError, match="second"):
        split(Twice())


def test_twelve_layers_keep_their_order():
    graphdef, params = build_electra(num_hidden_layers=12)
    encoder = merge(graphdef, params).discriminator
    x_BTD = jax.random.normal(KEY, (2, 5, encoder.layers.output.kernel.shape[-1]))
    mask_BT = jnp.arange(5)[None] < jnp.array([[5], [3]])
    encoder.embeddings_project = None
    encoded = encoder(x_BTD, mask_BT, key_B=None, dtype=jnp.float32, with_hidden_states=True)
    assert len(encoded.hidden_states) == 13
    np.testing.assert_array_equal(encoded.hidden_states[-1], encoded.last_BTD)
    for number in range(12):
        np.testing.assert_array_equal(encoded.hidden_states[number], x_BTD)
        layer = jax.tree.map(lambda leaf, number=number: leaf[number], encoder.layers)
        x_BTD = layer(x_BTD, Sight(real_BS=mask_BT), keys=[None] * 3, dtype=jnp.float32)[0]
        np.testing.assert_allclose(encoded.hidden_states[number + 1], x_BTD, atol=1e-6)
        x_BTD = encoded.hidden_states[number + 1]


def test_what_is_computed_anew_saves_memory_and_changes_no_gradient():
    config = tiny(hidden_size=32, num_hidden_layers=4, max_position_embeddings=64)[0]
    ids_BT = jax.random.randint(KEY, (4, 64), 5, config.vocab_size)
    inputs = ids_BT, jnp.ones_like(ids_BT, bool), jnp.zeros_like(ids_BT)
    found = {}
    for rematerialize in Rematerialize:
        graphdef, params = split(Electra(config, None, rematerialize=rematerialize, key=KEY))

        def loss(params, graphdef=graphdef):
            keys_B = jax.random.split(KEY, len(ids_BT))
            return jnp.sum(merge(graphdef, params).discriminate(*inputs, key_B=keys_B) ** 2)

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        found[rematerialize] = compiled.memory_analysis().temp_size_in_bytes, flatten(compiled(params))
    sizes, gradients = zip(*found.values(), strict=True)
    assert list(found) == ["none", "dots", "layers"]
    layers, (rows, tokens), heads = config.num_hidden_layers, ids_BT.shape, config.num_attention_heads
    weights = 4 * layers * rows * heads * tokens * tokens
    products = 4 * layers * rows * tokens * (6 * config.hidden_size + config.intermediate_size)
    assert sizes[0] - sizes[1] == pytest.approx(weights, rel=0.1)
    assert sizes[1] - sizes[2] == pytest.approx(products, rel=0.3)
    for other in gradients[1:]:
        for name, value in gradients[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6)


def test_initial_weights_are_those_of_the_original():
    """Truncated normal of 0.02, Glorot uniform for the last layer, biases 0, scales 1, all independent."""
    networks = tiny(hidden_size=64, num_hidden_layers=1, embedding_size=64)
    params = flatten(split(Electra(*networks, key=KEY))[1])
    seen = set()
    for name, value in params.items():
        if name.endswith("scale"):
            assert np.all(value == 1)
        elif name.endswith("bias"):
            assert np.all(value == 0)
        elif name == "discriminator_head/prediction/kernel":
            limit = np.sqrt(6 / 65)
            assert np.abs(value).max() <= limit
            assert value.std() == pytest.approx(limit / np.sqrt(3), rel=0.3)
        else:
            assert np.abs(value).max() <= 0.04
            # Cut at two standard deviations, a normal distribution has 0.88 of them left.
            assert value.std() == pytest.approx(0.88 * 0.02, rel=0.12)
            seen.add(value.tobytes())
    assert len(seen) == sum(not name.endswith(("scale", "bias")) for name in params) - 1


def test_dropout_needs_a_key_and_follows_it(electra):
    batch = make_batch([9, 14])
    plain = run(electra, batch)
    first, again, other = (run(electra, batch, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(plain, run(electra, batch))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert np.any(first != plain)


@pytest.mark.parametrize("shape", [(200_000, 1), (20_000, 10), (100, 40, 50)])
def test_dropout_zeroes_its_share_and_keeps_the_mean(shape):
    y = np.asarray(dropout(jnp.ones(shape), 0.1, row_keys(0, shape[0])))
    deviation = np.sqrt(0.1 * 0.9 / y.size)
    assert abs((y == 0).mean() - 0.1) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / 0.9
    assert len(np.unique(y)) == 2


def test_dropped_elements_are_independent_of_place_text_and_key():
    zero = np.stack([np.asarray(dropout(jnp.ones((64, 4096)), 0.1, row_keys(seed, 64))) == 0 for seed in range(4)])
    centred = zero - zero.mean()

    def correlation(a, b):
        return abs((a * b).mean() / centred.var()) * np.sqrt(a.size)

    for shift in (1, 2, 3, 8, 64, 1024):
        assert correlation(centred[..., shift:], centred[..., :-shift]) < 5
    for shift in (1, 2, 32):
        assert correlation(centred[:, shift:], centred[:, :-shift]) < 5
    assert correlation(centred[1:], centred[:-1]) < 5
    # Texts and keys are told apart not only in the mean: the number dropped varies as it does by chance.
    spread = zero.sum(axis=2).var() / (4096 * 0.1 * 0.9)
    assert 0.7 < spread < 1.4


def test_every_bit_of_the_hashed_words_is_fair():
    words = np.asarray(hashed_words(row_keys(0, 64), (4096,)))
    share = np.array([((words >> bit) & 1).mean() for bit in range(32)])
    assert np.all(np.abs(share - 0.5) < 5 * 0.5 / np.sqrt(words.size))


def test_equal_texts_get_different_dropout(electra):
    batch = make_batch([9, 14])
    batch = {name: jnp.broadcast_to(value[:1], value.shape) for name, value in batch.items()}
    logits = run(electra, batch, seed=0)
    assert np.any(logits[0] != logits[1])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda c: SequenceClassifier(c.change(num_labels=3), key=KEY), (2, 3)),
        (lambda c: SequenceClassifier(c.change(num_labels=3), key=KEY, head=HeadKind.ORIGINAL), (2, 3)),
        (lambda c: TokenClassifier(c.change(num_labels=5), key=KEY), (2, NUM_TOKENS, 5)),
        (lambda c: SpanPredictor(c, key=KEY), (2, NUM_TOKENS, 2)),
    ],
    ids=["classification", "classification as the original", "tokens", "answers"],
)
def test_fine_tuning_models_give_float32_logits_and_use_every_parameter(make, shape):
    module = build(lambda: make(tiny(num_hidden_layers=1)[0]))
    assert set(module[1]) == {"embeddings", "encoder", "head"}
    batch = make_batch([9, 14])
    plain, rounded = (run(module, batch, "__call__", dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    assert plain.shape == shape
    assert plain.dtype == rounded.dtype == np.float32
    assert np.any(plain != rounded)
    assert np.any(run(module, batch, "__call__", seed=0) != plain)
    assert touched(module, batch, "__call__") == set(flatten(module[1]))


@pytest.mark.parametrize("network", ["generate", "discriminate"])
def test_bfloat16_products_stay_near_float32_and_have_gradients(electra, network):
    batch, (graphdef, params) = make_batch([0, 12]), electra
    value, grads = gradients(params, batch, graphdef=graphdef, network=network, dtype=jnp.bfloat16)
    expected, expected_grads = gradients(params, batch, graphdef=graphdef, network=network)
    np.testing.assert_allclose(value, expected, rtol=0.02)
    ours, theirs = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (grads, expected_grads)
    )
    assert 0 < np.linalg.norm(ours - theirs) < 0.04 * np.linalg.norm(theirs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
