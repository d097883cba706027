"""BERT's WordPiece tokenizer, with the arguments and results of transformers' (T tokens, B batch)."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from upath import UPath

from cluster.storage import read_json, write_json, write_text
from stages.electra.config import ElectraConfig

if TYPE_CHECKING:
    from tokenizers import AddedToken, Encoding, Tokenizer

    from stages.electra.files.hub import HubAccess

# BERT's names, in the order of BERT's tokenizer class: a trained vocabulary begins with them.
SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def build_tokenizer(
    tokens: list[str], *, lowercase: bool, strip_accents: bool | None = None, split_chinese: bool = True
) -> "Tokenizer":
    """BERT's WordPiece tokenizer over `tokens`, whose place in the list is their id.

    The same as transformers' `BertTokenizer`: clean text, Chinese characters split, [CLS] A [SEP] B [SEP].
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=SPECIAL_TOKENS["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    frame(tokenizer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS.values()])
    return tokenizer


def parse_tokenizer(text: str, *, source: str) -> "Tokenizer":
    """The tokenizer of a tokenizer.json. Raises ValueError, which names `source`, where it is damaged."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare ones
        raise ValueError(f"{source}: not a tokenizer.json of the tokenizers library: {error}") from error


def frame(tokenizer: "Tokenizer") -> None:
    """Sets what a text stands between, [CLS] A [SEP] B [SEP], as every stage of the pipeline does itself."""
    from tokenizers import processors

    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


def as_letters(tokenizer: "Tokenizer") -> "Tokenizer":
    """A copy to which `[CLS]` in a text is these letters, and so are the other special tokens of BERT.

    Special tokens that somebody added, as `<e1>`, stay tokens.
    """
    from tokenizers import Tokenizer

    values = json.loads(tokenizer.to_str())
    for token in values["added_tokens"]:
        token["special"] = token["content"] in SPECIAL_TOKENS.values()
    copy = Tokenizer.from_str(json.dumps(values))
    copy.encode_special_tokens = True
    return copy


def normalizer_settings(tokenizer: "Tokenizer") -> dict[str, Any]:
    """The settings of the tokenizer's BERT normalizer, or those that do the same as its other normalizers."""
    found = json.loads(tokenizer.to_str())["normalizer"] or {}
    steps = {step.get("type"): step for step in [found, *found.get("normalizers", [])]}
    others = {"lowercase": "Lowercase" in steps, "strip_accents": "StripAccents" in steps}
    return steps.get("BertNormalizer") or others | {"handle_chinese_chars": False}


def transformers_settings(tokenizer: "Tokenizer") -> dict[str, Any]:
    """What tokenizer_config.json must say, so that transformers makes the same ids.

    transformers 5 builds a `BertTokenizer` from the vocabulary and these settings, whatever else tokenizer.json says:
    a tokenizer that differs from it in more is to be read from tokenizer.json.
    """
    values = json.loads(tokenizer.to_str())
    settings = normalizer_settings(tokenizer)
    tokens = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
    ids = tokenizer.get_vocab(with_added_tokens=True)
    twin = build_tokenizer(
        sorted(ids, key=lambda token: ids[token]),
        lowercase=settings["lowercase"],
        strip_accents=settings["strip_accents"],
        split_chinese=settings["handle_chinese_chars"],
    )
    parts = ("normalizer", "pre_tokenizer", "post_processor", "model", "added_tokens")
    by_id = [{part: each[part] for part in parts} for each in (values, json.loads(twin.to_str()))]
    for each in by_id:
        each["added_tokens"] = sorted(each["added_tokens"], key=lambda token: token["id"])
    if by_id[0] != by_id[1]:
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, **tokens}
    return {
        "tokenizer_class": "BertTokenizer",  # ELECTRA's, in transformers 4 and 5
        "do_lower_case": settings["lowercase"],
        "strip_accents": settings["strip_accents"],
        "tokenize_chinese_chars": settings["handle_chinese_chars"],
        **tokens,
    }


def check_vocabulary(lines: bytes, config: ElectraConfig, *, source: str) -> None:
    """Raises ValueError where a token of a `vocab.txt` has no row in the embedding table."""
    count = len(lines.splitlines())
    if count > config.vocab_size:
        raise ValueError(f"{source} has {count} tokens, the embedding table {config.vocab_size} rows (vocab_size)")


def _is_bert(settings: Mapping[str, Any]) -> bool:
    """Whether transformers reads a folder with these settings as BERT's tokenizer, which frames every text."""
    name = str(settings.get("tokenizer_class") or "BertTokenizer").removesuffix("Fast")
    return name in ("BertTokenizer", "ElectraTokenizer")


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> "dict[int, AddedToken]":
    """Tokens beside those of `vocab.txt` by id: of `added_tokens.json`, and as tokenizer_config.json describes them."""
    from tokenizers import AddedToken

    path = UPath(folder / "added_tokens.json")
    tokens = {number: AddedToken(text) for text, number in (read_json(path) if path.exists() else {}).items()}
    for number, values in (settings.get("added_tokens_decoder") or {}).items():
        tokens[int(number)] = AddedToken(**{name: value for name, value in values.items() if name != "__type"})
    return {number: token for number, token in tokens.items() if token.content not in SPECIAL_TOKENS.values()}


def _as_arrays(rows: Mapping[str, list[Any]], *, kind: str) -> dict[str, Any]:
    """Rows as arrays of numpy (`np`) or JAX (`jax`)."""
    import numpy as np

    if kind not in ("np", "jax"):
        raise ValueError(f"return_tensors is {kind!r}, must be 'np', 'jax' or None")
    if len({len(row) for row in rows["input_ids"]}) > 1:
        raise ValueError("rows of several lengths cannot be an array: give padding=True")
    arrays = {name: np.array(value, np.int32) for name, value in rows.items()}
    if kind == "np":
        return arrays
    import jax.numpy as jnp

    return {name: jnp.asarray(value) for name, value in arrays.items()}


class Rows(dict[str, Any]):
    """What a tokenizer makes of some texts: rows by the names of a model's arguments, and where their tokens are from.

    Attributes:
      encodings: Of each text, as the tokenizers library has them.
    """

    def __init__(self, rows: Mapping[str, Any], *, encodings: "Sequence[Encoding]") -> None:
        super().__init__(rows)
        self.encodings = encodings

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The number of the word that each token of a text is from; None for special tokens."""
        return list(self.encodings[batch_index].word_ids)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 for tokens of the first text, 1 of its pair, None for special tokens."""
        return list(self.encodings[batch_index].sequence_ids)


class ElectraTokenizer:
    """Texts to the arrays that a model takes.

    Attributes:
      max_length: Tokens that a text is cut to, where it is cut.
      split_special_tokens: Whether special tokens that a text spells out, as `[SEP]`, are text like any other; None is
        no, as in transformers.
    """

    def __init__(
        self, tokenizer: "Tokenizer", *, max_length: int = 512, split_special_tokens: bool | None = None
    ) -> None:
        self.backend = tokenizer
        self.max_length = max_length
        self.split_special_tokens = split_special_tokens
        tokenizer.encode_special_tokens = bool(split_special_tokens)

    @classmethod
    def from_pretrained(
        cls,
        location: str | Path | UPath,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Reads `tokenizer.json`, else `vocab.txt`, of a folder or hub id; for the last four see `HubAccess`.

        Raises:
          FileNotFoundError: There is neither.
          ValueError: The tokenizer.json is damaged.
        """
        from stages.electra.files.hub import HubAccess

        access = HubAccess(
            token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
        )
        return cls._read(location, revision=revision, access=access)

    @classmethod
    def _read(cls, location: str | Path | UPath, *, revision: str | None, access: "HubAccess") -> Self:
        from stages.electra.files.locate import find_folder

        with ExitStack() as stack:
            folder = find_folder(location, stack=stack, revision=revision, with_weights=False, access=access)
            settings = folder / "tokenizer_config.json"
            values: dict[str, Any] = read_json(UPath(settings)) if settings.exists() else {}
            stated = values.get("model_max_length") or 512
            max_length = int(stated) if stated < 1e9 else 512  # where nobody said so, transformers writes 1e30
            split = values.get("split_special_tokens")
            if (folder / "tokenizer.json").exists():
                text = (folder / "tokenizer.json").read_text(encoding="utf-8")
                backend = parse_tokenizer(text, source=f"{location}: tokenizer.json")
                if backend.post_processor is None and _is_bert(values):
                    frame(backend)
                return cls(backend, max_length=max_length, split_special_tokens=split)
            if not (folder / "vocab.txt").exists():
                raise FileNotFoundError(f"{location}: no tokenizer.json and no vocab.txt")
            tokenizer = cls.from_vocabulary(
                folder / "vocab.txt",
                lowercase=values.get("do_lower_case", True),
                strip_accents=values.get("strip_accents"),
                split_chinese=values.get("tokenize_chinese_chars", True),
                max_length=max_length,
            )
            tokenizer._add(_added_tokens(folder, values), source=location)
            return cls(tokenizer.backend, max_length=max_length, split_special_tokens=split)

    def _add(self, tokens: "Mapping[int, AddedToken]", *, source: str | Path | UPath) -> None:
        for number, token in sorted(tokens.items()):
            self.backend.add_tokens([token])
            if (found := self.backend.token_to_id(token.content)) != number:
                raise ValueError(
                    f"{source}: the added token {token.content!r} has the id {number}, after the vocabulary it would "
                    f"be {found}; save the tokenizer with transformers' save_pretrained, which writes tokenizer.json"
                )

    @classmethod
    def from_vocabulary(
        cls,
        path: str | Path | UPath,
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        max_length: int = 512,
    ) -> Self:
        """Reads a `vocab.txt`, a token a line.

        Raises:
          ValueError: A token is there twice, or a special one is not there.
        """
        lines = UPath(path).read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
        tokens = [line.removesuffix("\r") for line in lines]
        if len(set(tokens)) != len(tokens):
            raise ValueError(f"{path}: a token is there twice")
        if missing := [token for token in SPECIAL_TOKENS.values() if token not in tokens]:
            raise ValueError(f"{path}: no {', '.join(missing)}")
        backend = build_tokenizer(tokens, lowercase=lowercase, strip_accents=strip_accents, split_chinese=split_chinese)
        return cls(backend, max_length=max_length)

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: bool | str = True,
        truncation: bool = True,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
        return_offsets_mapping: bool = False,
        return_tensors: str | None = None,
    ) -> Rows:
        """`input_ids`, `token_type_ids` and `attention_mask`, each a row a text.

        Args:
          text: One text or several.
          text_pair: What each is followed by.
          padding: True or `longest` pads to the longest row, `max_length` to that, False or `do_not_pad` not at all.
          truncation: Whether longer inputs are cut, the longer text first.
          max_length: What they are cut to; None takes the tokenizer's.
          add_special_tokens: Whether texts stand between [CLS] and [SEP].
          is_split_into_words: Whether each text is a list of words.
          return_offsets_mapping: Whether `offset_mapping` says from which characters each token is.
          return_tensors: `"np"` or `"jax"` for arrays [B, T]; None for lists, without the batch for a single text.

        Raises:
          ValueError: An argument is none of these, or rows of several lengths are to be an array.
        """
        single = isinstance(text, str) or (is_split_into_words and all(isinstance(word, str) for word in text))
        firsts = [text] if single else list(text)
        seconds = [text_pair] if isinstance(text_pair, str) else text_pair
        inputs: Any = firsts if seconds is None else list(zip(firsts, seconds, strict=True))
        self._set_lengths(padding, truncation=truncation, max_length=max_length)
        encodings = self.backend.encode_batch(
            inputs, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
        )
        rows: dict[str, Any] = {
            "input_ids": [encoding.ids for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
        }
        if return_offsets_mapping:
            rows["offset_mapping"] = [encoding.offsets for encoding in encodings]
        if return_tensors is None:
            rows = {name: value[0] if single else value for name, value in rows.items()}
        else:
            rows = _as_arrays(rows, kind=return_tensors)
        return Rows(rows, encodings=encodings)

    def _set_lengths(self, padding: bool | str, *, truncation: bool, max_length: int | None) -> None:
        longest = self.max_length if max_length is None else max_length
        if truncation:
            self.backend.enable_truncation(longest)
        else:
            self.backend.no_truncation()
        pad = SPECIAL_TOKENS["pad"]
        match padding:
            case True | "longest" | "max_length":
                length = longest if padding == "max_length" else None
                self.backend.enable_padding(pad_id=self.backend.token_to_id(pad) or 0, pad_token=pad, length=length)
            case False | "do_not_pad":
                self.backend.no_padding()
            case _:
                raise ValueError(
                    f"padding is {padding!r}, must be True, False, 'longest', 'max_length' or 'do_not_pad'"
                )

    def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[str]:
        """The tokens themselves."""
        self.backend.no_padding()
        self.backend.no_truncation()
        return self.backend.encode(text, add_special_tokens=add_special_tokens).tokens

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of some ids."""
        return self.backend.decode([int(number) for number in ids], skip_special_tokens=skip_special_tokens)

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    def check(self, config: ElectraConfig) -> None:
        """Raises ValueError where a token has no row in the embedding table."""
        if len(self) > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self)} tokens, the embedding table {config.vocab_size} rows (vocab_size)"
            )

    def save_pretrained(self, folder: str | Path | UPath, *, max_length: int | None = None) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`; `max_length` if it is below its own."""
        self.backend.no_padding()
        self.backend.no_truncation()
        target = UPath(folder)
        ids = self.backend.get_vocab(with_added_tokens=True)
        write_text(target / "tokenizer.json", self.backend.to_str(pretty=True))
        write_text(target / "vocab.txt", "\n".join(sorted(ids, key=lambda token: ids[token])) + "\n")
        write_json(
            target / "tokenizer_config.json",
            transformers_settings(self.backend)
            | {"model_max_length": min(self.max_length, max_length or self.max_length)}
            | ({} if self.split_special_tokens is None else {"split_special_tokens": self.split_special_tokens}),
        )
