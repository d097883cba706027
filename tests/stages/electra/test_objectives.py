"""The objectives beside ELECTRA's own: each against a plain transcription in numpy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from electra_miniature import KEY, NUM_TOKENS, SPECIAL_IDS, VOCAB_SIZE, build, make_batch, tiny
from scipy.special import expit, log_softmax, logsumexp

from stages.electra.files.huggingface import flatten
from stages.electra.joint_model import Electra, merge
from stages.electra.layers import split_keys
from stages.electra.layout import segments
from stages.electra.losses import word_losses
from stages.electra.objectives.objective import ObjectiveConfig, ObjectiveKind
from stages.electra.objectives.pretraining_loss import corrupt, make_pretraining_loss, summarize
from stages.electra.sizes import EmbeddingSharing

BATCH = make_batch([NUM_TOKENS, 17, 9, 3, 2, 0])
KEY_B = jax.random.split(jax.random.key(7), 6)
SPECIAL = [SPECIAL_IDS[name] for name in ("pad", "cls", "sep", "mask")]


def build_for(kind: ObjectiveKind, **changes):
    objective = ObjectiveConfig(kind=kind, mask_fraction=0.25)
    networks = objective.networks(*tiny(num_hidden_layers=1, **changes))
    sharing = changes.get("embedding_sharing", EmbeddingSharing.SHARED)
    graphdef, params = build(lambda: Electra(*networks, kind=kind, embedding_sharing=sharing, key=KEY))
    loss_fn = make_pretraining_loss(graphdef, objective=objective, special_ids=SPECIAL_IDS, vocab_size=VOCAB_SIZE)
    return objective, graphdef, params, loss_fn


def computed(kind: ObjectiveKind):
    """Metrics of the loss, and what a transcription starts from: the corruption, the model, real tokens."""
    objective, graphdef, params, loss_fn = build_for(kind)
    loss, sums = jax.jit(lambda params: loss_fn(params, BATCH, KEY_B, train=False))(params)
    metrics = summarize(jax.device_get(sums))
    assert metrics["loss/total"] == pytest.approx(float(loss), rel=1e-5)

    @jax.jit
    def see(params):
        model = merge(graphdef, params)
        mask_key_B, sample_key_B, *_ = split_keys(KEY_B, 4)
        corrupted = corrupt(
            model,
            BATCH,
            mask_key_B=mask_key_B,
            sample_key_B=sample_key_B,
            dropout_key_B=None,
            objective=objective,
            special_ids=SPECIAL_IDS,
        )
        x_BTD = model.discriminator_hidden(corrupted.ids_BT, *segments(BATCH))
        shown_BT = BATCH["ids"] if kind is ObjectiveKind.ELECTRIC else corrupted.masked.ids_BT
        words_BTV = model.generate(shown_BT, *segments(BATCH))
        if kind.traits.detects:
            return corrupted, words_BTV, model.discriminator_head(x_BTD, dtype=jnp.float32), None
        restored_BTV = model.discriminator_head(x_BTD, model.embeddings.word.embedding[...], dtype=jnp.float32)
        copy_BT = None if model.copy_head is None else model.copy_head(x_BTD, dtype=jnp.float32)[..., 0]
        return corrupted, words_BTV, restored_BTV, copy_BT

    return metrics, jax.tree.map(lambda x: np.asarray(x, np.float64 if x.dtype == np.float32 else None), see(params))


def masked_places(corrupted):
    used = corrupted.masked.weights_BP > 0
    return np.nonzero(used)[0], corrupted.masked.positions_BP[used]


def test_replace_mlm_says_what_stood_where_words_were_replaced():
    metrics, (corrupted, _, restored_BTV, _) = computed(ObjectiveKind.REPLACE_MLM)
    rows, places = masked_places(corrupted)
    right = np.asarray(BATCH["ids"])[rows, places]
    shares = log_softmax(restored_BTV, axis=-1)[rows, places]
    assert metrics["loss/restoration"] == pytest.approx(-shares[np.arange(len(right)), right].mean(), rel=1e-5)
    assert metrics["restored/accuracy"] == pytest.approx((shares.argmax(-1) == right).mean())
    assert metrics["loss/total"] == pytest.approx(metrics["loss/generator"] + metrics["loss/restoration"], rel=1e-6)
    # It is shown no [MASK].
    assert not np.any(corrupted.ids_BT == SPECIAL_IDS["mask"])


def test_all_tokens_mlm_mixes_copying_with_predicting():
    metrics, (corrupted, _, restored_BTV, copy_BT) = computed(ObjectiveKind.ALL_TOKENS_MLM)
    ids, real = np.asarray(BATCH["ids"]), np.asarray(segments(BATCH)[0])
    predicted = np.take_along_axis(np.exp(log_softmax(restored_BTV, axis=-1)), ids[..., None], -1)[..., 0]
    share = expit(copy_BT) * (corrupted.ids_BT == ids) + expit(-copy_BT) * predicted
    assert metrics["loss/restoration"] == pytest.approx(-np.log(share[real]).mean(), rel=1e-5)
    guesses = np.where(copy_BT > 0, corrupted.ids_BT, restored_BTV.argmax(-1))
    assert metrics["restored/accuracy"] == pytest.approx((guesses == ids)[real].mean())


def test_electric_tells_text_from_noise_of_known_probability():
    metrics, (corrupted, words_BTV, energy_BT, _) = computed(ObjectiveKind.ELECTRIC)
    ids, real = np.asarray(BATCH["ids"]), np.asarray(segments(BATCH)[0])
    shares_BTV = log_softmax(words_BTV, axis=-1)
    own_BT = np.take_along_axis(shares_BTV, ids[..., None], -1)[..., 0]
    words = real & ~np.isin(ids, SPECIAL)
    assert metrics["loss/generator"] == pytest.approx(-own_BT[words].mean(), rel=1e-5)
    assert metrics["masked/accuracy"] == pytest.approx((shares_BTV.argmax(-1) == ids)[words].mean())
    # p(noise) / p(text) = odds x q(token) / p(token); the discriminator's output is the last term, -log p.
    seen_BT = np.take_along_axis(shares_BTV, np.asarray(corrupted.ids_BT, int)[..., None], -1)[..., 0]
    logits_BT = energy_BT + seen_BT + np.log(0.25 / 0.75)
    noise_BT = np.zeros(ids.shape, bool)
    noise_BT[masked_places(corrupted)] = True
    losses = np.logaddexp(0, np.where(noise_BT, -logits_BT, logits_BT))
    assert metrics["loss/discriminator"] == pytest.approx(losses[real].mean(), rel=1e-5)
    assert metrics["loss/total"] == pytest.approx(metrics["loss/generator"] + 50 * losses[real].mean(), rel=1e-5)
    # What was drawn is noise, also where the draw was right.
    assert metrics["replaced/share"] == metrics["masked/share"] > 0.1


def test_a_cloze_model_does_not_see_the_word_it_is_asked_for_and_sees_all_others():
    _, graphdef, params, _ = build_for(ObjectiveKind.ELECTRIC)
    words = jax.jit(lambda ids_BT, mask_BT: merge(graphdef, params).generate(ids_BT, mask_BT, jnp.zeros_like(ids_BT)))
    ids_1T, mask_1T = BATCH["ids"][1:2], segments(BATCH)[0][1:2]
    before_TV = np.asarray(words(ids_1T, mask_1T))[0]
    after_TV = np.asarray(words(ids_1T.at[0, 6].add(1), mask_1T))[0]
    moved_T = np.abs(after_TV - before_TV).max(-1) > 1e-6
    assert not moved_T[6]
    assert moved_T[:17].sum() == 16
    padding_TV = np.asarray(words(ids_1T.at[0, 17:].set(9), mask_1T))[0]
    np.testing.assert_allclose(padding_TV[:17], before_TV[:17], atol=1e-5)


def test_disentangled_embeddings_give_the_generator_nothing_of_the_discriminators_gradient():
    kind = ObjectiveKind.REPLACED_TOKEN_DETECTION
    # A generator as wide as the embeddings, which untied ones always are.
    width = {"generator_multiplier": 0.75, "num_attention_heads": 4}
    _, _, params, loss_fn = build_for(kind, embedding_sharing=EmbeddingSharing.DISENTANGLED, **width)
    grads = jax.jit(jax.grad(lambda params: loss_fn(params, BATCH, KEY_B, train=False)[0]))(params)
    # Each network's embeddings in a model of its own: untied ones, of which one set is the sum.
    _, _, untied, untied_loss = build_for(kind, embedding_sharing=EmbeddingSharing.UNTIED, **width)
    assert untied.keys() == params.keys() - {"difference"} | {"generator_embeddings"}
    separate = {name: params[name] for name in untied if name != "generator_embeddings"} | {
        "generator_embeddings": params["embeddings"],
        "embeddings": jax.tree.map(jnp.add, params["embeddings"], params["difference"]),
    }
    expected = jax.jit(jax.grad(lambda params: untied_loss(params, BATCH, KEY_B, train=False)[0]))(separate)
    for ours, theirs in (("embeddings", "generator_embeddings"), ("difference", "embeddings")):
        for name, value in flatten(grads[ours]).items():
            np.testing.assert_allclose(value, flatten(expected[theirs])[name], rtol=1e-4, atol=1e-6)
            assert np.any(value)


def test_losses_of_words_a_few_rows_at_a_time_are_those_at_once():
    random = np.random.default_rng(0)
    x_BTE, table_VE = random.normal(size=(6, 700, 8)), random.normal(size=(50, 8))
    bias_V, ids_BT = random.normal(size=50), random.integers(0, 50, (6, 700))

    @jax.jit
    def losses(x_BTE, table_VE, bias_V):
        return word_losses(x_BTE, table_VE, bias_V, jnp.asarray(ids_BT), dtype=jnp.float32)

    found_BT, is_best_BT = losses(*map(jnp.float32, (x_BTE, table_VE, bias_V)))
    logits_BTV = x_BTE @ table_VE.T + bias_V
    own_BT = np.take_along_axis(logits_BTV, ids_BT[..., None], -1)[..., 0]
    np.testing.assert_allclose(found_BT, logsumexp(logits_BTV, axis=-1) - own_BT, atol=1e-4)
    np.testing.assert_array_equal(is_best_BT, logits_BTV.argmax(-1) == ids_BT)
    grads = jax.grad(lambda *args: jnp.mean(losses(*args)[0]), argnums=(0, 1, 2))(
        *map(jnp.float32, (x_BTE, table_VE, bias_V))
    )
    shares_BTV = (np.exp(log_softmax(logits_BTV, axis=-1)) - np.eye(50)[ids_BT]) / ids_BT.size
    np.testing.assert_allclose(grads[0], shares_BTV @ table_VE, atol=1e-6)
    np.testing.assert_allclose(grads[1], np.einsum("btv,bte->ve", shares_BTV, x_BTE), atol=1e-6)
    np.testing.assert_allclose(grads[2], shares_BTV.sum((0, 1)), atol=1e-6)
