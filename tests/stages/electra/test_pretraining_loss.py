"""The objective as the paper has it, and metrics that can be added up."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from electra_miniature import KEY, NUM_TOKENS, SPECIAL_IDS, VOCAB_SIZE, build, make_batch, tiny
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from stages.electra.files.huggingface import flatten
from stages.electra.joint_model import Electra, merge
from stages.electra.layers import split_keys
from stages.electra.layout import lay_out, segments
from stages.electra.objectives.detection import area_under_curve
from stages.electra.objectives.objective import ObjectiveConfig, ObjectiveKind
from stages.electra.objectives.pretraining_loss import corrupt, make_pretraining_loss, summarize
from stages.electra.sizes import EmbeddingSharing

# Every batch has this many rows, so that each function is compiled once.
NUM_ROWS = 8


def rows(lengths: list[int], *, seed: int = 0):
    """A batch of these lengths, filled up with rows of padding."""
    return make_batch(lengths + [0] * (NUM_ROWS - len(lengths)), seed=seed)


@partial(jax.jit, static_argnames=("graphdef", "objective", "train"))
def loss_of(params, batch, key, *, graphdef, objective, train):
    loss = make_pretraining_loss(graphdef, objective=objective, special_ids=SPECIAL_IDS, vocab_size=VOCAB_SIZE)
    return loss(params, batch, jax.random.split(key, NUM_ROWS), train=train)


@partial(jax.jit, static_argnames=("graphdef", "objective"))
def gradients_of(params, batch, key, *, graphdef, objective):
    """Loss in training and its gradients."""

    def value(params):
        return loss_of(params, batch, key, graphdef=graphdef, objective=objective, train=True)[0]

    return jax.value_and_grad(value)(params)


@partial(jax.jit, static_argnames=("graphdef", "objective"))
def seen(params, batch, key, *, graphdef, objective):
    """What the loss of `key` sees without dropout: the corruption and the discriminator's logits."""
    model = merge(graphdef, params)
    mask_key_B, sample_key_B, *_ = split_keys(jax.random.split(key, NUM_ROWS), 4)
    corrupted = corrupt(
        model,
        batch,
        mask_key_B=mask_key_B,
        sample_key_B=sample_key_B,
        dropout_key_B=None,
        objective=objective,
        special_ids=SPECIAL_IDS,
    )
    words = jax.nn.log_softmax(model.generate(corrupted.masked.ids_BT, *segments(batch)))
    return corrupted, words, model.discriminate(corrupted.ids_BT, *segments(batch))


def test_loss_is_that_of_a_plain_transcription(shallow, objective, batch):
    graphdef, params = shallow
    key = jax.random.key(7)
    loss, sums = loss_of(params, batch, key, graphdef=graphdef, objective=objective, train=False)
    corrupted, words, logits = jax.device_get(seen(params, batch, key, graphdef=graphdef, objective=objective))
    ids, mask = np.asarray(batch["ids"]), np.asarray(segments(batch)[0])

    generator = [
        -words[row, position, ids[row, position]]
        for row in range(len(ids))
        for slot, position in enumerate(corrupted.masked.positions_BP[row])
        if corrupted.masked.weights_BP[row, slot]
    ]
    losses_BT = np.log1p(np.exp(np.where(corrupted.ids_BT != ids, -1, 1) * logits.astype(np.float64)))
    discriminator = losses_BT[mask].mean()
    expected = np.mean(generator) + 50 * discriminator
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    metrics = summarize(jax.device_get(sums))
    np.testing.assert_allclose(metrics["loss/total"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/generator"], np.mean(generator), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/discriminator"], discriminator, rtol=1e-5)
    # A mean of the texts' means weighs the tokens of short texts more: it is another number.
    means = [losses_BT[row][mask[row]].mean() for row in range(len(ids)) if mask[row].any()]
    assert abs(np.mean(means) - discriminator) > 1e-3 * discriminator


def test_the_discriminator_gives_the_generator_no_gradient(shallow, objective, batch):
    graphdef, params = shallow

    def of(**weights):
        return touched(graphdef, params, batch, dataclasses.replace(objective, **weights))

    assert of(generator_weight=0.0) == {"embeddings", "discriminator", "discriminator_head"}
    assert of(discriminator_weight=0.0) == {"embeddings", "generator", "generator_head"}


def build_for(
    objective: ObjectiveConfig, *, sharing: EmbeddingSharing = EmbeddingSharing.SHARED
) -> tuple[object, dict]:
    """A shallow model with the networks that the objective trains."""
    networks = objective.networks(*tiny(num_hidden_layers=1, embedding_sharing=sharing))
    return build(lambda: Electra(*networks, kind=objective.kind, embedding_sharing=sharing, key=KEY))


def touched(graphdef, params, batch, objective) -> set[str]:
    """Which top-level parameters get a gradient."""
    _, grads = gradients_of(params, batch, jax.random.key(0), graphdef=graphdef, objective=objective)
    return {name.split("/")[0] for name, value in flatten(grads).items() if np.any(value)}


def test_untied_embeddings_get_the_generators_gradient_and_the_shared_ones_none_of_it(objective, batch):
    graphdef, params = build_for(objective, sharing=EmbeddingSharing.UNTIED)
    generator_only = dataclasses.replace(objective, discriminator_weight=0.0)
    assert touched(graphdef, params, batch, generator_only) == {"generator_embeddings", "generator", "generator_head"}
    discriminator_only = dataclasses.replace(objective, generator_weight=0.0)
    assert touched(graphdef, params, batch, discriminator_only) == {
        "embeddings", "discriminator", "discriminator_head",
    }  # fmt: skip


def test_a_shared_encoder_learns_from_both_losses_and_exists_once(objective, batch):
    networks = tiny(num_hidden_layers=1, generator_multiplier=None, shared_encoder=True)
    graphdef, params = build(lambda: Electra(*networks, shared_encoder=True, key=KEY))
    assert params.keys() == {"embeddings", "discriminator", "discriminator_head", "generator_head"}
    generator_only = dataclasses.replace(objective, discriminator_weight=0.0)
    assert touched(graphdef, params, batch, generator_only) == {"embeddings", "discriminator", "generator_head"}
    # Apart from being one, it computes what two equal encoders compute.
    separate, _ = build(lambda: Electra(*networks, key=KEY))
    key = jax.random.key(3)
    twice = params | {"generator": params["discriminator"]}
    loss, _ = loss_of(twice, batch, key, graphdef=separate, objective=objective, train=False)
    shared_loss, _ = loss_of(params, batch, key, graphdef=graphdef, objective=objective, train=False)
    np.testing.assert_array_equal(shared_loss, loss)


def test_masked_language_modeling_is_the_generators_half_alone(shallow, objective, batch):
    mlm = dataclasses.replace(objective, kind=ObjectiveKind.MASKED_LANGUAGE_MODELING)
    graphdef, params = shallow
    names = ("embeddings", "generator", "generator_head")
    (_, generator) = tiny(num_hidden_layers=1)
    alone, _ = build(lambda: Electra(None, generator, key=KEY))
    weights = {name: params[name] for name in names}
    key = jax.random.key(3)
    loss, sums = loss_of(weights, batch, key, graphdef=alone, objective=mlm, train=False)
    _, both = loss_of(params, batch, key, graphdef=graphdef, objective=objective, train=False)
    metrics, of_both = summarize(jax.device_get(sums)), summarize(jax.device_get(both))
    np.testing.assert_allclose(metrics["loss/generator"], of_both["loss/generator"], rtol=1e-6)
    assert metrics["loss/total"] == metrics["loss/generator"] == pytest.approx(float(loss))
    assert not [name for name in metrics if name.startswith(("discriminator", "replaced", "sampled"))]
    assert touched(alone, weights, batch, mlm) == set(names)


def test_without_a_generator_samples_are_even_and_the_discriminator_learns(objective, batch):
    uniform = dataclasses.replace(objective, uniform_generator=True, disallow_correct=True)
    graphdef, params = build_for(uniform)
    assert touched(graphdef, params, batch, uniform) == {"embeddings", "discriminator", "discriminator_head"}
    _, sums = loss_of(params, batch, jax.random.key(0), graphdef=graphdef, objective=uniform, train=False)
    metrics = summarize(jax.device_get(sums))
    assert metrics["loss/generator"] == pytest.approx(np.log(VOCAB_SIZE))
    # No sample is right, so each masked token is a replaced one.
    assert metrics["replaced/share"] == metrics["masked/share"] > 0.1
    assert metrics["sampled/accuracy"] == 0


def test_rows_of_padding_add_nothing(shallow, objective):
    graphdef, params = shallow
    key = jax.random.key(0)
    _, sums = loss_of(params, rows([NUM_TOKENS]), key, graphdef=graphdef, objective=objective, train=False)
    assert int(sums["batch/tokens"]) == NUM_TOKENS
    assert int(sums["generator/tokens"]) == NUM_TOKENS * 0.25
    loss, grads = gradients_of(params, rows([]), key, graphdef=graphdef, objective=objective)
    assert float(loss) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_packed_texts_are_each_computed_as_if_alone(shallow, objective):
    """Same logits and losses as in rows of their own, whatever stands beside them."""
    graphdef, params = shallow
    alone = rows([9, 8, 7])
    ids = np.asarray(alone["ids"])
    together = np.full_like(ids, SPECIAL_IDS["pad"])
    together[0] = np.concatenate([ids[row, :length] for row, length in enumerate((9, 8, 7))])
    # Packed texts are one segment each.
    alone = alone | {"first_length": alone["length"]}
    lengths = np.where(np.arange(NUM_ROWS) == 0, NUM_TOKENS, 0)
    packed = {"ids": jnp.asarray(together), "length": jnp.asarray(lengths), "first_length": jnp.asarray(lengths)}

    # Texts begin where the batch says so: an id that is [CLS]'s elsewhere begins none.
    alone["ids"] = alone["ids"].at[1, 4].set(SPECIAL_IDS["cls"])
    packed["ids"] = packed["ids"].at[0, 9 + 4].set(SPECIAL_IDS["cls"])
    begins = np.zeros((NUM_ROWS, NUM_TOKENS), bool)
    begins[0, [0, 9, 17]] = True

    @jax.jit
    def logits(batch):
        return merge(graphdef, params).discriminate(batch["ids"], *lay_out(batch))

    apart, joined = np.asarray(logits(alone)), np.asarray(logits(packed | {"begins": jnp.asarray(begins)}))
    expected = np.concatenate([apart[row, :length] for row, length in enumerate((9, 8, 7))])
    np.testing.assert_allclose(joined[0], expected, atol=1e-5)
    # Without the mask they would look at each other.
    assert np.abs(np.asarray(logits(packed))[0] - expected).max() > 1e-2

    packed["begins"] = jnp.asarray(begins)
    loss_fn = make_pretraining_loss(graphdef, objective=objective, special_ids=SPECIAL_IDS, vocab_size=VOCAB_SIZE)
    key_B = jax.random.split(jax.random.key(0), NUM_ROWS)
    loss, sums = jax.jit(lambda params: loss_fn(params, packed, key_B, train=True))(params)
    assert np.isfinite(float(loss))
    assert float(sums["batch/tokens"]) == NUM_TOKENS
    corrupted = corrupt(
        merge(graphdef, params),
        packed,
        mask_key_B=key_B,
        sample_key_B=key_B,
        dropout_key_B=None,
        objective=objective,
        special_ids=SPECIAL_IDS,
    )
    ends = np.isin(together[0], [SPECIAL_IDS["cls"], SPECIAL_IDS["sep"]])
    np.testing.assert_array_equal(np.asarray(corrupted.ids_BT)[0][ends], together[0][ends])


def test_metrics_are_those_of_scikit_learn(shallow, objective):
    graphdef, params = shallow
    total: dict[str, np.ndarray] = {}
    scores, labels, best, sampled = [], [], [], []
    for seed in range(40):
        batch, key = rows([NUM_TOKENS, 20, 15, 8, 1], seed=seed), jax.random.key(seed)
        _, sums = loss_of(params, batch, key, graphdef=graphdef, objective=objective, train=False)
        total = {name: total.get(name, 0) + np.asarray(value) for name, value in sums.items()}
        corrupted, words, logits = jax.device_get(seen(params, batch, key, graphdef=graphdef, objective=objective))
        real = np.asarray(segments(batch)[0])
        scores.extend(logits[real])
        labels.extend((corrupted.ids_BT != np.asarray(batch["ids"]))[real])
        for row, slot in np.argwhere(corrupted.masked.weights_BP > 0):
            target = corrupted.masked.targets_BP[row, slot]
            best.append(words[row, corrupted.masked.positions_BP[row, slot]].argmax() == target)
            sampled.append(corrupted.samples_BP[row, slot] == target)
    metrics, flagged = summarize(total), np.asarray(scores) > 0
    assert sum(best) > 0
    assert sum(sampled) > 0
    assert metrics["replaced/precision"] == pytest.approx(precision_score(labels, flagged, zero_division=0))
    assert metrics["replaced/recall"] == pytest.approx(recall_score(labels, flagged))
    assert metrics["replaced/share"] == pytest.approx(np.mean(labels))
    assert metrics["discriminator/accuracy"] == pytest.approx(np.mean(flagged == labels))
    assert metrics["masked/accuracy"] == pytest.approx(np.mean(best))
    assert metrics["sampled/accuracy"] == pytest.approx(np.mean(sampled))
    assert metrics["replaced/auc"] == pytest.approx(roc_auc_score(labels, scores), abs=2e-3)


@pytest.mark.parametrize("separation", [-1.0, 0.0, 0.5, 3.0])
def test_auc_of_counts_is_that_of_scores(separation):
    generator = np.random.default_rng(0)
    labels = generator.random(5000) < 0.12
    scores = generator.normal(size=5000) + separation * labels
    edges = np.linspace(-8, 8, 2049)
    positives, negatives = (np.histogram(scores[labels == value], edges)[0] for value in (True, False))
    assert area_under_curve(positives, negatives) == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)


def test_auc_of_one_class_is_a_half():
    assert area_under_curve(np.ones(4), np.zeros(4)) == 0.5


def test_metrics_of_nothing_are_numbers(shallow, objective):
    graphdef, params = shallow
    _, sums = loss_of(params, rows([]), jax.random.key(0), graphdef=graphdef, objective=objective, train=False)
    metrics = summarize(jax.device_get(sums))
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["replaced/auc"] == 0.5


def test_the_loss_is_a_function_of_its_key(shallow, objective, batch):
    graphdef, params = shallow
    first, again, other = (
        float(gradients_of(params, batch, jax.random.key(seed), graphdef=graphdef, objective=objective)[0])
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_an_unresolved_objective_and_a_wrong_special_id_are_refused(shallow, batch):
    graphdef, params = shallow
    with pytest.raises(ValueError, match="mask_fraction is not set"):
        loss_of(params, batch, jax.random.key(0), graphdef=graphdef, objective=ObjectiveConfig(), train=False)
    with pytest.raises(ValueError, match="mask has id 200"):
        make_pretraining_loss(
            graphdef,
            objective=ObjectiveConfig(mask_fraction=0.15),
            special_ids=SPECIAL_IDS | {"mask": VOCAB_SIZE},
            vocab_size=VOCAB_SIZE,
        )


def test_a_few_steps_lower_the_loss(shallow, objective):
    graphdef, params = shallow
    batch = rows([NUM_TOKENS] * NUM_ROWS)

    @jax.jit
    def descend(params, grads):
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
        return jax.tree.map(lambda p, g: p - 0.3 * g / norm, params, grads)

    losses = []
    for number in range(60):
        key = jax.random.key(number)
        loss, grads = gradients_of(params, batch, key, graphdef=graphdef, objective=objective)
        params = descend(params, grads)
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


_ON_DEVICES = """
    import sys
    import jax
    import numpy as np
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from electra_miniature import SPECIAL_IDS, VOCAB_SIZE, build_electra, make_batch
    from stages.electra.objectives.objective import ObjectiveConfig
    from stages.electra.objectives.pretraining_loss import make_pretraining_loss
    from stages.training.state import init_state, make_eval_step, make_train_step

    path, accumulation_steps = sys.argv[1], int(sys.argv[2])
    graphdef, params = build_electra(num_hidden_layers=1)
    loss = make_pretraining_loss(
        graphdef,
        objective=ObjectiveConfig(mask_fraction=0.25),
        special_ids=SPECIAL_IDS,
        vocab_size=VOCAB_SIZE,
    )
    batch = make_batch([24, 17, 9, 3, 2, 1, 0, 24, 20, 20, 13, 13, 8, 8, 24, 5])
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    optimizer = optax.sgd(1.0)  # the parameters then move by their gradients
    state = jax.device_put(init_state(params, optimizer, key=jax.random.key(5)), everywhere)
    heldout = make_eval_step(loss, key=jax.random.key(6), mesh=mesh)(state.params, batch, 3)
    step = make_train_step(loss, optimizer, mesh=mesh, accumulation_steps=accumulation_steps)
    state, sums = step(state, batch)
    leaves = {f"param/{number}": leaf for number, leaf in enumerate(jax.tree.leaves(state.params))}
    named = leaves | sums | {f"heldout/{name}": value for name, value in heldout.items()}
    np.savez(path, **{name.replace("/", "|"): value for name, value in named.items()})
    print(jax.device_count())
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """Gradients and sums of one batch of uneven texts, by (devices, parts in which each adds up its rows)."""
    folder, started = tmp_path_factory.mktemp("devices"), {}
    for case in ((1, 1), (8, 1), (8, 2)):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={case[0]}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ":".join(entry for entry in sys.path if entry),
        }
        arguments = [str(folder / f"{case}.npz"), str(case[1])]
        command = [sys.executable, "-c", textwrap.dedent(_ON_DEVICES), *arguments]
        started[case] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for (num_devices, _), process in started.items():
        assert process.communicate()[0].split()[-1] == str(num_devices)
    return {case: dict(np.load(folder / f"{case}.npz")) for case in started}


def assert_same_numbers(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    # Counts are equal only if the same tokens were masked, sampled and dropped.
    for name in expected:
        if name.endswith(("tokens", "correct", "found", "flagged")):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_eight_devices_compute_what_one_computes(computed):
    assert_same_numbers(computed[8, 1], computed[1, 1])


def test_gradients_that_each_device_accumulates_are_those_of_the_large_batch(computed):
    assert_same_numbers(computed[8, 2], computed[1, 1])
