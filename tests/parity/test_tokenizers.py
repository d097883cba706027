"""The ids of an adopted, read or exported tokenizer are those that transformers makes of the same folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from upath import UPath

transformers = pytest.importorskip("transformers")

from stages.context import StageContext  # noqa: E402
from stages.electra.config import ElectraConfig  # noqa: E402
from stages.electra.files.model_folder import save_pretrained  # noqa: E402
from stages.electra.joint_model import split  # noqa: E402
from stages.electra.network import Discriminator  # noqa: E402
from stages.electra.tokenizer import SPECIAL_TOKENS, ElectraTokenizer, build_tokenizer  # noqa: E402
from stages.tasks.tokens import WordPiece  # noqa: E402
from stages.vocab import VocabConfig, run  # noqa: E402

pytestmark = pytest.mark.parity

TEXTS = (
    "The Café’s naïve re-run of covid-19, <e1>here</e1> [E1]!",  # Latin
    "Москва стоит на ёлке",
    "Η Αθήνα είναι εδώ",
    "שָׁלוֹם עולם",
    "مَدْرَسَةٌ في المدينة",
    "हिन्दी में लिखा",
    "ภาษาไทยที่นี่",
    "한국어 문장 ㄱ",
    "日本語のテキスト、カタカナ",
    "中国的首都是北京。",
    "ქართული ენა",
    "e\u0301 İstanbul ß ﬁne\u00a0x\u200dy\tz\x00a",
)
LETTERS = sorted(set("".join(TEXTS) + "".join(TEXTS).lower()) - set(" \t\x00\u00a0"))
TOKENS = [*SPECIAL_TOKENS.values(), *LETTERS, *(f"##{letter}" for letter in LETTERS), "here", "run", "cafe"]


def _word_piece(normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    tokenizer = build_tokenizer(TOKENS, lowercase=True)
    tokenizer.normalizer = normalizer or tokenizer.normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or tokenizer.pre_tokenizer
    return tokenizer


def _unframed() -> Tokenizer:
    values = json.loads(_word_piece().to_str()) | {"post_processor": None}
    return Tokenizer.from_str(json.dumps(values))


def _with_markers() -> Tokenizer:
    tokenizer = _word_piece()
    tokenizer.add_special_tokens(["<e1>", "</e1>"])
    tokenizer.add_tokens([AddedToken("covid-19", normalized=True)])
    return tokenizer


def _bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate([*SPECIAL_TOKENS.values(), *alphabet, "he"])}
    tokenizer = Tokenizer(models.BPE(ids, [("h", "e")], unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return tokenizer


FILES = {
    "BERT": (_word_piece, "BertTokenizer"),
    "unframed": (_unframed, "BertTokenizer"),
    "markers": (_with_markers, "PreTrainedTokenizerFast"),
    "spaces": (
        lambda: _word_piece(normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()),
        "PreTrainedTokenizerFast",
    ),
    "steps": (
        lambda: _word_piece(
            normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]),
            pre_tokenizers.Whitespace(),
        ),
        "PreTrainedTokenizerFast",
    ),
    "byte pairs": (_bytes, "PreTrainedTokenizerFast"),
}


def _same_ids(folder: Path | UPath, ours: Tokenizer) -> None:
    UPath(folder / "config.json").write_text('{"model_type": "electra"}')
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text).ids, text
    pair, expected = theirs(TEXTS[0], TEXTS[1]), ours.encode(TEXTS[0], TEXTS[1])
    assert pair["input_ids"] == expected.ids
    assert pair["token_type_ids"] == expected.type_ids
    assert theirs.mask_token_id == ours.token_to_id("[MASK]")


@pytest.mark.parametrize("name", FILES)
def test_a_tokenizer_json_that_is_adopted_is_the_same_in_transformers(name: str, tmp_path: Path) -> None:
    make, class_name = FILES[name]
    make().save(str(tmp_path / "given.json"))
    (tmp_path / "vocab").mkdir()
    run(VocabConfig(file=str(tmp_path / "given.json")), StageContext(output=UPath(tmp_path / "vocab"), inputs={}))
    assert json.loads((tmp_path / "vocab/tokenizer_config.json").read_text())["tokenizer_class"] == class_name
    tokenizer = Tokenizer.from_file(str(tmp_path / "vocab/tokenizer.json"))
    _same_ids(tmp_path / "vocab", tokenizer)
    # The tasks put the special tokens there themselves.
    word_piece = WordPiece(tokenizer)
    assert [word_piece.cls, *word_piece.encode([TEXTS[0]])[0], word_piece.sep] == tokenizer.encode(TEXTS[0]).ids


@pytest.mark.parametrize("name", FILES)
def test_a_model_is_saved_with_the_tokenizer_that_it_was_trained_with(name: str, tmp_path: Path) -> None:
    """Whatever class the folder names that it was read from."""
    import jax

    (tmp_path / "source").mkdir()
    FILES[name][0]().save(str(tmp_path / "source" / "tokenizer.json"))
    (tmp_path / "source" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    config = ElectraConfig(
        vocab_size=600, embedding_size=4, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    _, params = split(Discriminator(config, key=jax.random.key(0)))
    save_pretrained(
        UPath(tmp_path / "model"),
        architecture="ElectraForPreTraining",
        config=config,
        params=params,
        tokenizer=UPath(tmp_path / "source"),
    )
    _same_ids(tmp_path / "model", Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json")))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"added_tokens": {"[E1]": len(TOKENS), "<e1>": len(TOKENS) + 1}},
        {
            "added_tokens_decoder": {
                str(len(TOKENS)): {"content": "<e1>", "special": True, "normalized": False, "lstrip": True}
            }
        },
    ],
    ids=lambda settings: ",".join(settings) or "none",
)
def test_the_settings_beside_a_vocabulary_survive_reading_and_writing(settings: dict, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    if added := settings.pop("added_tokens", None):
        (source / "added_tokens.json").write_text(json.dumps(added))
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ElectraTokenizer"} | settings))
    ours = ElectraTokenizer.from_pretrained(source)
    _same_ids(source, ours.backend)
    ours.save_pretrained(tmp_path / "saved")
    _same_ids(tmp_path / "saved", ours.backend)
    again = ElectraTokenizer.from_pretrained(tmp_path / "saved")
    assert again(list(TEXTS))["input_ids"] == ours(list(TEXTS))["input_ids"]


def test_an_added_token_with_an_id_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[E1]": 5000}))
    with pytest.raises(ValueError, match=r"'\[E1\]' has the id 5000, after the vocabulary it would be"):
        ElectraTokenizer.from_pretrained(tmp_path)
