"""Trains a vocabulary (WordPiece, BPE or Unigram) on the ingested text, or adopts one."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

from upath import UPath

from cluster.storage import file_name, write_json, write_text
from stages.context import StageContext
from stages.electra.subwords import build_byte_pairs, build_unigram
from stages.electra.tokenizer import (
    SPECIAL_TOKENS,
    as_letters,
    build_tokenizer,
    frame,
    normalizer_settings,
    parse_tokenizer,
    transformers_settings,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION = 3

# Characters outside the alphabet that are a smaller share of the text are not worth a word.
_SHARE_WORTH_A_WARNING = 0.001

logger = logging.getLogger(__name__)


class VocabKind(StrEnum):
    """How a new vocabulary divides words.

    WORDPIECE: BERT's. Words end at spaces and punctuation; Chinese characters are words.
    BPE: Pairs of bytes that occur often, joined again and again. No text is unknown.
    UNIGRAM: The pieces under which the text is likeliest, for languages without spaces too. Two trainings on one text
      may differ in a few pieces that are worth as much: the library adds numbers up in a random order.
    """

    WORDPIECE = "wordpiece"
    BPE = "bpe"
    UNIGRAM = "unigram"


# The settings of a training that change nothing for a kind.
_IDLE: dict[VocabKind, tuple[str, ...]] = {
    VocabKind.WORDPIECE: (),
    VocabKind.BPE: ("max_alphabet",),
    VocabKind.UNIGRAM: ("max_alphabet", "min_frequency"),
}


@dataclass(frozen=True, kw_only=True)
class VocabConfig:
    """One of `file` and `size`: adopt a vocabulary or train one.

    Attributes:
      file: A `vocab.txt` (a token a line) or `tokenizer.json`, at any fsspec location.
      size: Tokens of a new vocabulary, special ones included.
      lowercase: Whether text is lower-cased. None: as `tokenizer.json` says, else True.
      strip_accents: Whether accents are removed. None: of a new vocabulary they are not; of an adopted one as
        `tokenizer.json` says, or for a `vocab.txt` as `lowercase` (BERT's rule).
      split_special_tokens: Whether special tokens that a text spells out, as `[SEP]`, are text like any other, in the
        corpus, in tasks and in predictions; else they are the tokens themselves.
      min_frequency: How often a new token must occur (not for unigram).
      max_alphabet: Most single characters in a new vocabulary. The most frequent ones are taken; a word with any other
        is [UNK] (for wordpiece alone).
      training_megabytes: Most text to train a new vocabulary on, spread evenly over the corpus.
      kind: How a new vocabulary divides words.
    """

    file: str | None = None
    size: int | None = None
    lowercase: bool | None = None
    strip_accents: bool | None = None
    split_special_tokens: bool = True
    min_frequency: int = 2
    max_alphabet: int = 1000
    training_megabytes: int = 1000
    kind: VocabKind = field(default=VocabKind.WORDPIECE, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if (self.file is None) == (self.size is None):
            found = "neither is set" if self.file is None else f"file is {self.file!r}, size is {self.size}"
            raise ValueError(f"set one of file (adopt a vocabulary) and size (train one); {found}")
        if self.size is not None and self.size < 2 * len(SPECIAL_TOKENS):
            raise ValueError(f"size is {self.size}, must be at least {2 * len(SPECIAL_TOKENS)}")
        for name in ("min_frequency", "max_alphabet", "training_megabytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.file is not None and self.kind is not VocabKind.WORDPIECE:
            raise ValueError(f"kind is {self.kind}, but file gives a vocabulary, which has its kind: leave kind out")
        defaults = {field.name: field.default for field in fields(self)}
        if idle := [name for name in _IDLE[self.kind] if getattr(self, name) != defaults[name]]:
            raise ValueError(
                f"{idle[0]} is {getattr(self, idle[0])}, but means nothing for kind {self.kind}: leave it out"
            )


def run(config: VocabConfig, context: StageContext) -> None:
    """Writes `tokenizer.json`, `vocab.txt`, `tokenizer_config.json` and `info.json`.

    Raises:
      FileNotFoundError: `config.file` is not there.
      ValueError: The vocabulary lacks a special token, does not fit `lowercase`, or `size` is too small.
    """
    tokenizer = _adopt(config, context=context) if config.file else _train(config, context=context)
    tokens = _tokens_by_id(tokenizer, source=config.file or "the trained vocabulary")
    if config.split_special_tokens:
        _check_letters(tokenizer, source=config.file)
    text = tokenizer.to_str(pretty=True) + "\n"
    normalizer = normalizer_settings(tokenizer)
    write_text(context.output / "tokenizer.json", text)
    write_text(context.output / "vocab.txt", "\n".join(tokens) + "\n")
    write_json(
        context.output / "tokenizer_config.json",
        transformers_settings(tokenizer)
        # False is transformers' default too. Else it is not said: transformers would fill no [MASK] of a text.
        | ({} if config.split_special_tokens else {"split_special_tokens": False}),
    )
    info = {
        "size": len(tokens),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "lowercase": normalizer["lowercase"],
        "strip_accents": normalizer["strip_accents"],
        "split_special_tokens": config.split_special_tokens,
        "special": {name: tokens.index(token) for name, token in SPECIAL_TOKENS.items()},
    }
    write_json(context.output / "info.json", info)
    strips = normalizer["strip_accents"]
    logger.info(
        "text is %s, accents are %s (vocab.lowercase, vocab.strip_accents)",
        "lower-cased" if normalizer["lowercase"] else "kept in its case",
        "removed" if strips or (strips is None and normalizer["lowercase"]) else "kept",
    )
    context.tracker.params(info)
    context.tracker.conclude(f"{len(tokens):,} tokens")


def _adopt(config: VocabConfig, *, context: StageContext) -> "Tokenizer":
    assert config.file is not None
    path = UPath(context.expand(config.file)).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"vocab.file: {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a vocab.txt or tokenizer.json: byte {error.start} is not UTF-8") from None
    if file_name(str(path)).lower().endswith(".json"):
        tokenizer = parse_tokenizer(text, source=str(path))
        _check_special(tokenizer.get_vocab(with_added_tokens=True), source=str(path))
        normalizer = normalizer_settings(tokenizer)
        for name in ("lowercase", "strip_accents"):
            wanted = getattr(config, name)
            if wanted is not None and wanted != normalizer[name]:
                raise ValueError(
                    f"vocab.{name} is {str(wanted).lower()}, but {path} says {json.dumps(normalizer[name])}; leave "
                    f"vocab.{name} out, or give the vocab.txt instead"
                )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        frame(tokenizer)  # whatever it says of this: the examples of every stage are framed so
        return tokenizer
    tokens = [token.removesuffix("\r") for token in text.removesuffix("\n").split("\n")]
    first: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        if token in first:
            raise ValueError(f"{path}:{number}: {token!r} is there twice, first on line {first[token]}")
        first[token] = number
    _check_special(first, source=str(path))
    lowercase = config.lowercase is not False
    _check_case(tokens, lowercase=lowercase, source=str(path))
    return build_tokenizer(tokens, lowercase=lowercase, strip_accents=config.strip_accents)


def _check_special(tokens: Any, *, source: str) -> None:
    missing = [token for token in SPECIAL_TOKENS.values() if token not in tokens]
    if missing:
        raise ValueError(
            f"{source}: no {', '.join(missing)} among its {len(tokens)} tokens; a vocabulary must hold "
            f"{', '.join(SPECIAL_TOKENS.values())}"
        )


def _check_letters(tokenizer: "Tokenizer", *, source: str | None) -> None:
    """Raises ValueError where a text that spells a special token out cannot be told from the token itself."""
    tokenizer = as_letters(tokenizer)
    for token in SPECIAL_TOKENS.values():
        if tokenizer.token_to_id(token) in tokenizer.encode(f"a {token} a", add_special_tokens=False).ids:
            if token == SPECIAL_TOKENS["unk"]:
                continue  # of letters that are not in the vocabulary
            raise ValueError(
                f"{source}: its rules keep {token} in a text whole, so that it becomes the special token; split text "
                "at punctuation, or set vocab.split_special_tokens: false if this is meant"
            )


def _check_case(tokens: list[str], *, lowercase: bool, source: str) -> None:
    """A cased vocabulary under lower-cased text never uses half its tokens; the reverse makes [UNK] of every name."""
    capitals = sum(token != token.lower() and not token.startswith("[") for token in tokens)
    if lowercase and capitals > len(tokens) / 100:
        raise ValueError(
            f"{source}: {capitals} of {len(tokens)} tokens have capital letters, which lower-cased text never has; "
            "set vocab.lowercase: false"
        )
    if not lowercase and "a" in tokens and "A" not in tokens:
        raise ValueError(
            f"{source}: has the letter 'a' and no 'A', so every word with a capital would be [UNK]; "
            "set vocab.lowercase: true"
        )


def _tokens_by_id(tokenizer: "Tokenizer", *, source: str) -> list[str]:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=lambda token: ids[token])
    gap = next((number for number, token in enumerate(tokens) if ids[token] != number), None)
    if gap is not None:
        raise ValueError(f"{source}: ids must run from 0 without gaps; no token has the id {gap}")
    return tokens


def _train(config: VocabConfig, *, context: StageContext) -> "Tokenizer":
    match config.kind:
        case VocabKind.WORDPIECE:
            tokenizer = _train_wordpiece(config, context=context)
        case VocabKind.BPE:
            tokenizer = _train_byte_pairs(config, context=context)
        case VocabKind.UNIGRAM:
            tokenizer = _train_unigram(config, context=context)
    tokens = _tokens_by_id(tokenizer, source="the trained vocabulary")
    assert config.size is not None
    if len(tokens) < config.size:
        context.tracker.params({"size_wanted": config.size, "size_reached": len(tokens)})
        often = (
            ""
            if config.kind is VocabKind.UNIGRAM
            else f" that occur vocab.min_frequency = {config.min_frequency} times"
        )
        logger.warning(
            "the vocabulary has %d tokens, not the %d of vocab.size: the corpus has no more pieces%s; add text, or "
            "lower vocab.size",
            *(len(tokens), config.size, often),
        )
    return tokenizer


def _train_byte_pairs(config: VocabConfig, *, context: StageContext) -> "Tokenizer":
    from tokenizers import pre_tokenizers, trainers

    fixed = len(SPECIAL_TOKENS) + len(pre_tokenizers.ByteLevel.alphabet())
    assert config.size is not None
    if config.size <= fixed:
        raise ValueError(f"size is {config.size}, but the special tokens and the 256 bytes alone are {fixed}")
    sample = _Sample(context.inputs["ingest"] / "train", limit=config.training_megabytes << 20)
    tokenizer = build_byte_pairs(lowercase=config.lowercase is not False, strip_accents=config.strip_accents is True)
    trainer = trainers.BpeTrainer(
        vocab_size=config.size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample.texts(), trainer)
    frame(tokenizer)
    return tokenizer


def _train_unigram(config: VocabConfig, *, context: StageContext) -> "Tokenizer":
    from tokenizers import trainers

    sample = _Sample(context.inputs["ingest"] / "train", limit=config.training_megabytes << 20)
    tokenizer = build_unigram(lowercase=config.lowercase is not False, strip_accents=config.strip_accents is True)
    fixed = len(SPECIAL_TOKENS) + len(_letters(tokenizer, sample=sample)) + 1  # and the sign of a space
    assert config.size is not None
    if config.size <= fixed:
        raise ValueError(
            f"size is {config.size}, but the special tokens and single letters of the corpus alone are {fixed}; "
            "raise vocab.size, or train with vocab.kind: bpe, which has no letters but bytes"
        )
    trainer = trainers.UnigramTrainer(
        vocab_size=config.size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        unk_token=SPECIAL_TOKENS["unk"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample.texts(), trainer)
    frame(tokenizer)
    return tokenizer


def _train_wordpiece(config: VocabConfig, *, context: StageContext) -> "Tokenizer":
    from tokenizers import trainers

    assert config.size is not None
    lowercase = config.lowercase is not False
    special = list(SPECIAL_TOKENS.values())
    strip_accents = config.strip_accents is True  # in most languages 'é' and 'e' make different words
    tokenizer = build_tokenizer(special, lowercase=lowercase, strip_accents=strip_accents)
    sample = _Sample(context.inputs["ingest"] / "train", limit=config.training_megabytes << 20)
    context.tracker.phase("counting the characters of the corpus")
    found = _letters(tokenizer, sample=sample)
    letters = sorted(sorted(found, key=lambda letter: (-found[letter], letter))[: config.max_alphabet])
    total = sum(found.values())
    left_out = 1 - sum(found[letter] for letter in letters) / total if total else 0.0
    context.tracker.params({"alphabet": len(letters), "alphabet_of_corpus": len(found), "left_out": left_out})
    if left_out > _SHARE_WORTH_A_WARNING:
        logger.warning(
            "vocab.max_alphabet leaves out %d of the corpus's %d different characters, %.1f %% of its text: a word "
            "with one of them becomes [UNK]; set vocab.max_alphabet: %d, and a vocab.size well above that",
            *(len(found) - len(letters), len(found), 100 * left_out, len(found)),
        )
    # A letter within a word is a token of its own (##a). The trainer would number these in the order of a random hash,
    # and break ties between merges by number: giving them here makes two trainings equal.
    inner = [f"##{letter}" for letter in letters if _joins_words(tokenizer, letter)]
    fixed = special + letters + inner
    if config.size <= len(fixed):
        raise ValueError(
            f"size is {config.size}, but the special tokens and single letters of the corpus alone are {len(fixed)}; "
            "raise vocab.size or lower vocab.max_alphabet"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.size,
        min_frequency=config.min_frequency,
        special_tokens=fixed,
        limit_alphabet=len(letters),
        initial_alphabet=letters,
        show_progress=False,
    )
    context.tracker.phase(f"choosing {config.size:,} tokens")
    tokenizer.train_from_iterator(sample.texts(), trainer)
    tokens = _tokens_by_id(tokenizer, source="the trained vocabulary")
    return build_tokenizer(tokens, lowercase=lowercase, strip_accents=strip_accents)


class _Sample:
    """About `limit` characters of the corpus: every n-th batch of documents where there are more."""

    def __init__(self, folder: UPath, *, limit: int) -> None:
        self._parts = sorted(folder.glob("part-*.parquet"), key=str)
        if not self._parts:
            raise ValueError(f"{folder} holds no text to train a vocabulary on")
        total = sum(sum(map(len, batch)) for batch in self._batches())
        self._stride = max(1, -(-total // limit))

    def texts(self) -> Iterator[list[str]]:
        return islice(self._batches(), None, None, self._stride)

    def _batches(self) -> Iterator[list[str]]:
        import pyarrow.parquet as pq

        for part in self._parts:
            with part.open("rb") as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=["text"]):
                    yield batch.column(0).to_pylist()


def _letters(tokenizer: "Tokenizer", *, sample: _Sample) -> dict[str, int]:
    """How often each character occurs in the normalized text."""
    import numpy as np

    counts: np.ndarray = np.zeros(0x110000, dtype=np.int64)
    for texts in sample.texts():
        points = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
        counts += np.bincount(points, minlength=len(counts))
    normalized: dict[str, int] = {}
    for point in np.flatnonzero(counts):
        for letter in tokenizer.normalizer.normalize_str(chr(point)):
            if not letter.isspace():
                normalized[letter] = normalized.get(letter, 0) + int(counts[point])
    return normalized


def _joins_words(tokenizer: "Tokenizer", letter: str) -> bool:
    """False for punctuation and Chinese characters, which are always words of their own."""
    text = tokenizer.normalizer.normalize_str(f"a{letter}a")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) == 1
