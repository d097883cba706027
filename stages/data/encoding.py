"""Lines of text to token ids: by nanotoken, held against `tokenizers`, or by `tokenizers` alone.

nanotoken is some thirty times as fast, and young: `tokenizers` is the reference. Of what nanotoken encodes it encodes
too: each different word that is odd (not ASCII, or long), once an encoder; and a sample of whole lines, a larger one of
those with odd words. Both cut text at spaces before they look at words, so a word has the same ids in any line. A
difference is an error.

On 1.1 million code points in six surroundings and on 800,000 random texts of all Unicode blocks (uncased, cased, with
accents) no id differed, so no class of texts is kept from nanotoken.
"""

import json
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# One line in so many is checked; of those with odd words one in so many.
_PLAIN_STRIDE, _ODD_STRIDE = 1024, 256
# Words of so many bytes are long. They are looked for eight bytes at a time.
_LONG_BYTES = 32
# Words that an encoder remembers as checked. Beyond that it forgets all of them: they are checked again.
_MAX_WORDS = 2_000_000


class Encoder:
    """Encodes lines without special tokens.

    Attributes:
      why_reference: Why `tokenizers` does it all, though it was not asked for; None where nanotoken does it.

    Args:
      reference: The tokenizer. If it is set to take special tokens of a text for letters, so does nanotoken.
      is_fast: Whether to encode with nanotoken where it can.
    """

    def __init__(self, reference: "Tokenizer", *, is_fast: bool = True) -> None:
        self._reference = reference
        self._fast: Any = None
        self.why_reference: str | None = None
        self._known: set[bytes] = set()
        self._num_lines = 0
        if is_fast:
            import nanotoken

            try:
                self._fast = nanotoken.WordPieceTokenizer.from_json(_plain_json(reference))
            except nanotoken.UnsupportedTokenizerError as error:
                self.why_reference = str(error)

    def encode(self, lines: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all lines, uint32, and the number of each line's.

        Args:
          lines: UTF-8 without line breaks.

        Raises:
          ValueError: nanotoken's ids are not those of tokenizers.
        """
        if self._fast is None:
            ids = self._encode_slowly(lines)
            return np.fromiter(chain.from_iterable(ids), dtype=np.uint32), np.array([*map(len, ids)], dtype=np.int64)
        # Where many items run at once, each has one core.
        parallel = os.environ.get("TOKENIZERS_PARALLELISM") != "false"
        ids, ends = self._fast.encode_batch(lines, add_special_tokens=False, parallel=parallel)
        self._check_lines(lines, ids, ends)
        return ids, np.diff(ends)

    def _encode_slowly(self, lines: Iterable[bytes]) -> list[list[int]]:
        texts = [line.decode() for line in lines]
        return [encoding.ids for encoding in self._reference.encode_batch_fast(texts, add_special_tokens=False)]

    def _check_lines(self, lines: Sequence[bytes], ids: np.ndarray, ends: np.ndarray) -> None:
        odd = _odd_lines(lines)
        if words := list(_odd_words([lines[number] for number in odd]) - self._known):
            found, ends_of_words = self._fast.encode_batch(words, add_special_tokens=False, parallel=False)
            self._compare(words, found, ends_of_words, range(len(words)))
            if len(self._known) > _MAX_WORDS:
                self._known.clear()
            self._known.update(words)
        begin = -self._num_lines % _PLAIN_STRIDE
        self._num_lines += len(lines)
        sample = sorted({*range(begin, len(lines), _PLAIN_STRIDE), *odd[begin % _ODD_STRIDE :: _ODD_STRIDE]})
        self._compare(lines, ids, ends, sample)

    def _compare(self, texts: Sequence[bytes], ids: np.ndarray, ends: np.ndarray, numbers: Sequence[int]) -> None:
        for number, wanted in zip(numbers, self._encode_slowly(texts[number] for number in numbers), strict=True):
            found = ids[ends[number] : ends[number + 1]].tolist()
            if found != wanted:
                text = texts[number].decode()
                names = [[self._reference.id_to_token(token) for token in each[:20]] for each in (found, wanted)]
                raise ValueError(
                    f"nanotoken encodes {text[:200]!a} as {names[0]}, tokenizers as {names[1]}: set "
                    "shard.tokenizer: reference, which encodes with tokenizers alone; and please tell nanotoken's "
                    "authors about this text"
                )


def _plain_json(tokenizer: "Tokenizer") -> str:
    """Its tokenizer.json without what stands around a text, and without the tokens that are letters to it."""
    values = json.loads(tokenizer.to_str())
    values["post_processor"] = None
    if tokenizer.encode_special_tokens:
        values["added_tokens"] = [token for token in values["added_tokens"] if not token["special"]]
    return json.dumps(values)


def _odd_lines(lines: Sequence[bytes]) -> list[int]:
    """The lines that hold an odd word."""
    block = np.frombuffer(b"\n".join(lines), dtype=np.uint8)
    ends = np.cumsum(np.fromiter(map(len, lines), dtype=np.int64, count=len(lines)) + 1)
    is_solid = (block[: len(block) // 8 * 8] <= ord(" ")).view(np.uint64) == 0  # no space in these eight bytes
    is_long = is_solid[:-2] & is_solid[1:-1] & is_solid[2:]  # so in every word of 31 bytes
    places = np.concatenate([np.flatnonzero(is_long) * 8, np.flatnonzero(block >= 128)])
    is_odd = np.zeros(len(lines), dtype=bool)
    is_odd[np.searchsorted(ends, places, side="right")] = True
    return np.flatnonzero(is_odd).tolist()


def _odd_words(lines: Sequence[bytes]) -> set[bytes]:
    """The different words that are not ASCII or that are long."""
    data = b"\n" + b"\n".join(lines) + b"\n"
    block = np.frombuffer(data, dtype=np.uint8)
    spaces = np.flatnonzero(block <= ord(" "))
    is_odd = np.diff(spaces) > _LONG_BYTES  # a space included
    is_odd[np.searchsorted(spaces, np.flatnonzero(block >= 128)) - 1] = True
    number = np.flatnonzero(is_odd)
    bounds = zip((spaces[number] + 1).tolist(), spaces[number + 1].tolist(), strict=True)
    return {data[begin:end] for begin, end in bounds}
