"""The model's own tokenizer, without special tokens, padding or truncation: tasks place those themselves.

A text that contains the letters [CLS] contains these letters, as in the original. A model whose tokenizer_config.json
says `"split_special_tokens": false` reads the special token there, as transformers does.
"""

from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Tokenizer
from upath import UPath

from cluster.storage import read_json
from stages.electra.tokenizer import as_letters, parse_tokenizer

# Encodings are large (several hundred bytes a token), so that texts are encoded a slice at a time.
_SLICE = 1024


class WordPiece:
    """Token ids of texts and words, and the ids of the special tokens.

    Args:
      tokenizer: Is copied.
      split_special_tokens: Whether special tokens that a text spells out are text like any other.

    Attributes:
      cls: Id of [CLS]; `sep`, `unk`, `pad` likewise.
    """

    def __init__(self, tokenizer: Tokenizer, *, split_special_tokens: bool = True) -> None:
        tokenizer = as_letters(tokenizer) if split_special_tokens else Tokenizer.from_str(tokenizer.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        ids = {name: tokenizer.token_to_id(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")}
        known = {name: number for name, number in ids.items() if number is not None}
        if missing := [name for name in ids if name not in known]:
            raise ValueError(f"the tokenizer has no {', '.join(missing)}; fine-tuning needs {', '.join(ids)}")
        self.pad, self.unk, self.cls, self.sep = known.values()

    @classmethod
    def from_file(cls, path: UPath) -> "WordPiece":
        """Reads a `tokenizer.json`, and the `tokenizer_config.json` beside it where there is one."""
        settings = path.parent / "tokenizer_config.json"
        split = read_json(settings).get("split_special_tokens", True) if settings.exists() else True
        tokenizer = parse_tokenizer(path.read_text(encoding="utf-8"), source=str(path))
        return cls(tokenizer, split_special_tokens=split)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        return [
            encoding.ids
            for start in range(0, len(texts), _SLICE)
            for encoding in self._tokenizer.encode_batch_fast(
                list(texts[start : start + _SLICE]), add_special_tokens=False
            )
        ]

    def encode_with_offsets(self, texts: Sequence[str]) -> Iterator[Encoding]:
        """Encodings whose `offsets` are positions in the text as it was given, in characters."""
        for start in range(0, len(texts), _SLICE):
            yield from self._tokenizer.encode_batch(list(texts[start : start + _SLICE]), add_special_tokens=False)

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of each word on its own; a word of which the tokenizer leaves nothing is [UNK].

        So every word has a first token to carry its label, and none shifts the labels of the others.
        """
        return [ids or [self.unk] for ids in self.encode(words)]
