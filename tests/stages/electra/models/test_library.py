"""The classes with transformers' names, as a user calls them."""

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from electra_miniature import tiny

import stages.electra
from stages.electra import (
    ElectraConfig,
    ElectraForCausalLM,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
)
from stages.electra.files.huggingface import ConversionError, flatten

CONFIG = replace(tiny(num_hidden_layers=1)[0], vocab_size=50)
IDS = np.random.default_rng(0).integers(1, 50, (2, 7))


@pytest.fixture(scope="module")
def discriminator() -> ElectraForPreTraining:
    return ElectraForPreTraining(CONFIG)


@pytest.fixture(scope="module")
def folder(discriminator, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("discriminator")
    discriminator.save_pretrained(folder)
    return folder


def test_outputs_are_read_by_name_place_or_as_a_tuple(discriminator):
    output = discriminator(IDS, labels=np.zeros_like(IDS), output_hidden_states=True)
    assert output.keys() == ["loss", "logits", "hidden_states"]
    assert output.attentions is None
    assert output["logits"] is output[1] is output.logits
    assert output.to_tuple()[0] is output.loss
    assert isinstance(discriminator(IDS, return_dict=False), tuple)
    with pytest.raises(KeyError, match="attentions"):
        output["attentions"]


def test_what_is_not_given_is_one_segment_without_padding_from_position_0(discriminator):
    plain = discriminator(IDS).logits
    ones, zeros = np.ones_like(IDS), np.zeros_like(IDS)
    places = np.arange(7)[None]
    assert np.array_equal(plain, discriminator(IDS, ones, zeros, places).logits)
    assert not np.allclose(plain, discriminator(IDS, ones, ones).logits, atol=1e-4)
    assert not np.allclose(plain, discriminator(IDS, position_ids=places[:, ::-1]).logits, atol=1e-4)


def test_a_call_is_compiled_once_for_a_shape_and_shared_between_models(discriminator):
    from stages.electra.models.pretrained_model import _run

    other = ElectraForPreTraining(CONFIG, params=jax.tree.map(lambda leaf: leaf * 2, discriminator.params))
    discriminator(IDS)
    before = _run._cache_size()
    discriminator(IDS[::-1])
    assert not np.array_equal(other(IDS).logits, discriminator(IDS).logits)
    assert _run._cache_size() == before


def test_dropout_is_drawn_from_the_given_key_and_only_in_training(discriminator):
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    first, second = (discriminator(IDS, train=True, dropout_rng=key).logits for key in (old, new))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, discriminator(IDS).logits)
    assert np.array_equal(discriminator(IDS, dropout_rng=new).logits, discriminator(IDS).logits)
    with pytest.raises(ValueError, match="dropout_rng"):
        discriminator(IDS, train=True)


def test_a_decoder_never_sees_what_comes_after():
    model = ElectraForCausalLM(replace(CONFIG, is_decoder=True))
    changed = IDS.copy()
    changed[:, 4] = changed[:, 4] % 49 + 1
    difference = np.abs(model(IDS).logits - model(changed).logits).max(axis=-1)
    assert difference[:, :4].max() == 0
    assert difference[:, 4:].min() > 0


def test_rows_of_padding_alone_are_finite(discriminator):
    output = discriminator(IDS, np.array([[0] * 7, [1] * 7]), output_attentions=True, labels=np.zeros_like(IDS))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(output))
    assert np.isfinite(discriminator(IDS, np.zeros_like(IDS), labels=np.zeros_like(IDS)).loss)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "one of input_ids and inputs_embeds"),
        ({"input_ids": [[50]]}, ValueError, "input_ids reach from 50 to 50, vocab_size is 50"),
        ({"input_ids": [[1]], "token_type_ids": [[2]]}, ValueError, "type_vocab_size is 2"),
        ({"input_ids": [[1]], "position_ids": [[40]]}, ValueError, "max_position_embeddings is 40"),
        ({"input_ids": [[1]], "lables": [[1]]}, TypeError, "takes no lables; it takes labels"),
        ({"input_ids": np.ones((1, 41), int)}, ValueError, "41 tokens, the model max_position_embeddings 40"),
    ],
)
def test_wrong_arguments_are_named(discriminator, arguments, error, message):
    with pytest.raises(error, match=message):
        discriminator(**arguments)


def test_an_encoder_has_nothing_to_cross_to(discriminator):
    with pytest.raises(ValueError, match="add_cross_attention is false"):
        ElectraModel(CONFIG)(IDS, encoder_hidden_states=np.zeros((2, 3, 32), np.float32))


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(discriminator, folder):
    rounded = ElectraForPreTraining.from_pretrained(folder, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded.params)} == {jnp.dtype(jnp.float32)}
    difference = np.abs(rounded(IDS).logits - discriminator(IDS).logits).max()
    assert 0 < difference < 0.05


def test_a_saved_model_comes_back_without_a_word(discriminator, folder, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = ElectraForPreTraining.from_pretrained(folder)
    assert not caplog.records
    assert loaded.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, loaded.params, discriminator.params)


def test_another_class_takes_the_encoder_and_names_the_rest_in_one_warning(discriminator, folder, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = ElectraForMaskedLM.from_pretrained(folder)
    (record,) = caplog.records
    for part in ("ElectraForMaskedLM", "random", "generator_lm_head.bias", "discriminator_predictions.dense.weight"):
        assert part in record.message
    assert "electra." not in record.message
    for name in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, loaded.params[name], discriminator.params[name])


def test_fields_of_the_config_can_be_changed_when_loading(folder):
    model = ElectraForTokenClassification.from_pretrained(folder, id2label={0: "O", 1: "B", 2: "I"}, seed=1)
    assert model(IDS).logits.shape == (2, 7, 3)
    assert model.config.label2id == {"O": 0, "B": 1, "I": 2}
    again = ElectraForTokenClassification.from_pretrained(folder, num_labels=3, seed=1)
    assert np.array_equal(model(IDS).logits, again(IDS).logits)


def test_a_wrong_shape_names_parameter_both_shapes_and_the_field_that_would_mend_it(folder, tmp_path):
    with pytest.raises(ConversionError) as caught:
        ElectraForPreTraining.from_pretrained(folder, vocab_size=51, intermediate_size=128)
    for part in (
        "electra.embeddings.word_embeddings.weight has shape (50, 24), the configuration says (51, 24) "
        "(it would fit vocab_size 50)",
        "electra.encoder.layer.0.intermediate.dense.weight has shape (64, 32), the configuration says (128, 32) "
        "(it would fit intermediate_size 64)",
    ):
        assert part in str(caught.value)
    ElectraForSequenceClassification(replace(CONFIG, num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match="num_labels 3"):
        ElectraForSequenceClassification.from_pretrained(tmp_path, num_labels=4)


def test_fine_tuning_by_gradient_lowers_the_loss(folder):
    model = ElectraForSequenceClassification.from_pretrained(folder, num_labels=3)
    labels = np.array([2, 0])

    @jax.jit
    def step(params):
        loss, grads = jax.value_and_grad(lambda params: model(IDS, labels=labels, params=params).loss)(params)
        return loss, jax.tree.map(lambda leaf, grad: leaf - 0.01 * grad, params, grads)

    losses, params = [], model.params
    for _ in range(5):
        loss, params = step(params)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
    before, after = flatten(model.params), flatten(params)
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert still <= {"encoder/layers/0/attention/key/bias"}


def test_a_config_counts_its_labels_and_refuses_two_counts():
    assert ElectraConfig().num_labels == 2
    assert ElectraConfig(id2label={"0": "a", "1": "b", "2": "c"}).num_labels == 3
    with pytest.raises(ValueError, match=r"id2label names the classes \[0, 1\], num_labels is 3"):
        ElectraConfig(id2label={0: "a", 1: "b"}, num_labels=3)
    with pytest.raises(ValueError, match="only a decoder"):
        ElectraConfig(add_cross_attention=True)


@pytest.mark.parametrize("name", stages.electra.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(stages.electra, name).__name__ == name


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match=r"'stages.electra' has no attribute 'ElectraForNothing'"):
        _ = stages.electra.ElectraForNothing


def test_the_library_imports_neither_ray_nor_mlflow_torch_or_transformers():
    code = (
        "import sys; from stages.electra import ElectraForPreTraining, ElectraTokenizer;"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ray", "mlflow", "torch", "transformers", "tensorflow"} & set(found.stdout.split())
