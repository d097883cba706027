"""Tokens of any vocabulary, written for readers as WordPiece writes them: `##` before what continues a word."""

from collections.abc import Sequence

_SHARE = 0.01  # of tokens that begin with a mark, from which it is the vocabulary's own and no character of the text


def as_pieces(tokens: Sequence[str]) -> list[str]:
    """WordPiece's tokens as they are; of Unigram, and of pairs of bytes, without the mark of a word's beginning."""
    for mark, plain in (("▁", str), ("Ġ", _from_bytes)):
        if sum(token.startswith(mark) for token in tokens) > _SHARE * len(tokens):
            return [_piece(token, mark, plain(token.removeprefix(mark))) for token in tokens]
    return list(tokens)


def _piece(token: str, mark: str, plain: str) -> str:
    is_special = token.startswith("[") and token.endswith("]") and len(token) > 2
    return plain if token.startswith(mark) or is_special else f"##{plain}"


def _from_bytes(token: str) -> str:
    """What bytes stand for that are written as a letter each; a part of a character as its sign for that."""
    found = bytes(_BYTES[letter] for letter in token if letter in _BYTES)
    return found.decode("utf-8", errors="replace")


def _letters_of_bytes() -> dict[str, int]:
    """The alphabet of byte-level vocabularies: bytes that print are themselves, all others follow upon Latin."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [number for number in range(256) if number not in printed]
    return {chr(number): number for number in printed} | {chr(256 + at): number for at, number in enumerate(others)}


_BYTES = _letters_of_bytes()
