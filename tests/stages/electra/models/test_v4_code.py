"""What code for transformers v4's Flax classes does, run on ours with its imports changed.

The names of parameters are those that v4.57.1 prints for the same configuration.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from electra_miniature import make_model, tiny
from flax.core import freeze
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict, unflatten_dict

from stages.electra import ElectraConfig
from stages.electra import ElectraForMaskedLM as FlaxElectraForMaskedLM
from stages.electra import ElectraForMultipleChoice as FlaxElectraForMultipleChoice
from stages.electra import ElectraForPreTraining as FlaxElectraForPreTraining
from stages.electra import ElectraForQuestionAnswering as FlaxElectraForQuestionAnswering
from stages.electra import ElectraForSequenceClassification as FlaxElectraForSequenceClassification
from stages.electra import ElectraForTokenClassification as FlaxElectraForTokenClassification
from stages.electra import ElectraModel as FlaxElectraModel
from stages.electra.files.huggingface import ConversionError

CONFIG = replace(tiny(num_hidden_layers=1)[0], vocab_size=50)
IDS = np.random.default_rng(0).integers(1, 50, (4, 9))

BACKBONE = [
    "embeddings/word_embeddings/embedding",
    "embeddings/position_embeddings/embedding",
    "embeddings/token_type_embeddings/embedding",
    "embeddings/LayerNorm/scale",
    "embeddings/LayerNorm/bias",
    "embeddings_project/kernel",
    "embeddings_project/bias",
    "encoder/layer/0/attention/self/query/kernel",
    "encoder/layer/0/attention/self/query/bias",
    "encoder/layer/0/attention/self/key/kernel",
    "encoder/layer/0/attention/self/key/bias",
    "encoder/layer/0/attention/self/value/kernel",
    "encoder/layer/0/attention/self/value/bias",
    "encoder/layer/0/attention/output/dense/kernel",
    "encoder/layer/0/attention/output/dense/bias",
    "encoder/layer/0/attention/output/LayerNorm/scale",
    "encoder/layer/0/attention/output/LayerNorm/bias",
    "encoder/layer/0/intermediate/dense/kernel",
    "encoder/layer/0/intermediate/dense/bias",
    "encoder/layer/0/output/dense/kernel",
    "encoder/layer/0/output/dense/bias",
    "encoder/layer/0/output/LayerNorm/scale",
    "encoder/layer/0/output/LayerNorm/bias",
]
HEADS = {
    FlaxElectraForPreTraining: """
        discriminator_predictions/dense/kernel discriminator_predictions/dense/bias
        discriminator_predictions/dense_prediction/kernel discriminator_predictions/dense_prediction/bias""",
    FlaxElectraForMaskedLM: """
        generator_predictions/dense/kernel generator_predictions/dense/bias generator_predictions/LayerNorm/scale
        generator_predictions/LayerNorm/bias generator_lm_head/bias""",
    FlaxElectraForSequenceClassification: """
        classifier/dense/kernel classifier/dense/bias classifier/out_proj/kernel classifier/out_proj/bias""",
    FlaxElectraForMultipleChoice: """
        sequence_summary/summary/kernel sequence_summary/summary/bias classifier/kernel classifier/bias""",
    FlaxElectraForTokenClassification: "classifier/kernel classifier/bias",
    FlaxElectraForQuestionAnswering: "qa_outputs/kernel qa_outputs/bias",
}


@pytest.fixture(scope="module")
def classifier() -> FlaxElectraForSequenceClassification:
    return make_model(FlaxElectraForSequenceClassification, CONFIG)


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    classifier.save_pretrained(folder)
    return folder


def flat(tree: dict) -> dict[str, object]:
    return flatten_dict(tree, sep="/")


# Names.


@pytest.mark.parametrize("model_class", HEADS)
def test_parameters_have_v4s_names_and_their_own_again(model_class):
    model = make_model(model_class, CONFIG)
    view = model.to_v4_params()
    assert set(flat(view)) == {f"electra/{name}" for name in BACKBONE} | set(HEADS[model_class].split())
    assert model.to_v4_params(view) == view
    jax.tree.map(np.testing.assert_array_equal, model.from_v4_params(view), model.params)
    jax.tree.map(np.testing.assert_array_equal, model.from_v4_params(model.params), model.params)


def test_a_bare_encoder_has_no_prefix_and_layers_are_numbered():
    model = make_model(FlaxElectraModel, replace(CONFIG, num_hidden_layers=2))
    view = model.to_v4_params()
    layers = [name for name in BACKBONE if "layer/0" in name]
    assert set(flat(view)) == {*BACKBONE, *(name.replace("layer/0", "layer/1") for name in layers)}
    jax.tree.map(np.testing.assert_array_equal, model.from_v4_params(view), model.params)
    kernels = [view["encoder"]["layer"][number]["output"]["dense"]["kernel"] for number in "01"]
    assert not np.array_equal(*kernels)
    np.testing.assert_array_equal(model.params["encoder"]["layers"]["output"]["kernel"], np.stack(kernels))


def test_a_mask_that_tells_layers_apart_has_v4s_names_only():
    model = make_model(FlaxElectraModel, replace(CONFIG, num_hidden_layers=2))
    mask = {path: path[:3] != ("encoder", "layer", "0") for path in flatten_dict(model.to_v4_params())}
    message = r"encoder/layers/\S+: the layers, which are one parameter .* different leaves, False, True: keep the tree"
    with pytest.raises(ConversionError, match=message):
        model.from_v4_params(unflatten_dict(mask))
    assert model.to_v4_params(unflatten_dict(mask)) == unflatten_dict(mask)
    same = unflatten_dict({path: path[-1] != "bias" for path in mask})
    assert model.to_v4_params(model.from_v4_params(same)) == same


def test_a_tree_that_is_not_the_models_is_refused(classifier):
    view = flat(classifier.to_v4_params())
    view["electra/pooler/kernel"] = view.pop("classifier/dense/bias")
    with pytest.raises(ConversionError, match="missing classifier/dense/bias; unexpected electra/pooler/kernel"):
        classifier.from_v4_params(unflatten_dict(view, sep="/"))
    with pytest.raises(ConversionError, match="missing head/dense/bias"):
        classifier.to_v4_params({**classifier.params, "head": {}})


def test_a_mask_that_freezes_the_encoder_freezes_it_and_no_more(classifier):
    model = FlaxElectraForSequenceClassification(CONFIG, params=classifier.params)
    model.params = model.to_v4_params()
    groups = {path: "frozen" if "electra" in path else "trained" for path in flatten_dict(model.params)}
    assert sorted(groups.values()).count("frozen") == len(BACKBONE)
    optimizer = optax.multi_transform(
        {"frozen": optax.set_to_zero(), "trained": optax.sgd(1.0)}, unflatten_dict(groups)
    )
    grads = jax.grad(lambda params: model(IDS, labels=np.array([0, 1, 0, 1]), params=params).loss)(model.params)
    updates, _ = optimizer.update(grads, optimizer.init(model.params))
    moved = {name for name, update in flat(updates).items() if np.any(update != 0)}
    assert moved == set(HEADS[FlaxElectraForSequenceClassification].split())


def test_a_mask_by_the_names_of_norms_spares_all_of_them(classifier):
    paths = flatten_dict(classifier.to_v4_params())
    is_decayed = {path: path[-1] != "bias" and path[-2:] != ("LayerNorm", "scale") for path in paths}
    spared = {"/".join(path) for path, decays in is_decayed.items() if not decays}
    assert spared == {"/".join(path) for path in paths if path[-1] in ("bias", "scale")}
    # In our own names the same mask, as a tree of booleans.
    ours = flat(classifier.from_v4_params(unflatten_dict(is_decayed)))
    assert {name for name, decays in ours.items() if not decays} == {
        name for name in ours if name.rpartition("/")[2] in ("bias", "scale")
    }


# Calls.


def test_calls_take_parameters_under_either_names_frozen_or_not_compiled_or_not(classifier):
    logits = classifier(IDS).logits
    view = classifier.to_v4_params()
    for params in (view, freeze(view), freeze(classifier.params)):
        np.testing.assert_array_equal(classifier(IDS, params=params).logits, logits)
    compiled = jax.jit(lambda params, **inputs: classifier(**inputs, params=params))
    inputs = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}
    np.testing.assert_allclose(compiled(view, **inputs).logits, logits, atol=1e-6)


def test_gradients_have_the_names_of_the_parameters(classifier):
    def loss(params):
        return classifier(IDS, labels=np.array([1, 0, 1, 1]), params=params).loss

    ours, theirs = jax.grad(loss)(classifier.params), jax.grad(loss)(classifier.to_v4_params())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), classifier.to_v4_params(ours), theirs)
    assert np.any(theirs["electra"]["encoder"]["layer"]["0"]["attention"]["self"]["query"]["kernel"] != 0)


def test_outputs_are_named_tuples_or_dictionaries_by_argument_or_configuration(classifier):
    output = classifier(IDS, output_attentions=None, output_hidden_states=None, return_dict=None, head_mask=None)
    assert list(output.items()) == [("logits", output.logits)]
    assert output.values() == [output.logits]
    assert output.get("logits") is output.logits
    assert output.get("attentions") is None
    assert output.get("loss", 3) == 3
    assert {**output}.keys() == {"logits"}
    full = replace(CONFIG, extra={"output_attentions": True, "output_hidden_states": True, "return_dict": False})
    model = FlaxElectraForSequenceClassification(full, params=classifier.params)
    logits, hidden_states, attentions = model(IDS)
    np.testing.assert_allclose(logits, output.logits, atol=1e-6)
    assert [state.shape for state in hidden_states] == [(4, 9, 32)] * 2
    assert [weights.shape for weights in attentions] == [(4, 2, 9, 9)]
    assert model(IDS, output_attentions=False, output_hidden_states=False, return_dict=True).keys() == ["logits"]


def test_what_is_not_imitated_is_refused_with_what_to_do(classifier):
    with pytest.raises(ValueError, match="head_mask is given, but heads are not masked"):
        classifier(IDS, head_mask=np.ones((1, 2)))
    with pytest.raises(TypeError, match=r"takes no _do_init: .* take `model.params`"):
        FlaxElectraModel(CONFIG, _do_init=False)
    with pytest.raises(TypeError, match="takes no input_shape: parameters do not depend on it"):
        FlaxElectraModel(CONFIG, input_shape=(1, 1))
    with pytest.raises(TypeError, match=r"takes no gradient_checkpointing: wrap the loss in jax.checkpoint"):
        FlaxElectraModel.from_pretrained("nowhere", gradient_checkpointing=True)
    with pytest.raises(TypeError, match=r"ElectraModel takes no vocabulary$"):
        FlaxElectraModel(CONFIG, vocabulary=3)
    with pytest.raises(ValueError, match="input_ids are not whole numbers"):
        classifier(IDS + 0.5)


def test_ids_may_be_whole_floats(classifier):
    np.testing.assert_array_equal(classifier(IDS.astype(float)).logits, classifier(IDS).logits)


def test_parameters_are_cast_as_a_whole_or_by_a_mask(classifier):
    view = classifier.to_v4_params()
    mask = unflatten_dict({path: path[-2:] != ("LayerNorm", "scale") for path in flatten_dict(view)})
    half = classifier.to_bf16(view)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    mixed = flat(classifier.to_fp16(view, mask))
    assert {name for name, leaf in mixed.items() if leaf.dtype == jnp.float32} == {
        name for name in mixed if name.endswith("LayerNorm/scale")
    }
    back = classifier.to_fp32(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {jnp.dtype(jnp.float32)}
    difference = np.abs(classifier(IDS, params=back).logits - classifier(IDS).logits).max()
    assert 0 < difference < 0.05


# Files.


@pytest.mark.parametrize("safe_serialization", [True, False])
def test_other_parameters_are_saved_in_either_format_and_read_back(classifier, tmp_path, safe_serialization):
    classifier.save_pretrained(tmp_path, safe_serialization=not safe_serialization)  # an earlier save
    params = jax.tree.map(lambda leaf: leaf + 1, classifier.to_v4_params())
    classifier.save_pretrained(tmp_path, params, safe_serialization=safe_serialization)
    written = {path.name for path in tmp_path.iterdir()}
    name = "model.safetensors" if safe_serialization else "flax_model.msgpack"
    assert written == {"config.json", "README.md", name}
    if not safe_serialization:
        saved = msgpack_restore((tmp_path / name).read_bytes())
        jax.tree.map(np.testing.assert_array_equal, saved, jax.device_get(params))
    loaded = FlaxElectraForSequenceClassification.from_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.to_v4_params(), params)


def test_the_arguments_of_loading_are_taken(folder, classifier):
    model = FlaxElectraForSequenceClassification.from_pretrained(
        folder,
        from_pt=True,
        token=False,
        cache_dir="unused",
        local_files_only=True,
        force_download=False,
        trust_remote_code=False,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
        finetuning_task="cola",
    )
    assert model.config.label2id == {"no": 0, "yes": 1}
    assert model.config.finetuning_task == "cola"
    jax.tree.map(np.testing.assert_array_equal, model.params, classifier.params)
    with pytest.raises(ValueError, match="not the inverse of id2label"):
        FlaxElectraForSequenceClassification.from_pretrained(
            folder, id2label={0: "no", 1: "yes"}, label2id={"no": 1, "yes": 0}
        )
    with pytest.raises(TypeError, match=r"num_label is no field of a model configuration. Did you mean `num_labels`"):
        FlaxElectraForSequenceClassification.from_pretrained(folder, num_label=3)


def test_a_configuration_may_be_a_path_or_an_object_of_transformers(folder, classifier):
    values = {
        **{name: value for name, value in CONFIG.to_dict().items() if value is not None},
        "model_type": "electra", "finetuning_task": "cola", "chunk_size_feed_forward": 0, "output_attentions": True,
    }  # fmt: skip
    theirs = SimpleNamespace(
        to_dict=lambda: values, to_diff_dict=lambda: {n: v for n, v in values.items() if n != "chunk_size_feed_forward"}
    )
    for config in (theirs, folder, str(folder)):
        model = FlaxElectraForSequenceClassification.from_pretrained(folder, config=config)
        assert model.config == CONFIG
        np.testing.assert_array_equal(model(IDS).logits, classifier(IDS).logits)
    assert make_model(FlaxElectraModel, theirs).config.extra == {"finetuning_task": "cola", "output_attentions": True}
    with pytest.raises(TypeError, match="config is a int, must be an ElectraConfig, ours or transformers'"):
        FlaxElectraModel(3)


def test_keys_that_a_configuration_does_not_know_are_kept(folder, tmp_path, classifier):
    config = ElectraConfig.from_pretrained(folder, finetuning_task="mrpc")
    config = replace(config, extra={**config.extra, "adapter": {"width": 8}})
    FlaxElectraForSequenceClassification(config, params=classifier.params).save_pretrained(tmp_path)
    again = ElectraConfig.from_pretrained(tmp_path)
    assert (again.finetuning_task, again.adapter) == ("mrpc", {"width": 8})
    with pytest.raises(AttributeError, match=r"has no hiden_size. Did you mean `hidden_size`"):
        _ = again.hiden_size


def test_classes_without_names_are_numbered_labels():
    config = ElectraConfig()
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    assert config.change(num_labels=3).label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    assert replace(config, num_labels=1).id2label == {0: "LABEL_0"}
    assert config.to_dict()["id2label"] is None


def test_tensors_of_other_shapes_are_left_out_when_asked_for(folder, caplog):
    with pytest.raises(ConversionError, match="num_labels 2"):
        FlaxElectraForSequenceClassification.from_pretrained(folder, num_labels=5)
    model = FlaxElectraForSequenceClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert model(IDS)["logits"].shape == (4, 5)
    (record,) = caplog.records
    for part in ("classifier.out_proj.bias has shape (2,), the configuration says (5,)", "classifier.out_proj.weight"):
        assert part in record.message
    assert "classifier.dense" not in record.message
