"""Hugging Face folders, written and read, and what is said of broken ones."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
import yaml
from electra_miniature import KEY, build, tiny
from huggingface_hub import ModelCard as HubCard
from upath import UPath

from stages.electra.config import HeadKind
from stages.electra.files.card import ModelCard, read_metadata
from stages.electra.files.huggingface import ConversionError, flatten
from stages.electra.files.model_folder import (
    load_backbone,
    load_parameters,
    load_pretrained,
    save_parameters,
    save_pretrained,
)
from stages.electra.joint_model import merge
from stages.electra.network import SequenceClassifier, SpanPredictor, TokenClassifier
from stages.tasks.named import TaskName

LABELS = {0: "no", 1: "yes", 2: "maybe"}


def discriminator(electra) -> dict:
    params = electra[1]
    return {
        "embeddings": params["embeddings"],
        "encoder": params["discriminator"],
        "head": params["discriminator_head"],
    }


def save_discriminator(electra, folder: UPath) -> UPath:
    save_pretrained(folder, architecture="ElectraForPreTraining", config=tiny()[0], params=discriminator(electra))
    return folder


def assert_equal(ours: dict, theirs: dict) -> None:
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("architecture", "make", "id2label"),
    [
        ("ElectraForSequenceClassification", lambda c: SequenceClassifier(c.change(num_labels=3), key=KEY), LABELS),
        ("ElectraForTokenClassification", lambda c: TokenClassifier(c.change(num_labels=3), key=KEY), LABELS),
        ("ElectraForQuestionAnswering", lambda c: SpanPredictor(c, key=KEY), None),
    ],
)
def test_a_fine_tuned_model_survives_its_folder(tmp_path, architecture, make, id2label):
    config = tiny()[0]
    params = build(lambda: make(config))[1]
    folder = UPath(tmp_path / "model")
    save_pretrained(folder, architecture=architecture, config=config.change(id2label=id2label), params=params)
    loaded = load_pretrained(folder)
    expected = replace(config, num_labels=0, id2label=id2label)
    assert (loaded.architecture, loaded.config) == (architecture, expected)
    assert_equal(loaded.params, params)


def test_the_backbone_of_any_folder_loads_without_its_head(tmp_path, electra):
    config, params = load_backbone(save_discriminator(electra, UPath(tmp_path)))
    assert config == tiny()[0]
    expected = discriminator(electra)
    assert_equal(params, {name: expected[name] for name in ("embeddings", "encoder")})


def test_a_folder_on_another_file_system_is_the_same(electra):
    folder = save_discriminator(electra, UPath("memory://models/discriminator"))
    assert_equal(load_pretrained(folder).params, discriminator(electra))


def test_every_fault_of_a_folder_is_named_at_once(tmp_path, electra):
    folder = save_discriminator(electra, UPath(tmp_path))
    weights = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    tensors["electra.extra"] = np.zeros(3, np.float32)
    del tensors["electra.encoder.layer.1.output.dense.bias"]
    name = "electra.embeddings.word_embeddings.weight"
    tensors[name] = tensors[name][:-1]
    safetensors.numpy.save_file(tensors, weights)
    with pytest.raises(ConversionError) as caught:
        load_backbone(folder)
    for part in (
        "unexpected electra.extra",
        "missing electra.encoder.layer.1.output.dense.bias (32,)",
        f"{name} has shape (199, 24), the configuration says (200, 24)",
    ):
        assert part in str(caught.value)


def test_parameters_of_another_architecture_are_refused(tmp_path, electra):
    with pytest.raises(ConversionError, match=r"missing head/bias .* unexpected head/prediction/bias"):
        save_pretrained(
            UPath(tmp_path), architecture="ElectraForMaskedLM", config=tiny()[0], params=discriminator(electra)
        )


def test_a_generator_whose_output_is_not_tied_is_refused(tmp_path, electra):
    params = electra[1]
    save_pretrained(
        UPath(tmp_path),
        architecture="ElectraForMaskedLM",
        config=tiny()[1],
        params={"embeddings": params["embeddings"], "encoder": params["generator"], "head": params["generator_head"]},
    )
    weights = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    table = tensors["electra.embeddings.word_embeddings.weight"]
    safetensors.numpy.save_file(tensors | {"generator_lm_head.weight": table}, weights)
    load_pretrained(str(tmp_path))
    safetensors.numpy.save_file(tensors | {"generator_lm_head.weight": table + 1}, weights)
    with pytest.raises(ConversionError, match="must be tied"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("num_labels", [3, 40])
def test_the_originals_head_is_exported_as_transformers_with_the_same_logits(tmp_path, num_labels):
    config = tiny()[0].change(num_labels=num_labels)
    assert (2 * num_labels <= config.hidden_size) == (num_labels == 3)
    graphdef, params = build(lambda: SequenceClassifier(config, key=KEY, head=HeadKind.ORIGINAL))
    # As after training: a LayerNorm that is not that of the start, elements that the gelu would bend.
    norm = params["encoder"]["layers"]["layer_norm"]
    random = np.random.default_rng(0)
    norm |= {name: jnp.asarray(random.normal(size=values.shape), jnp.float32) * 2 for name, values in norm.items()}
    save_pretrained(UPath(tmp_path), architecture="ElectraForSequenceClassification", config=config, params=params)
    saved = load_pretrained(str(tmp_path))
    assert set(saved.params["head"]) == {"dense", "prediction"}
    ids = random.integers(5, config.vocab_size, (4, 12))
    inputs = (jnp.asarray(ids), jnp.ones(ids.shape, bool), jnp.zeros(ids.shape, jnp.int32))
    expected = merge(graphdef, params)(*inputs)
    structure, _ = build(lambda: SequenceClassifier(saved.config, key=KEY))
    found = merge(structure, saved.params)(*inputs)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "swish"}, "swish"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, electra, change, message):
    folder = save_discriminator(electra, UPath(tmp_path))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        load_backbone(folder)


def test_a_missing_folder_or_file_says_what_is_there(tmp_path, electra):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_backbone(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_backbone(str(tmp_path))
    save_discriminator(electra, UPath(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "model.weights")
    with pytest.raises(FileNotFoundError, match=r"none of model\.safetensors, .*; found config\.json, model\.weights"):
        load_backbone(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing: no such folder, and the Hugging Face hub"):
        load_backbone("nobody/nothing")


def test_weights_in_bfloat16_are_read_as_float32(tmp_path, electra):
    folder = save_discriminator(electra, UPath(tmp_path))
    weights = tmp_path / "model.safetensors"
    rounded = {name: jnp.asarray(value, jnp.bfloat16) for name, value in safetensors.numpy.load_file(weights).items()}
    safetensors.flax.save_file(rounded, weights)
    for value in flatten(load_backbone(folder)[1]).values():
        assert value.dtype == np.float32


def test_own_parameters_survive_their_file(tmp_path, electra):
    path = UPath(tmp_path / "parameters.safetensors")
    save_parameters(path, electra[1])
    assert_equal(load_parameters(path), electra[1])


def test_the_hubs_library_reads_a_model_card_with_its_results():
    card = ModelCard(
        title='a "quoted" model: yes, 文',
        summary="text",
        task="text-classification",
        dataset=TaskName.COLA,
        split="dev",
        base_model="some/electra",
        language=("en", "pt-BR"),
        results={"matthews": 50.0, "accuracy": 81.25, "macro_f1": 80.0, "f1": 70.0, "special": 3.0},
    )
    found = HubCard(card.render())
    assert found.data.model_name == 'a "quoted" model: yes, 文'
    assert [(result.metric_type, result.metric_value) for result in found.data.eval_results] == [
        ("matthews_correlation", 0.5),
        ("accuracy", 0.8125),
        ("f1", 0.8),
        ("f1", 0.7),
        ("special", 3.0),
    ]
    metadata = yaml.safe_load(card.render().split("---\n")[1])
    assert "license" not in metadata
    assert metadata["metrics"] == ["matthews_correlation", "accuracy", "f1", "special"]
    assert (metadata["base_model"], metadata["language"]) == ("some/electra", ["en", "pt-BR"])
    assert read_metadata(card.render()) == metadata
    (index,) = metadata["model-index"]
    assert index["results"] == [
        {
            "task": {"type": "text-classification"},
            "dataset": {"name": "cola", "type": "cola", "split": "dev"},
            "metrics": [
                {"type": "matthews_correlation", "value": 0.5, "name": "matthews"},
                {"type": "accuracy", "value": 0.8125, "name": "accuracy"},
                {"type": "f1", "value": 0.8, "name": "macro_f1"},
                {"type": "f1", "value": 0.7, "name": "f1"},
                {"type": "special", "value": 3.0, "name": "special"},
            ],
        }
    ]
    assert f"# {found.data.model_name}\n\ntext\n\n## Results\n" in found.content


def test_a_model_card_leaves_out_what_is_not_known():
    metadata = yaml.safe_load(ModelCard(title="t", summary="s").render().split("---\n")[1])
    assert metadata == {"library_name": "transformers", "tags": ["electra"]}


@pytest.mark.parametrize("text", ["", "no metadata", "---\n: {\n---\n", "---\n- a list\n---\n", "---\nnever closed"])
def test_a_card_of_somebody_else_may_say_nothing(text):
    assert read_metadata(text) == {}
