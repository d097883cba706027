"""`python -m pipeline.predict`, as a user sees it."""

import io
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pipeline.predict import main
from stages.electra import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
    ElectraTokenizer,
)
from stages.electra.tokenizer import SPECIAL_TOKENS
from stages.tasks.predictor import split_words

WORDS = ["the", "quick", "brown", "fox", "fake", "over", "lazy", "dog"]
CONFIG = ElectraConfig(
    vocab_size=len(SPECIAL_TOKENS) + len(WORDS),
    embedding_size=16,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> ElectraTokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS.values(), *WORDS]) + "\n")
    return ElectraTokenizer.from_vocabulary(path)


@pytest.fixture
def save(tokenizer, tmp_path):
    def save(model) -> str:
        model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
        return str(tmp_path / "model")

    return save


def knowing_discriminator() -> ElectraForPreTraining:
    """Looks at each word by itself, and thinks 'fake' replaced: 9 to 1; all others original: 9 to 1."""
    model = ElectraForPreTraining(CONFIG)
    params = jax.tree.map(jnp.zeros_like, model.params)
    params["embeddings"]["layer_norm"]["scale"] = jnp.ones(16)
    for name in ("layer_norm", "attention_layer_norm"):
        params["encoder"]["layers"][name]["scale"] = jnp.ones((1, 16))
    words = np.random.default_rng(0).normal(size=(CONFIG.vocab_size, 16))
    params["embeddings"]["word"]["embedding"] = jnp.asarray(words, jnp.float32)
    centred = words - words.mean(axis=1, keepdims=True)
    states = centred / centred.std(axis=1, keepdims=True)
    # gelu(x) - gelu(-x) = x: a state and its opposite would be needed to undo gelu, so the head is fitted to it.
    features = np.asarray(jax.nn.gelu(states, approximate=False))
    wanted = np.where(np.arange(len(words)) == len(SPECIAL_TOKENS) + WORDS.index("fake"), np.log(9), -np.log(9))
    params["head"]["dense"]["kernel"] = jnp.eye(16)
    params["head"]["prediction"]["kernel"] = jnp.asarray(np.linalg.lstsq(features, wanted)[0], jnp.float32)[:, None]
    return ElectraForPreTraining(CONFIG, params=params)


def test_the_replaced_word_of_the_model_card_is_found(save, capsys):
    assert main([save(knowing_discriminator()), "The quick brown fox fake over the lazy dog"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "the     10.0%",
        "quick   10.0%",
        "brown   10.0%",
        "fox     10.0%",
        "fake    90.0%  replaced",
        "over    10.0%",
        "the     10.0%",
        "lazy    10.0%",
        "dog     10.0%",
    ]


def test_lines_of_the_standard_input_become_lines_of_json(save, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the fake dog\n\nfox\n"))
    assert main([save(knowing_discriminator()), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["tokens"] == ["the", "fake", "dog"]
    assert first["replaced"] == pytest.approx([0.1, 0.9, 0.1], abs=1e-3)
    assert second["tokens"] == ["fox"]


def test_a_byte_that_is_not_utf_8_spoils_its_own_character_alone(save, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the fox\nthe \xe9 fox\ndog\n"), encoding="utf-8"))
    assert main([save(knowing_discriminator()), "--json"]) == 0
    found = [json.loads(line)["tokens"] for line in capsys.readouterr().out.splitlines()]
    assert found == [["the", "fox"], ["the", "fox"], ["dog"]]


def test_a_line_that_cannot_be_answered_is_named_and_the_others_are_answered(save, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the fake dog\n\nfox\tdog\nfox\n"))
    assert main([save(knowing_discriminator()), "--json"]) == 1
    printed = capsys.readouterr()
    assert [json.loads(line)["tokens"] for line in printed.out.splitlines()] == [["the", "fake", "dog"], ["fox"]]
    assert printed.err.strip() == "line 3: expected text, with a tab between, found 2: 'fox\\tdog'"


def test_a_classifier_prints_its_label_and_takes_pairs(save, capsys):
    folder = save(ElectraForSequenceClassification(ElectraConfig(**{**CONFIG.to_dict(), "id2label": {0: "a", 1: "b"}})))
    assert main([folder, "the dog", "the fox"]) == 0
    label, share = capsys.readouterr().out.split()
    assert label in ("a", "b")
    assert 50 <= float(share.rstrip("%")) <= 100


@pytest.mark.parametrize(
    ("problem_type", "keys"), [("regression", {"value"}), ("multi_label_classification", {"labels", "probabilities"})]
)
def test_numbers_and_several_labels_are_printed_as_such(save, capsys, problem_type, keys):
    fields = CONFIG.to_dict() | {"num_labels": 1 if problem_type == "regression" else 3, "problem_type": problem_type}
    folder = save(ElectraForSequenceClassification(ElectraConfig(**fields)))
    assert main([folder, "the dog", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("input") == {"text": "the dog"}
    assert found.keys() == keys


def test_a_tagger_prints_a_line_a_word(save, capsys):
    fields = CONFIG.to_dict() | {"num_labels": 0, "id2label": {0: "O", 1: "B-NP"}}
    assert main([save(ElectraForTokenClassification(ElectraConfig(**fields))), "the quick dog"]) == 0
    words, labels = zip(*(line.split() for line in capsys.readouterr().out.splitlines()), strict=True)
    assert words == ("the", "quick", "dog")
    assert set(labels) <= {"O", "B-NP"}


def test_an_answer_is_printed_within_its_context(save, capsys):
    folder = save(ElectraForQuestionAnswering(CONFIG))
    assert main([folder, "the fox", "the quick brown dog"]) == 0
    printed = capsys.readouterr().out
    answer = printed.partition("  (score")[0]
    assert answer
    assert f"[{answer}]" in printed
    assert main([folder, "the fox"]) == 1
    assert "expected question, context" in capsys.readouterr().err


def test_a_model_that_predicts_nothing_or_is_not_there_says_so(save, capsys, tmp_path):
    assert main([save(ElectraModel(CONFIG)), "the fox"]) == 1
    assert "cannot predict with ElectraModel" in capsys.readouterr().err
    assert main([str(Path(tmp_path) / "nowhere"), "the fox"]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_options_may_stand_anywhere(save, capsys):
    folder = save(knowing_discriminator())
    for arguments in (["--json", folder, "the fox"], [folder, "--json", "the fox"], [folder, "the fox", "--json"]):
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)["tokens"] == ["the", "fox"]


def test_answers_to_several_lines_stand_beside_what_was_asked(save, capsys, monkeypatch):
    fields = CONFIG.to_dict() | {"id2label": {0: "a", 1: "b"}}
    folder = save(ElectraForSequenceClassification(ElectraConfig(**fields)))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"the fox\tthe dog\n{'the dog ' * 10}\n"))
    assert main([folder]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("the fox | the dog  ")
    assert first.split()[-2] in ("a", "b")
    assert second.startswith("the dog the dog")
    assert "… " in second
    assert first.index(first.split()[-2]) == second.index(second.split()[-2]) == 62


def test_a_text_that_was_cut_is_said_with_its_line(save, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the fox\n" + "the " * 33 + "\n"))
    assert main([save(knowing_discriminator())]) == 0
    found = capsys.readouterr()
    assert found.err == "line 2: the text is too long for the model: its last 3 tokens were cut\n"
    assert found.out.count("the  ") == 1 + 30


def test_a_model_of_pairs_refuses_one_text_and_one_of_texts_refuses_two(save, capsys):
    folder = save(ElectraForSequenceClassification(ElectraConfig(**{**CONFIG.to_dict(), "id2label": {0: "a", 1: "b"}})))
    task = Path(folder, "task.json")
    task.write_text(json.dumps({"task": "mrpc", "kind": "classification", "columns": ["text", "text_pair"]}))
    assert main([folder, "the dog"]) == 1
    assert capsys.readouterr().err == "expected text, text_pair, each an argument, found 1: 'the dog'\n"
    assert main([folder, "the dog", "the fox"]) == 0
    task.write_text(json.dumps({"task": "cola", "kind": "classification", "columns": ["text"]}))
    assert main([folder, "the dog", "the fox"]) == 1
    assert main([folder, "the dog"]) == 0


def test_tagging_splits_punctuation_from_words(save, capsys):
    assert split_words('He said: "U.S. e-mails, don\'t (cost) $5..." -- no?') == [
        *("He", "said", ":", '"', "U.S", ".", "e-mails", ",", "don't", "(", "cost", ")", "$", "5", "...", '"', "--"),
        *("no", "?"),
    ]
    fields = CONFIG.to_dict() | {"num_labels": 0, "id2label": {0: "O", 1: "B-NP"}}
    assert main([save(ElectraForTokenClassification(ElectraConfig(**fields))), "the dog, quick."]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["the", "dog", ",", "quick", "."]


def test_the_generator_shows_what_it_filled_in_with_its_likeliest_words(save, capsys):
    folder = save(ElectraForMaskedLM(CONFIG))
    assert main([folder, "The [MASK] fox and [MASK]"]) == 0
    text, *lines = capsys.readouterr().out.splitlines()
    first, second = (re.findall(r"(\S+) (\d+\.\d)%", line) for line in lines)
    assert text == f"The [{first[0][0]}] fox and [{second[0][0]}]"
    for found in (first, second):
        shares = [float(share) for _, share in found]
        assert len(found) == 5
        assert shares == sorted(shares, reverse=True)
    assert main([folder, "the fox"]) == 0
    assert capsys.readouterr().out == "the fox  (no [MASK] in it to fill)\n"
    assert main([folder, "the [MASK]", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == f"the {answer['guesses'][0][0]['token']}"
