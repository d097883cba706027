"""The fast tokenizer against the reference: equal ids on whatever Unicode holds, and what happens where they differ."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from stages.data import encoding
from stages.data.encoding import Encoder
from stages.electra.tokenizer import SPECIAL_TOKENS, as_letters, build_tokenizer

# Wide enough that few of the words below are [UNK], in which any difference would disappear.
POINTS = [*range(0x21, 0x3100), *range(0x3100, 0xD7A4, 7), *range(0xE000, 0x20000, 5), *range(0x20000, 0x2FA20, 31)]
LETTERS = [chr(point) for point in POINTS if not chr(point).isspace()]
WORDS = ["the", "of", "and", "un", "able", "##ing", "##able", "##s", "[CLS]##", "token", "İstanbul", "##ization"]
VOCABULARY = [*dict.fromkeys([*SPECIAL_TOKENS.values(), *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS])]
SETTINGS = {
    "uncased": {"lowercase": True},
    "cased": {"lowercase": False},
    "accents": {"lowercase": True, "strip_accents": False},
}
CONTROL = [*range(9), *range(11, 32), *range(127, 160), 0xAD, 0x115F, 0x1680, 0x180E, 0x2028, 0x2029, 0x3000, 0xFFFD]
JOINERS = [0x200B, 0x200C, 0x200D, 0x200E, 0x202A, 0x202E, 0x2060, 0xFE0F, 0xFEFF, 0x1F3FB, 0xE0067]
CASES = "ΣσςİıIißẞÅÄéñﬁ’“”–—…Άΰΐǅǆŉſ.,-/'\""


def _between(draw: random.Random, first: int, last: int, most: int = 24) -> str:
    points = (draw.randint(first, last) for _ in range(draw.randint(1, most)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _any_block(draw: random.Random) -> str:
    first = draw.randrange(0, 0x32000 if draw.random() < 0.9 else 0x110000, 128)
    return _between(draw, first, first + 127)


def _emoji(draw: random.Random) -> str:
    return "".join(_between(draw, 0x1F300, 0x1FAFF, 1) + chr(draw.choice(JOINERS)) for _ in range(draw.randint(1, 5)))


def _cjk(draw: random.Random) -> str:
    ranges = [(0x4E00, 0x9FFF), (0x3040, 0x30FF), (0xAC00, 0xD7A3), (0x20000, 0x2FA1F), (0x3000, 0x303F)]
    return "".join(_between(draw, *draw.choice(ranges), 3) for _ in range(draw.randint(1, 8)))


PIECES: list[Callable[[random.Random], str]] = [
    lambda draw: draw.choice(WORDS).removeprefix("##"),
    lambda draw: draw.choice(WORDS).upper(),
    lambda draw: draw.choice(WORDS) * draw.randint(1, 60),  # very long words
    _any_block,
    lambda draw: _between(draw, 0x300, 0x36F, 6),  # combining marks
    lambda draw: chr(draw.choice(CONTROL)) * draw.randint(1, 2),
    _emoji,
    lambda draw: _between(draw, 0x590, 0x8FF),  # right to left
    _cjk,
    lambda draw: draw.choice([*SPECIAL_TOKENS.values(), "[cls]", "[ SEP]", "[[MASK]]", "[SEP", "##ing"]),
    lambda draw: _between(draw, 0, 0x10FFFF, 2),
    lambda draw: "".join(draw.choice(CASES) for _ in range(draw.randint(1, 9))),
]


def _texts(seed: str, number: int) -> list[str]:
    draw = random.Random(seed)

    def text() -> str:
        space = draw.choice(["", " ", " ", "\t", "  ", "\u00a0"])
        return space.join(draw.choice(PIECES)(draw) for _ in range(draw.randint(1, 8))).replace("\n", " ")

    return [text() for _ in range(number)]


def _require_equal_ids(name: str, *, is_split: bool, number: int) -> None:
    tokenizer = build_tokenizer(VOCABULARY, **SETTINGS[name])
    reference = as_letters(tokenizer) if is_split else tokenizer
    lines = [text.encode() for text in _texts(f"{name}/{is_split}", number)]
    fast, slow = Encoder(reference), Encoder(reference, is_fast=False)
    assert fast.why_reference is None
    wanted = slow.encode(lines)
    for _ in range(2):  # at first sight, and of words that are known
        found = fast.encode(lines)
        assert np.array_equal(found[1], wanted[1]), [
            ascii(lines[number].decode()) for number in np.flatnonzero(found[1] != wanted[1])[:5]
        ]
        assert np.array_equal(found[0], wanted[0])
        assert found[0].dtype == wanted[0].dtype
    assert (wanted[0] == VOCABULARY.index("[UNK]")).mean() < 0.3


@pytest.mark.parametrize("is_split", [True, False], ids=["letters", "special tokens"])
@pytest.mark.parametrize("name", SETTINGS)
def test_ids_are_those_of_the_reference(name: str, is_split: bool) -> None:
    _require_equal_ids(name, is_split=is_split, number=1_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_ids_of_a_hundred_thousand_texts_are_those_of_the_reference(name: str) -> None:
    _require_equal_ids(name, is_split=True, number=100_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_ids_of_every_character_are_those_of_the_reference(name: str) -> None:
    reference = as_letters(build_tokenizer(VOCABULARY, **SETTINGS[name]))
    fast, slow = Encoder(reference), Encoder(reference, is_fast=False)
    characters = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000 and point != 10]
    for form in ("{}", "the{}able", "A{}\u0301s"):
        lines = [form.format(character).encode() for character in characters]
        for found, wanted in zip(fast.encode(lines), slow.encode(lines), strict=True):
            assert np.array_equal(found, wanted)


class _Wrong:
    """nanotoken with an error: it takes one letter for another."""

    def __init__(self, tokenizer: Tokenizer, old: bytes, new: bytes) -> None:
        self._encoder = Encoder(tokenizer)._fast
        self._letters = old, new

    def encode_batch(self, lines: list[bytes], **options: bool) -> tuple[np.ndarray, np.ndarray]:
        return self._encoder.encode_batch([line.replace(*self._letters) for line in lines], **options)


@pytest.mark.parametrize("odd", ["the é of", "of " + "able" * 9, "the \u200dof é"], ids=["accent", "long", "joiner"])
def test_an_odd_word_that_is_encoded_differently_is_found_wherever_it_is(monkeypatch, odd: str) -> None:
    tokenizer = build_tokenizer(VOCABULARY, lowercase=False)
    encoder = Encoder(tokenizer)
    lines = [b"the token of the table"] * 3000
    encoder.encode(lines)
    lines[1234] = odd.encode()
    monkeypatch.setattr(encoder, "_fast", _Wrong(tokenizer, "éa".encode()[:2] if "é" in odd else b"able", b"z"))
    with pytest.raises(
        ValueError, match=r"nanotoken encodes '.*' as \['.*tokenizers as \['.*shard.tokenizer: reference"
    ):
        encoder.encode([line for line in lines if b"table" not in line])


def test_a_sample_of_plain_lines_is_checked_over_all_blocks(monkeypatch) -> None:
    tokenizer = build_tokenizer(VOCABULARY, lowercase=True)
    encoder = Encoder(tokenizer)
    monkeypatch.setattr(encoder, "_fast", _Wrong(tokenizer, b"the", b"of"))
    for _ in range(encoding._PLAIN_STRIDE):  # blocks of one line are checked as often
        encoder.encode([b"of"])
    with pytest.raises(ValueError, match=r"encodes 'the token' as \['of', 'token'\], tokenizers as \['the', 'token'\]"):
        encoder.encode([b"the token"] * encoding._PLAIN_STRIDE)


def test_words_are_checked_once(monkeypatch) -> None:
    encoder = Encoder(build_tokenizer(VOCABULARY, lowercase=True))
    checked: list[str] = []
    compare = encoder._compare

    def note(texts: list[bytes], ids: np.ndarray, ends: np.ndarray, numbers: list[int]) -> None:
        checked.extend(texts[number].decode() for number in numbers)
        compare(texts, ids, ends, numbers)

    monkeypatch.setattr(encoder, "_compare", note)
    monkeypatch.setattr(encoding, "_MAX_WORDS", 3)
    lines = ["un table", "of été", "un", "été " * 2 + "un", "x" * 40]
    for _ in range(2):
        encoder.encode([line.encode() for line in lines])
    assert sorted(checked) == sorted([*lines[:2], "été", "x" * 40])  # the first line of each kind, and each odd word
    for word in ("à", "è", "ì", "été"):
        encoder.encode([b"of", word.encode()])
    assert checked.count("été") == 2  # more words came than it remembers


def test_another_kind_of_tokenizer_is_encoded_by_the_reference() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    encoder = Encoder(tokenizer)
    assert "BPE" in str(encoder.why_reference)
    ids, lengths = encoder.encode([b"abb", b"", b"ba"])
    assert (ids.tolist(), lengths.tolist()) == ([2, 1, 1, 0], [2, 0, 2])


def test_added_tokens_stay_tokens_where_special_ones_are_letters() -> None:
    tokenizer = build_tokenizer(VOCABULARY, lowercase=True)
    tokenizer.add_tokens(["<e1>"])
    lines = [b"the <e1>of [SEP] un<e1>able"]
    for reference in (tokenizer, as_letters(tokenizer)):
        found, wanted = Encoder(reference).encode(lines), Encoder(reference, is_fast=False).encode(lines)
        assert found[0].tolist() == wanted[0].tolist()
        assert tokenizer.token_to_id("<e1>") in found[0]


# What a stage does with it.

SPECIAL = [*SPECIAL_TOKENS.values()]


def test_both_tokenizers_write_the_same_shards(lab) -> None:
    from stages.shard import Tokenizing

    ingest = lab.ingest(lab.file("a.txt", "\n".join(_texts("shard", 300))), heldout_fraction=0)
    vocab = lab.vocab(VOCABULARY, lowercase=False)
    folders = [
        lab.shard(ingest, vocab, sequence_length=32, tokenizer=each, max_unknown_fraction=1) for each in Tokenizing
    ]
    files = [[path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()] for folder in folders]
    assert files[0] == files[1]
    assert len(files[0]) == 2


def test_the_stage_says_where_nanotoken_cannot_read_the_tokenizer(lab, caplog) -> None:
    from stages.shard import Tokenizing

    tokenizer = build_tokenizer([*SPECIAL, *"abc"], lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split("b", "isolated")]
    )
    tokenizer.normalizer = normalizers.Replace("x", "a")
    ingest = lab.ingest(lab.file("a.txt", "a b c x\n"), heldout_fraction=0)
    vocab = lab.vocab(file=lab.file("tokenizer.json", tokenizer.to_str()))
    lab.shard(ingest, vocab, sequence_length=8)
    (message,) = [message for message in caplog.messages if "nanotoken" in message]
    assert "does not know this tokenizer.json" in message
    caplog.clear()
    lab.shard(ingest, vocab, sequence_length=8, tokenizer=Tokenizing.REFERENCE)
    assert not [message for message in caplog.messages if "nanotoken" in message]


def test_a_difference_stops_the_stage_and_shows_the_text(lab, monkeypatch) -> None:
    from stages import shard

    monkeypatch.setattr(shard, "map_items", lambda function, items, on_done=None: [function(item) for item in items])
    ingest = lab.ingest(lab.file("a.txt", "the été of\n"), heldout_fraction=0)
    vocab = lab.vocab(VOCABULARY, lowercase=False)
    make = shard._encoder

    def make_wrong(text: str, **options: object) -> Encoder:
        encoder = make(text, **options)
        if encoder._fast is not None:
            monkeypatch.setattr(encoder, "_fast", _Wrong(Tokenizer.from_str(text), "é".encode(), b"e"))
        return encoder

    monkeypatch.setattr(shard, "_encoder", make_wrong)
    with pytest.raises(ValueError, match=r"'\\xe9t\\xe9'.*set shard.tokenizer: reference"):
        lab.shard(ingest, vocab, sequence_length=8, max_unknown_fraction=1)
    assert lab.shard(ingest, vocab, sequence_length=8, max_unknown_fraction=1, tokenizer=shard.Tokenizing.REFERENCE)
