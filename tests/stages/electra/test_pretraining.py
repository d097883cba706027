"""The objective as the paper has it, and metrics that can be added up."""

import dataclasses
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from electra_miniature import NUM_TOKENS, SPECIAL_IDS, VOCAB_SIZE, make_batch
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from stages.electra.config import ObjectiveConfig
from stages.electra.huggingface import flatten
from stages.electra.model import merge
from stages.electra.pretraining import (
    area_under_curve,
    corrupt,
    make_pretraining_loss,
    segments,
    summarize,
)


def make_loss(electra, objective, **changes):
    return make_pretraining_loss(
        electra[0],
        objective=dataclasses.replace(objective, **changes),
        special_ids=SPECIAL_IDS,
        vocab_size=VOCAB_SIZE,
    )


def seen(electra, batch, objective, key):
    """What the loss of `key` sees without dropout: the corruption and the discriminator's logits."""
    model = merge(*electra)
    mask_key, sample_key, *_ = jax.random.split(key, 4)
    corrupted = corrupt(
        model,
        batch,
        mask_key=mask_key,
        sample_key=sample_key,
        dropout_key=None,
        objective=objective,
        special_ids=SPECIAL_IDS,
    )
    return corrupted, model.discriminate(corrupted.ids_BT, *segments(batch))


def test_loss_is_that_of_a_plain_transcription(electra, objective, batch):
    key = jax.random.key(7)
    loss, sums = make_loss(electra, objective)(electra[1], batch, key, train=False)
    corrupted, logits = seen(electra, batch, objective, key)
    model, (mask, types) = merge(*electra), segments(batch)

    words = jax.nn.log_softmax(model.generate(corrupted.masked.ids_BT, mask, types))
    generator = [
        -float(words[row, position, batch["ids"][row, position]])
        for row in range(len(batch["ids"]))
        for slot, position in enumerate(np.asarray(corrupted.masked.positions_BP[row]))
        if corrupted.masked.weights_BP[row, slot]
    ]
    scores, labels = np.asarray(logits, np.float64), np.asarray(corrupted.ids_BT != batch["ids"])
    discriminator = np.log1p(np.exp(np.where(labels, -scores, scores)))[np.asarray(mask)]
    expected = np.mean(generator) + 50 * discriminator.mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    metrics = summarize(jax.device_get(sums))
    np.testing.assert_allclose(metrics["loss/total"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/generator"], np.mean(generator), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/discriminator"], discriminator.mean(), rtol=1e-5)


def test_the_discriminator_gives_the_generator_no_gradient(electra, objective, batch):
    def touched(**weights):
        loss = make_loss(electra, objective, **weights)
        grads = jax.grad(lambda p: loss(p, batch, jax.random.key(0), train=True)[0])(electra[1])
        return {name.split("/")[0] for name, value in flatten(grads).items() if np.any(value)}

    assert touched(generator_weight=0.0) == {"embeddings", "discriminator", "discriminator_head"}
    assert touched(discriminator_weight=0.0) == {"embeddings", "generator", "generator_head"}


def test_losses_are_means_over_the_predictions_of_the_whole_batch(electra, objective):
    # One long text, one short: a mean of the two rows' means would weigh the short one's tokens more.
    batch = make_batch([NUM_TOKENS, 4])
    key = jax.random.key(1)
    corrupted, logits = seen(electra, batch, objective, key)
    mask, _ = segments(batch)
    scores, labels = np.asarray(logits), np.asarray(corrupted.replaced_BT)
    losses = np.log1p(np.exp(np.where(labels, -scores, scores)))
    rows = [losses[row][np.asarray(mask[row])] for row in (0, 1)]
    loss, _ = make_loss(electra, objective, generator_weight=0.0)(electra[1], batch, key, train=False)
    np.testing.assert_allclose(loss, 50 * np.concatenate(rows).mean(), rtol=1e-5)
    assert abs(float(loss) - 50 * np.mean([row.mean() for row in rows])) > 1e-3


def test_rows_of_padding_add_nothing(electra, objective):
    loss = make_loss(electra, objective)
    batch = make_batch([NUM_TOKENS, 0, 0])
    _, sums = loss(electra[1], batch, jax.random.key(0), train=False)
    assert int(sums["discriminator/tokens"]) == NUM_TOKENS
    assert int(sums["generator/tokens"]) == 6
    nothing, grads = jax.value_and_grad(lambda p: loss(p, make_batch([0, 0]), jax.random.key(0), train=True)[0])(
        electra[1]
    )
    assert float(nothing) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_metrics_are_those_of_scikit_learn(electra, objective):
    loss = make_loss(electra, objective)
    total: dict[str, np.ndarray] = {}
    scores, labels, best, sampled = [], [], [], []
    for seed in range(6):
        batch, key = make_batch([NUM_TOKENS, 20, 15, 8], seed=seed), jax.random.key(seed)
        sums = jax.device_get(loss(electra[1], batch, key, train=False)[1])
        total = {name: total.get(name, 0) + value for name, value in sums.items()}
        corrupted, logits = seen(electra, batch, objective, key)
        real = np.asarray(segments(batch)[0])
        used = np.asarray(corrupted.masked.weights_BP) > 0
        scores.extend(np.asarray(logits)[real])
        labels.extend(np.asarray(corrupted.replaced_BT)[real])
        best.extend(np.asarray(corrupted.is_best_BP)[used])
        sampled.extend(np.asarray(corrupted.samples_BP == corrupted.masked.targets_BP)[used])
    metrics, flagged = summarize(total), np.asarray(scores) > 0
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


def test_metrics_of_nothing_are_numbers():
    electra_sums = ("generator", "discriminator")
    sums = {f"{name}/loss": 0.0 for name in electra_sums} | {f"{name}/tokens": 0.0 for name in electra_sums}
    names = (
        "total/batches total/generator_weight total/discriminator_weight generator/best_correct "
        "generator/sample_correct discriminator/correct replaced/tokens replaced/flagged replaced/found"
    )
    sums |= dict.fromkeys(names.split(), 0.0) | {"replaced/scores": np.zeros(3), "original/scores": np.zeros(3)}
    assert all(np.isfinite(value) for value in summarize(sums).values())


def test_the_loss_is_a_function_of_its_key(electra, objective, batch):
    loss = jax.jit(partial(make_loss(electra, objective), train=True))
    first, again, other = (loss(electra[1], batch, jax.random.key(seed))[0] for seed in (0, 0, 1))
    assert float(first) == float(again)
    assert float(first) != float(other)


def test_an_unresolved_objective_and_a_wrong_special_id_are_refused(electra, batch):
    with pytest.raises(ValueError, match="mask_fraction is not set"):
        make_loss(electra, ObjectiveConfig())(electra[1], batch, jax.random.key(0), train=False)
    with pytest.raises(ValueError, match="mask has id 200"):
        make_pretraining_loss(
            electra[0],
            objective=ObjectiveConfig(mask_fraction=0.15),
            special_ids=SPECIAL_IDS | {"mask": VOCAB_SIZE},
            vocab_size=VOCAB_SIZE,
        )


def test_a_few_steps_lower_the_loss(electra, objective):
    loss = make_loss(electra, objective)
    batch = make_batch([NUM_TOKENS] * 4)

    @jax.jit
    def step(params, key):
        (value, sums), grads = jax.value_and_grad(lambda p: loss(p, batch, key, train=False), has_aux=True)(params)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
        return jax.tree.map(lambda p, g: p - 0.3 * g / norm, params, grads), value, sums

    params, values = electra[1], []
    for number in range(40):
        params, value, _ = step(params, jax.random.key(number))
        values.append(float(value))
    assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5])


_ON_DEVICES = """
    import sys
    import jax
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from electra_miniature import SPECIAL_IDS, VOCAB_SIZE, make_batch, perturb, tiny
    from stages.electra.config import ObjectiveConfig
    from stages.electra.model import Electra, split
    from stages.electra.pretraining import make_pretraining_loss

    graphdef, params = split(Electra(*tiny(), rngs_key=jax.random.key(0)))
    params = perturb(params)
    loss = make_pretraining_loss(
        graphdef,
        objective=ObjectiveConfig(mask_fraction=0.25),
        special_ids=SPECIAL_IDS,
        vocab_size=VOCAB_SIZE,
    )
    batch = make_batch([24, 17, 9, 3, 2, 1, 0, 24, 20, 20, 13, 13, 8, 8, 24, 5])
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

    def value(params, batch, key):
        return loss(params, batch, key, train=True)

    step = jax.jit(jax.value_and_grad(value, has_aux=True), out_shardings=NamedSharding(mesh, PartitionSpec()))
    (total, sums), grads = step(params, batch, jax.random.key(5))
    leaves = {f"grad/{number}": leaf for number, leaf in enumerate(jax.tree.leaves(grads))}
    np.savez(sys.argv[1], total=total, **leaves, **{name.replace("/", "|"): s for name, s in sums.items()})
    print(jax.device_count())
"""


def test_eight_devices_compute_what_one_computes(tmp_path):
    found = []
    for num_devices in (1, 8):
        environment = {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ":".join(entry for entry in sys.path if entry),
        }
        path = tmp_path / f"{num_devices}.npz"
        command = [sys.executable, "-c", textwrap.dedent(_ON_DEVICES), str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        assert printed.split()[-1] == str(num_devices)
        found.append(dict(np.load(path)))
    one, eight = found
    assert one.keys() == eight.keys()
    # Counts are equal only if the same tokens were masked, sampled and dropped.
    for name in one:
        if name.endswith(("tokens", "correct", "found", "flagged")):
            np.testing.assert_array_equal(eight[name], one[name], err_msg=name)
        else:
            np.testing.assert_allclose(eight[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
