"""`python -m stages.electra.files.convert`, and checkpoints of the original code as it names their variables."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from electra_miniature import tiny

from stages.electra import ElectraForMaskedLM, ElectraForPreTraining, ElectraTokenizer, Part
from stages.electra.files.convert import convert, main
from stages.electra.files.google_tf import read_checkpoint
from stages.electra.files.huggingface import flatten
from stages.electra.tokenizer import SPECIAL_TOKENS

V, E, POSITIONS = 40, 24, 30
# Width, feed-forward width and heads of each network; the generator's is one that 64 does not divide.
SIZES = {"electra": (36, 56, 3), "generator": (12, 20, 2)}
LAYERS = 2
VOCABULARY = [*SPECIAL_TOKENS.values(), *(f"w{number}" for number in range(V - 5))]
IDS = np.random.default_rng(0).integers(0, V, (3, 9))
MASK = np.arange(9) < np.array([9, 4, 1])[:, None]
TYPES = ((np.arange(9) > 2) & MASK).astype(int)


def variables() -> dict[str, np.ndarray]:
    """The original code's names (modeling.py, run_pretraining.py), random values, Adam's moments."""
    shapes: dict[str, tuple[int, ...]] = {
        "electra/embeddings/word_embeddings": (V, E),
        "electra/embeddings/position_embeddings": (POSITIONS, E),
        "electra/embeddings/token_type_embeddings": (2, E),
    }

    def dense(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (inputs, outputs), (outputs,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}/gamma"] = shapes[f"{name}/beta"] = (width,)

    norm("electra/embeddings/LayerNorm", E)
    for scope, (D, F, _) in SIZES.items():
        dense(f"{scope}/embeddings_project", E, D)
        for number in range(LAYERS):
            layer = f"{scope}/encoder/layer_{number}"
            for name in ("self/query", "self/key", "self/value", "output/dense"):
                dense(f"{layer}/attention/{name}", D, D)
            norm(f"{layer}/attention/output/LayerNorm", D)
            dense(f"{layer}/intermediate/dense", D, F)
            dense(f"{layer}/output/dense", F, D)
            norm(f"{layer}/output/LayerNorm", D)
    dense("generator_predictions/dense", SIZES["generator"][0], E)
    norm("generator_predictions/LayerNorm", E)
    shapes["generator_predictions/output_bias"] = (V,)
    dense("discriminator_predictions/dense", SIZES["electra"][0], SIZES["electra"][0])
    dense("discriminator_predictions/dense_1", SIZES["electra"][0], 1)
    random = np.random.default_rng(1)
    values = {
        name: random.normal(1.0 if name.endswith("gamma") else 0.0, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    slots = {f"{name}/{slot}": np.ones_like(value) for name, value in values.items() for slot in ("adam_m", "adam_v")}
    return values | slots | {"global_step": np.array(7, np.int64)}


def forward(values: dict[str, np.ndarray], scope: str) -> np.ndarray:
    """The network of one scope in numpy, float64, written from the paper and the variables alone."""
    values = {name: value.astype(np.float64) for name, value in values.items()}
    erf = np.vectorize(math.erf)

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ values[f"{name}/kernel"] + values[f"{name}/bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * values[f"{name}/gamma"] + values[f"{name}/beta"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + erf(x / math.sqrt(2))) / 2

    tables = {name: values[f"electra/embeddings/{name}_embeddings"] for name in ("word", "position", "token_type")}
    x = tables["word"][IDS] + tables["position"][: IDS.shape[1]] + tables["token_type"][TYPES]
    x = dense(norm(x, "electra/embeddings/LayerNorm"), f"{scope}/embeddings_project")
    width, _, heads = SIZES[scope]
    for number in range(LAYERS):
        layer = f"{scope}/encoder/layer_{number}"
        query, key, value = (
            dense(x, f"{layer}/attention/self/{name}").reshape(*IDS.shape, heads, width // heads)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bthk,bshk->bhts", query, key) / math.sqrt(width // heads)
        weights = np.exp(np.where(MASK[:, None, None], scores, -np.inf))
        weights /= weights.sum(-1, keepdims=True)
        context = np.einsum("bhts,bshk->bthk", weights, value).reshape(x.shape)
        x = norm(x + dense(context, f"{layer}/attention/output/dense"), f"{layer}/attention/output/LayerNorm")
        hidden = gelu(dense(x, f"{layer}/intermediate/dense"))
        x = norm(x + dense(hidden, f"{layer}/output/dense"), f"{layer}/output/LayerNorm")
    if scope == "electra":
        hidden = gelu(dense(x, "discriminator_predictions/dense"))
        return dense(hidden, "discriminator_predictions/dense_1")[..., 0]
    x = norm(gelu(dense(x, "generator_predictions/dense")), "generator_predictions/LayerNorm")
    return x @ tables["word"].T + values["generator_predictions/output_bias"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A folder as the original code leaves it, with an older checkpoint beside the last."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("google")
    for step, scale in ((900, 0.5), (1000, 1.0)):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            made = [
                tf.compat.v1.get_variable(name, initializer=value * np.asarray(scale, value.dtype))
                for name, value in variables().items()
            ]
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver(made).save(session, str(folder / "model.ckpt"), global_step=step)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return path


@pytest.mark.parity
@pytest.mark.parametrize(
    ("part", "scope", "model"),
    [("discriminator", "electra", ElectraForPreTraining), ("generator", "generator", ElectraForMaskedLM)],
)
def test_both_networks_of_a_google_checkpoint_compute_what_numpy_computes(checkpoint, part, scope, model):
    heads = SIZES[scope][2]
    loaded = model.from_pretrained(checkpoint, num_attention_heads=heads)
    found = loaded(IDS, MASK.astype(int), TYPES).logits
    np.testing.assert_allclose(found[MASK], forward(variables(), scope)[MASK], rtol=0, atol=1e-5)
    older = model.from_pretrained(checkpoint / "model.ckpt-900", part=Part(part), num_attention_heads=heads)
    assert not np.allclose(older(IDS, MASK.astype(int), TYPES).logits, found, atol=1e-2)


@pytest.mark.parity
def test_converting_a_google_checkpoint_leaves_a_folder_that_loads(checkpoint, tmp_path, capsys):
    target = tmp_path / "target"
    arguments = [str(checkpoint / "model.ckpt-1000"), str(target), "--which", "generator"]
    assert main([*arguments, "--set", "num_attention_heads=2", "--vocab", str(checkpoint / "vocab.txt")]) == 0
    assert "ElectraForMaskedLM" in capsys.readouterr().out
    loaded = ElectraForMaskedLM.from_pretrained(target)
    assert loaded.config.num_attention_heads == 2
    np.testing.assert_allclose(
        loaded(IDS, MASK.astype(int), TYPES).logits[MASK], forward(variables(), "generator")[MASK], atol=1e-5
    )
    assert len(ElectraTokenizer.from_pretrained(target)) == V


@pytest.mark.parity
def test_a_checkpoint_says_which_of_its_networks_is_not_there(checkpoint):
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(checkpoint / "vocab.txt", part=Part.GENERATOR)


@pytest.fixture
def source(tmp_path) -> Path:
    ElectraForPreTraining(tiny(num_hidden_layers=1)[0]).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_a_folder_is_converted_with_a_vocabulary_and_a_card(source, tmp_path):
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join([*VOCABULARY, *(f"x{n}" for n in range(200 - V))]) + "\n")
    target = tmp_path / "target"
    assert main([str(source), str(target), "--vocab", str(words), "--set", "hidden_act=relu"]) == 0
    files = {"config.json", "model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert {entry.name for entry in target.iterdir()} == files
    assert json.loads((target / "config.json").read_text())["hidden_act"] == "relu"
    assert (target / "vocab.txt").read_text() == words.read_text()
    ours, theirs = (flatten(ElectraForPreTraining.from_pretrained(folder).params) for folder in (source, target))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "num_atention_heads=3"], "Did you mean `num_attention_heads`"),
        (["--set", "num_attention_heads=3"], "hidden_size 32 is not a multiple of num_attention_heads 3"),
        (["--set", "vocab_size=7"], "it would fit vocab_size 200"),
        (["--which", "generator"], "missing generator_lm_head.bias"),
    ],
)
def test_what_cannot_be_converted_says_why(source, tmp_path, capsys, arguments, message):
    assert main([str(source), str(tmp_path / "target"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_a_vocabulary_of_another_size_than_the_table_is_refused(source, vocabulary, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "target"), "--vocab", str(vocabulary)]) == 1
    assert "has 40 tokens, the embedding table 200 rows" in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(vocabulary, tmp_path):
    model = ElectraForPreTraining(tiny(num_hidden_layers=1)[0])
    tokenizer = ElectraTokenizer.from_vocabulary(vocabulary)
    tokenizer.backend.add_tokens([f"y{number}" for number in range(161)])
    with pytest.raises(ValueError, match="has 201 tokens, the embedding table 200 rows"):
        model.save_pretrained(tmp_path / "target", tokenizer=tokenizer)


def test_the_settings_of_a_tokenizer_survive(source, tmp_path):
    tokens = [*SPECIAL_TOKENS.values(), "a", "é", "e", "中", "##国"]
    folder = shutil.copytree(source, tmp_path / "settled")
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    settings = {"strip_accents": False, "tokenize_chinese_chars": False, "split_special_tokens": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "added_tokens.json").write_text(json.dumps({"[E1]": len(tokens)}))
    convert(str(folder), tmp_path / "target")
    for place in (folder, tmp_path / "target"):
        tokenizer = ElectraTokenizer.from_pretrained(place)
        assert tokenizer("é A [E1] 中国")["input_ids"] == [2, 6, 5, 10, 8, 9, 3]
        assert tokenizer.split_special_tokens is False
    written = json.loads((tmp_path / "target" / "tokenizer_config.json").read_text())
    # Of an added token transformers learns from tokenizer.json alone.
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
