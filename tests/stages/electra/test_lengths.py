"""Where a saved tokenizer says that texts are to be cut: where the model's positions end, or before."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from electra_miniature import make_model, tiny
from upath import UPath

from stages.electra import ElectraForPreTraining, ElectraTokenizer
from stages.electra.files.convert import convert
from stages.electra.files.model_folder import save_pretrained
from stages.electra.tokenizer import SPECIAL_TOKENS

NUM_POSITIONS = 40  # of `tiny`
TOKENS = [*SPECIAL_TOKENS.values(), "a", "b"]


@pytest.fixture(scope="module")
def model() -> ElectraForPreTraining:
    return make_model(ElectraForPreTraining, replace(tiny(num_hidden_layers=1)[0], vocab_size=len(TOKENS)))


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return tmp_path / "words" / "vocab.txt"


def stated(folder: Path) -> int:
    return json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"]


@pytest.mark.parametrize(("longest", "expected"), [(512, NUM_POSITIONS), (16, 16)])
def test_a_model_saved_with_its_tokenizer(model, vocabulary, tmp_path, longest, expected):
    tokenizer = ElectraTokenizer.from_vocabulary(vocabulary, max_length=longest)
    model.save_pretrained(tmp_path / "saved", tokenizer=tokenizer)
    assert stated(tmp_path / "saved") == expected
    assert len(ElectraTokenizer.from_pretrained(tmp_path / "saved")("a " * 100)["input_ids"]) == expected
    assert tokenizer.max_length == longest


@pytest.mark.parametrize(("before", "expected"), [(None, NUM_POSITIONS), (1e30, NUM_POSITIONS), (16, 16), (512, 40)])
@pytest.mark.parametrize("has_json", [True, False])
def test_a_tokenizers_files_beside_a_model(model, vocabulary, tmp_path, before, expected, has_json):
    if has_json:
        ElectraTokenizer.from_vocabulary(vocabulary).save_pretrained(vocabulary.parent)
    (vocabulary.parent / "tokenizer_config.json").write_text(json.dumps({"model_max_length": before, "mine": 1}))
    save_pretrained(
        UPath(tmp_path / "saved"),
        architecture="ElectraForPreTraining",
        config=model.config,
        params=model.params,
        tokenizer=UPath(vocabulary.parent),
    )
    assert stated(tmp_path / "saved") == expected
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["mine"] == 1


def test_a_converted_model(model, vocabulary, tmp_path):
    model.save_pretrained(tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "target", vocabulary=str(vocabulary))
    assert stated(tmp_path / "target") == NUM_POSITIONS


@pytest.mark.parametrize(("written", "expected"), [(1024, 1024), (1e30, 512), (None, 512), (64, 64)])
def test_a_tokenizer_cuts_where_its_files_say(vocabulary, written, expected):
    (vocabulary.parent / "tokenizer_config.json").write_text(json.dumps({"model_max_length": written}))
    assert ElectraTokenizer.from_pretrained(vocabulary.parent).max_length == expected
