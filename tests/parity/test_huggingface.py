"""What we export is what transformers computes with, and what transformers saves is what we load."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from upath import UPath

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stages.electra.config import ElectraConfig, HeadKind  # noqa: E402
from stages.electra.files.model_folder import save_pretrained  # noqa: E402
from stages.electra.joint_model import Electra, merge, split  # noqa: E402
from stages.electra.network import SequenceClassifier, SpanPredictor, TokenClassifier  # noqa: E402
from stages.electra.sizes import ModelConfig, Size  # noqa: E402

pytestmark = pytest.mark.parity

VOCAB_SIZE = 300
LENGTHS = np.array([20, 13, 7, 1])
MASK = np.arange(20) < LENGTHS[:, None]
TYPES = ((np.arange(20) >= LENGTHS[:, None] // 2) & MASK).astype(np.int64)
IDS = np.random.default_rng(0).integers(0, VOCAB_SIZE, MASK.shape)
KEY = jax.random.key(0)
LABELS = {0: "no", 1: "yes", 2: "maybe"}


def configs(embedding_size: int = 24, **changes) -> tuple[ElectraConfig, ElectraConfig]:
    return ModelConfig(
        **{
            "size": Size.TINY,
            "embedding_size": embedding_size,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 32,
            **changes,
        }
    ).resolve(VOCAB_SIZE)


def build(make):
    """A module's structure and random parameters: with biases at 0 and scales at 1 a wrong name could pass."""
    graphdef, shapes = jax.eval_shape(lambda: split(make()))
    random = np.random.default_rng(1)

    def fill(path, shape):
        # Scales about 1: small ones would make attention even, and hide what is swapped within it.
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(random.normal(centre, 0.2, shape.shape), jnp.float32)

    return graphdef, jax.tree.map_with_path(fill, shapes)


def torch_outputs(folder: Path, architecture: str) -> dict[str, np.ndarray]:
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    with torch.no_grad():
        outputs = model.eval()(
            input_ids=torch.tensor(IDS),
            attention_mask=torch.tensor(MASK.astype(np.int64)),
            token_type_ids=torch.tensor(TYPES),
        )
    return {name: value.numpy() for name, value in outputs.items()}


def ours(call) -> np.ndarray:
    return np.asarray(jax.jit(call)(jnp.asarray(IDS), jnp.asarray(MASK), jnp.asarray(TYPES)))


def save_network(folder: Path, name: str, **changes):
    """Exports one network of a random ELECTRA; returns its architecture and the function that we compute."""
    discriminator, generator = configs(**changes)
    graphdef, params = build(lambda: Electra(discriminator, generator, key=KEY))
    model = merge(graphdef, params)
    architecture, config, call = {
        "discriminator": ("ElectraForPreTraining", discriminator, model.discriminate),
        "generator": ("ElectraForMaskedLM", generator, model.generate),
    }[name]
    save_pretrained(
        UPath(folder),
        architecture=architecture,
        config=config,
        params={"embeddings": params["embeddings"], "encoder": params[name], "head": params[f"{name}_head"]},
    )
    return architecture, call


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_size": 24},
        {"embedding_size": 64},
        {"embedding_size": 32, "generator_multiplier": 1.0},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["discriminator", "generator"])
def test_exports_load_in_transformers_and_give_our_logits(tmp_path, name, changes):
    architecture, call = save_network(tmp_path, name, **changes)
    theirs, found = torch_outputs(tmp_path, architecture)["logits"], ours(call)
    assert theirs.shape == found.shape
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(found[MASK], theirs[MASK], atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("attention.self.query", "attention.self.key"),
        ("attention.self.key", "attention.self.value"),
        ("attention.output.LayerNorm", "output.LayerNorm"),
    ],
)
def test_two_swapped_names_would_be_noticed(tmp_path, first, second):
    architecture, call = save_network(tmp_path, "discriminator")
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for leaf in ("weight", "bias"):
        names = [f"electra.encoder.layer.1.{name}.{leaf}" for name in (first, second)]
        tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    theirs = torch_outputs(tmp_path, architecture)["logits"]
    assert np.abs(ours(call) - theirs)[MASK].max() > 1e-3


def test_fine_tuned_models_give_our_logits(tmp_path):
    config = configs()[0]
    cases = {
        "ElectraForSequenceClassification": (lambda: SequenceClassifier(config.change(num_labels=3), key=KEY), LABELS),
        "ElectraForSequenceClassification with the original's head": (
            lambda: SequenceClassifier(config.change(num_labels=3), key=KEY, head=HeadKind.ORIGINAL),
            LABELS,
        ),
        "ElectraForTokenClassification": (lambda: TokenClassifier(config.change(num_labels=3), key=KEY), LABELS),
        "ElectraForQuestionAnswering": (lambda: SpanPredictor(config, key=KEY), None),
    }
    for name, (make, id2label) in cases.items():
        graphdef, params = build(make)
        architecture, folder = name.split()[0], tmp_path / name
        saved = config.change(id2label=id2label)
        save_pretrained(UPath(folder), architecture=architecture, config=saved, params=params)
        found, theirs = ours(merge(graphdef, params)), torch_outputs(folder, architecture)
        if architecture == "ElectraForQuestionAnswering":
            theirs["logits"] = np.stack([theirs["start_logits"], theirs["end_logits"]], axis=-1)
        if architecture == "ElectraForSequenceClassification":
            np.testing.assert_allclose(found, theirs["logits"], atol=1e-5)
        else:
            np.testing.assert_allclose(found[MASK], theirs["logits"][MASK], atol=1e-5)
