"""Tokenizers that are not BERT's, to be trained: pairs of bytes, and Unigram."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer


def build_byte_pairs(*, lowercase: bool, strip_accents: bool) -> "Tokenizer":
    """A tokenizer over pairs of bytes, to be trained. A word has the space before it, also where the text begins."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def build_unigram(*, lowercase: bool, strip_accents: bool) -> "Tokenizer":
    """A Unigram tokenizer, to be trained. A word has the space before it; punctuation is a word of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = _normalizer(lowercase=lowercase, strip_accents=strip_accents)
    spaces, marks = pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spaces, marks])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


def _normalizer(*, lowercase: bool, strip_accents: bool) -> "Normalizer":
    from tokenizers import normalizers

    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=strip_accents, lowercase=lowercase
    )
