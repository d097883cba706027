"""Vocabularies: trained and given ones."""

import json
from pathlib import Path

import pytest
from upath import UPath

from stages.electra.tokenizer import ElectraTokenizer
from stages.tasks.files.squad import Question
from stages.tasks.question_answering import encode_contexts
from stages.tasks.tokens import WordPiece
from stages.vocab import VocabConfig, VocabKind

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PUBLISHED = Path(__file__).parents[4] / "shared/data/vocab/vocab.txt"
TEXT = "\n\n".join(
    f"The old farmers of Ésmund number {number} were farming; their farms farmed {number * 3} fields, naïvely."
    for number in range(60)
)


def _tokenizer(folder: UPath):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _info(folder: UPath) -> dict:
    return json.loads((folder / "info.json").read_text())


def test_two_trainings_give_the_same_bytes(lab) -> None:
    """The library's own trainer does not: it numbers the letters within words in the order of a random hash."""
    ingest = lab.ingest(lab.file("a.txt", TEXT))
    folders = [lab.trained_vocab(ingest, size=120) for _ in range(3)]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1] == files[2]
    assert sorted(files[0]) == ["info.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def test_a_trained_vocabulary_begins_with_the_special_tokens_and_has_the_size_asked(lab) -> None:
    folder = lab.trained_vocab(lab.ingest(lab.file("a.txt", TEXT)), size=120)
    tokens = (folder / "vocab.txt").read_text().splitlines()
    assert tokens[:5] == SPECIAL
    assert len(tokens) == len(set(tokens)) == _info(folder)["size"] == 120
    assert _info(folder)["special"] == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert "farm" in tokens


def test_the_corpus_itself_has_no_unknown_words(lab) -> None:
    folder = lab.trained_vocab(lab.ingest(lab.file("a.txt", TEXT)), size=120)
    assert "[UNK]" not in _tokenizer(folder).encode(TEXT).tokens


def test_lowercase_and_accents_follow_the_config(lab) -> None:
    ingest = lab.ingest(lab.file("a.txt", TEXT))
    uncased = _tokenizer(lab.trained_vocab(ingest, size=120))
    cased = _tokenizer(lab.trained_vocab(ingest, size=120, lowercase=False))
    bare = _tokenizer(lab.trained_vocab(ingest, size=120, strip_accents=True))
    normalized = [tokenizer.normalizer.normalize_str("Ésmund") for tokenizer in (uncased, cased, bare)]
    assert normalized == ["ésmund", "Ésmund", "esmund"]


def test_a_corpus_too_small_for_the_size_gives_what_there_is(lab) -> None:
    folder = lab.trained_vocab(lab.ingest(lab.file("a.txt", "aa ab\n\nba aa\n\nab ba\n")), size=1000)
    assert 5 < _info(folder)["size"] < 30


def test_a_size_below_the_alphabet_is_refused_with_both_numbers(lab) -> None:
    with pytest.raises(ValueError, match=r"size is 20, but the special tokens and single letters .* are \d+"):
        lab.trained_vocab(lab.ingest(lab.file("a.txt", TEXT)), size=20)


def test_rare_letters_beyond_the_alphabet_become_unknown(lab) -> None:
    ingest = lab.ingest(lab.file("a.txt", "aaa bbb aab\n\nabba Ω\n\nbaa\n"), heldout_fraction=0)
    folder = lab.trained_vocab(ingest, size=50, max_alphabet=2)
    assert _tokenizer(folder).encode("ab Ω", add_special_tokens=False).tokens[-1] == "[UNK]"


def test_what_a_short_alphabet_leaves_out_is_told_with_the_number_that_takes_all(lab, caplog) -> None:
    ingest = lab.ingest(lab.file("a.txt", " ".join(map(chr, range(0x4E00, 0x4E00 + 60)))), heldout_fraction=0)
    lab.trained_vocab(ingest, size=500, max_alphabet=45)
    leaves_out, too_few = caplog.messages
    assert "leaves out 15 of the corpus's 60 different characters, 25.0 % of its text" in leaves_out
    assert "set vocab.max_alphabet: 60" in leaves_out
    assert "the vocabulary has 50 tokens, not the 500 of vocab.size" in too_few
    caplog.clear()
    lab.trained_vocab(ingest, size=65 + 1, max_alphabet=60)
    assert not any("max_alphabet" in message for message in caplog.messages)


def test_training_text_is_spread_over_the_corpus_where_there_is_too_much(lab) -> None:
    lines = "\n\n".join(
        f"{word} {word * 2} " * 40 + str(number) for number, word in enumerate(["left", "right"] * 3000)
    )
    ingest = lab.ingest(lab.file("a.txt", lines), heldout_fraction=0)
    folder = lab.trained_vocab(ingest, size=100, training_megabytes=1)
    assert {"left", "right"} <= set((folder / "vocab.txt").read_text().splitlines())


def test_a_vocab_txt_is_adopted_line_for_line(lab) -> None:
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "c"]
    folder = lab.vocab(tokens)
    assert (folder / "vocab.txt").read_text().splitlines() == tokens
    assert _info(folder)["special"] == {"pad": 0, "unk": 2, "cls": 3, "sep": 4, "mask": 5}
    assert _tokenizer(folder).encode("AB c").ids == [3, 6, 7, 8, 4]


def test_a_mark_of_the_byte_order_before_the_first_token_is_none_of_it(lab) -> None:
    path = lab.file("vocab.txt", "\ufeff" + "\n".join([*SPECIAL, "a"]) + "\n")
    assert (lab.vocab(file=str(path)) / "vocab.txt").read_text().splitlines() == [*SPECIAL, "a"]
    assert ElectraTokenizer.from_vocabulary(path)("a")["input_ids"] == [2, 5, 3]


def test_a_tokenizer_json_is_adopted_with_its_own_rules(lab) -> None:
    first = lab.vocab([*SPECIAL, "A", "a", "b"], lowercase=False)
    second = lab.vocab(file=str(first / "tokenizer.json"))
    assert (first / "tokenizer.json").read_text() == (second / "tokenizer.json").read_text()
    assert _info(second)["lowercase"] is False
    with pytest.raises(ValueError, match=r"vocab.lowercase is true, but .*tokenizer.json says false"):
        lab.vocab(file=str(first / "tokenizer.json"), lowercase=True)


def test_padding_and_truncation_of_an_adopted_tokenizer_are_switched_off(lab) -> None:
    """Else every line of text would be cut at the length that somebody else needed."""
    folder = lab.vocab([*SPECIAL, "a"])
    tokenizer = _tokenizer(folder)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    path = lab.folder / "tokenizer.json"
    tokenizer.save(str(path))
    assert len(_tokenizer(lab.vocab(file=str(path))).encode("a " * 9)) == 11


@pytest.mark.parametrize(
    ("tokens", "config", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "a"], {}, r"no \[SEP\], \[MASK\] among its 4 tokens"),
        ([*SPECIAL, "a", "b", "a"], {}, r":8: 'a' is there twice, first on line 6"),
        ([*SPECIAL, "a", "A", "Bc"], {}, r"2 of 8 tokens have capital letters.*vocab.lowercase: false"),
        ([*SPECIAL, "a"], {"lowercase": False}, r"has the letter 'a' and no 'A'.*vocab.lowercase: true"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused_with_the_reason(lab, tokens, config, message) -> None:
    with pytest.raises(ValueError, match=message):
        lab.vocab(tokens, **config)


def test_a_missing_vocabulary_file_is_named(lab) -> None:
    with pytest.raises(FileNotFoundError, match=r"vocab.file: .*nowhere.txt does not exist"):
        lab.vocab(file=str(lab.folder / "nowhere.txt"))


def test_a_file_that_is_no_tokenizer_is_refused(lab) -> None:
    with pytest.raises(ValueError, match=r"not a tokenizer.json of the tokenizers library"):
        lab.vocab(file=lab.file("tokenizer.json", '{"a": 1}'))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "neither is set"),
        ({"file": "a", "size": 100}, "file is 'a', size is 100"),
        ({"size": 9}, "size is 9, must be at least 10"),
        ({"size": 100, "max_alphabet": 0}, "max_alphabet is 0"),
        ({"file": "a", "kind": VocabKind.BPE}, "kind is bpe, but file gives a vocabulary"),
        ({"size": 400, "kind": VocabKind.BPE, "max_alphabet": 5}, "max_alphabet is 5, but means nothing for kind bpe"),
        ({"size": 400, "kind": VocabKind.UNIGRAM, "min_frequency": 5}, "min_frequency is 5, but means nothing"),
    ],
)
def test_a_wrong_value_is_refused(config, message) -> None:
    with pytest.raises(ValueError, match=message):
        VocabConfig(**config)


def test_a_file_that_is_no_text_is_refused_by_its_name(lab) -> None:
    with pytest.raises(ValueError, match=r"spm\.model: not a vocab\.txt or tokenizer\.json: byte 3 is not UTF-8"):
        lab.vocab(file=lab.file("spm.model", b"abc\xff"))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published vocabulary is not at ../shared/data/vocab")
def test_the_published_vocabulary_is_adopted_byte_for_byte(lab) -> None:
    folder = lab.vocab(file=str(PUBLISHED))
    assert (folder / "vocab.txt").read_bytes() == PUBLISHED.read_bytes()
    assert _info(folder)["special"] == {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}


@pytest.mark.parity
def test_transformers_loads_the_folder_and_tokenizes_alike(lab) -> None:
    transformers = pytest.importorskip("transformers")
    for config in ({}, {"lowercase": False}, {"strip_accents": True}):
        folder = lab.trained_vocab(lab.ingest(lab.file("a.txt", TEXT)), size=120, **config)
        theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
        assert type(theirs).__name__ == "BertTokenizer"
        ours = _tokenizer(folder)
        for text in ("The Ésmund farmers farmed, naïvely!", "中文 text\tand\x00more", "x" * 101):
            assert theirs(text)["input_ids"] == ours.encode(text).ids
        pair = theirs("The old", "were farming")
        assert pair["input_ids"] == ours.encode("The old", "were farming").ids
        assert pair["token_type_ids"] == ours.encode("The old", "were farming").type_ids
        assert (theirs.mask_token_id, theirs.pad_token_id, len(theirs)) == (4, 0, 120)


def test_rules_that_take_letters_for_a_special_token_are_refused(lab) -> None:
    """Split at spaces alone and not lower-cased, [CLS] in a text is the word [CLS] of the vocabulary."""
    from tokenizers import pre_tokenizers

    tokenizer = _tokenizer(lab.vocab([*SPECIAL, "A", "a"], lowercase=False))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = lab.file("tokenizer.json", tokenizer.to_str())
    with pytest.raises(ValueError, match=r"keep \[PAD\] in a text whole.*vocab.split_special_tokens: false"):
        lab.vocab(file=path)
    settings = json.loads((lab.vocab(file=path, split_special_tokens=False) / "tokenizer_config.json").read_text())
    assert settings["split_special_tokens"] is False


def test_a_tokenizer_json_with_rules_of_its_own_is_read_by_transformers_as_it_is(lab) -> None:
    """Its class BertTokenizer would have BERT's rules; and every example stands between [CLS] and [SEP]."""
    from tokenizers import pre_tokenizers

    tokenizer = _tokenizer(lab.vocab([*SPECIAL, "a", "b-b"]))
    values = json.loads(tokenizer.to_str()) | {"post_processor": None}
    plain = lab.vocab(file=lab.file("plain.json", json.dumps(values)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    spaces = lab.vocab(file=lab.file("spaces.json", tokenizer.to_str()))
    names = [json.loads((at / "tokenizer_config.json").read_text())["tokenizer_class"] for at in (plain, spaces)]
    assert names == ["BertTokenizer", "PreTrainedTokenizerFast"]
    assert [_tokenizer(at).encode("a b-b").ids for at in (plain, spaces)] == [[2, 5, 1, 1, 1, 3], [2, 5, 6, 3]]


# Several scripts, some without spaces between words.
SCRIPTS = (
    "The Café’s naïve re-run of covid-19 (here).",
    "Москва стоит на ёлке",
    "Η Αθήνα είναι εδώ",
    "שָׁלוֹם עולם",
    "مَدْرَسَةٌ في المدينة",
    "हिन्दी में लिखा",
    "ภาษาไทยที่นี่",
    "한국어 문장 이다",
    "日本語のテキスト、カタカナ",
    "中国的首都是北京。",
)
PIECES = {VocabKind.BPE: 500, VocabKind.UNIGRAM: 320}


@pytest.fixture
def pieces(lab):
    """A vocabulary of a kind, trained on all of them."""

    def train(kind: VocabKind, **config) -> UPath:
        text = "\n\n".join(f"{text}\n{text} {number}" for number in range(20) for text in SCRIPTS)
        return lab.trained_vocab(lab.ingest(lab.file("a.txt", text)), kind=kind, size=PIECES[kind], **config)

    return train


@pytest.mark.parametrize("kind", PIECES)
def test_other_kinds_know_all_of_their_text_and_keep_its_letters(pieces, kind: VocabKind) -> None:
    folder = pieces(kind)
    tokenizer = _tokenizer(folder)
    assert _info(folder)["special"] == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert _info(folder)["size"] <= PIECES[kind]
    for text in SCRIPTS:
        encoding = tokenizer.encode(text)
        assert 1 not in encoding.ids
        assert (encoding.ids[0], encoding.ids[-1]) == (2, 3)
        squeezed = tokenizer.decode(encoding.ids).replace(" ", "")
        assert squeezed == text.lower().replace(" ", "")  # with all vowels, accents and syllables


def test_two_trainings_of_byte_pairs_give_the_same_bytes(pieces) -> None:
    files = [{path.name: path.read_bytes() for path in pieces(VocabKind.BPE).iterdir()} for _ in range(2)]
    assert files[0] == files[1]


def test_no_text_is_unknown_to_byte_pairs(pieces) -> None:
    assert 1 not in _tokenizer(pieces(VocabKind.BPE)).encode("ქართული \U0001f600 \u0001 ﷽").ids


@pytest.mark.parametrize("kind", PIECES)
def test_special_tokens_that_a_text_spells_out_are_text_to_other_kinds_too(pieces, kind: VocabKind) -> None:
    words = WordPiece(_tokenizer(pieces(kind)))
    assert not {0, 2, 3, 4} & set(words.encode(["the [CLS] [SEP]x[MASK] [PAD]"])[0])
    assert WordPiece(_tokenizer(pieces(kind)), split_special_tokens=False).encode(["the [SEP]"])[0][-1] == 3


@pytest.mark.parametrize("kind", PIECES)
def test_a_word_has_the_same_pieces_alone_and_in_a_text(pieces, kind: VocabKind) -> None:
    """So tagging, which encodes words one by one, sees what pretraining saw."""
    words = WordPiece(_tokenizer(pieces(kind)))
    text = SCRIPTS[1]
    assert [piece for ids in words.encode_words(text.split()) for piece in ids] == words.encode([text])[0]


@pytest.mark.parametrize("kind", PIECES)
def test_answers_have_no_space_before_them(pieces, kind: VocabKind) -> None:
    text = "The naïve  Москва стоит"
    question = Question(id="1", text="?", context=text, answers=())
    context = encode_contexts([question], WordPiece(_tokenizer(pieces(kind))))[text]
    spans = [text[begin:end] for begin, end in context.offsets]
    assert all(span == span.strip() for span in spans)
    assert "".join(dict.fromkeys(spans))[:3] == "The"
    assert context.offsets[-1, 1] == len(text)


@pytest.mark.parametrize(("kind", "size"), [(VocabKind.BPE, 261), (VocabKind.UNIGRAM, 30)])
def test_a_size_below_the_letters_of_another_kind_is_refused(lab, kind: VocabKind, size: int) -> None:
    ingest = lab.ingest(lab.file("a.txt", TEXT))
    with pytest.raises(ValueError, match=rf"size is {size}, but the special tokens and .* alone are"):
        lab.trained_vocab(ingest, kind=kind, size=size)


@pytest.mark.parametrize("kind", PIECES)
def test_other_kinds_become_shards(lab, pieces, kind: VocabKind, caplog) -> None:
    ingest = lab.ingest(lab.file("b.txt", "\n\n".join(SCRIPTS)))
    folder = lab.shard(ingest, pieces(kind), sequence_length=32)
    assert json.loads((folder / "index.json").read_text())["counts"]["train"]["unknown"] == 0
    assert any("nanotoken does not know this tokenizer.json" in message for message in caplog.messages)


@pytest.mark.parity
@pytest.mark.parametrize("kind", PIECES)
def test_transformers_makes_the_same_ids_of_other_kinds(pieces, kind: VocabKind) -> None:
    transformers = pytest.importorskip("transformers")
    folder = pieces(kind)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), _tokenizer(folder)
    for text in SCRIPTS:
        assert theirs(text)["input_ids"] == ours.encode(text).ids
    pair, expected = theirs(SCRIPTS[0], SCRIPTS[1]), ours.encode(SCRIPTS[0], SCRIPTS[1])
    assert (pair["input_ids"], pair["token_type_ids"]) == (expected.ids, expected.type_ids)
    assert ElectraTokenizer.from_pretrained(folder)(SCRIPTS[3])["input_ids"] == ours.encode(SCRIPTS[3]).ids
    assert theirs.mask_token_id == 4
