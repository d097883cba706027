"""The published sizes, and the two networks that are made of one.

Imports nothing heavy: every configuration is checked before any stage runs.
"""

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

from stages.electra.config import Activation, ElectraConfig


class Size(StrEnum):
    """A published set of sizes; `tiny` is this project's own, for two cores and for tests."""

    TINY = "tiny"
    SMALL = "small"
    BASE = "base"
    LARGE = "large"


class EmbeddingSharing(StrEnum):
    """How the embeddings of generator and discriminator belong together.

    `shared`: they are one. `untied`: the generator has its own, as wide as its hidden states. `disentangled`: the
    discriminator's are the generator's and a difference of its own; the generator gets no gradient from it
    (DeBERTaV3, arXiv 2111.09543, section 3.3).
    """

    SHARED = "shared"
    UNTIED = "untied"
    DISENTANGLED = "disentangled"


class _Preset(NamedTuple):
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    embedding_size: int
    generator_multiplier: float
    mask_fraction: float


# arXiv 2003.10555, table 6. The released small model is 'Small++': its generator has multiplier 1.
_PRESETS = {
    Size.TINY: _Preset(4, 128, 512, 2, 64, 1 / 2, 0.15),
    Size.SMALL: _Preset(12, 256, 1024, 4, 128, 1 / 4, 0.15),
    Size.BASE: _Preset(12, 768, 3072, 12, 768, 1 / 3, 0.15),
    Size.LARGE: _Preset(24, 1024, 4096, 16, 1024, 1 / 4, 0.25),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A size, and what differs from it. None takes the size's value.

    Attributes:
      size: The preset that everything else starts from.
      generator_multiplier: Generator width over discriminator width: hidden size, feed-forward, heads;
        never layers.
      embedding_sharing: How the embeddings of generator and discriminator belong together.
      shared_encoder: Let the generator be the discriminator's own encoder, with a head of its own: the paper's
        'tying all weights' (section 3.2). Its multiplier is then 1.
      local_attention: Let the first layer of both start by looking at the neighbours of each token, for little
        text and small models: see `stages.electra.locality`. The network is the same, only its first weights differ.
      embedding_size: Width of the word vectors, which both networks share.
      hidden_size: Width of the discriminator's layers.
      num_hidden_layers: Layers of each network.
      num_attention_heads: Heads of each of the discriminator's layers; they divide its width.
      intermediate_size: Width of the feed-forward part of the discriminator's layers.
      hidden_act: Activation of the feed-forward part.
      hidden_dropout_prob: Share of activations that dropout sets to 0 while training.
      attention_probs_dropout_prob: Share of attention weights that it sets to 0.
      max_position_embeddings: Most tokens of an input.
      type_vocab_size: Kinds of segments: a text and its second.
      initializer_range: Standard deviation of the first weights.
      layer_norm_eps: Added to the variance in LayerNorm.
    """

    size: Size = Size.SMALL
    embedding_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    generator_multiplier: float | None = None
    embedding_sharing: EmbeddingSharing = EmbeddingSharing.SHARED
    shared_encoder: bool = False
    local_attention: bool = False
    hidden_act: Activation = Activation.GELU
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        multiplier = self.generator_multiplier
        if multiplier is not None and not 0 < multiplier <= 1:
            raise ValueError(f"generator_multiplier is {multiplier}, must be above 0 and at most 1")
        is_shared = self.embedding_sharing is EmbeddingSharing.SHARED
        if self.shared_encoder and (not is_shared or multiplier not in (None, 1)):
            raise ValueError(
                "shared_encoder is true: then generator_multiplier must be 1, and embedding_sharing shared, or left out"
            )
        # The vocabulary is the only thing not known yet: any size of it shows the other fields' faults.
        self.resolve(vocab_size=1)

    def resolve(self, vocab_size: int, *, pad_token_id: int = 0) -> tuple[ElectraConfig, ElectraConfig]:
        """Configurations of the discriminator and of the generator, in this order."""
        preset = _PRESETS[Size(self.size)]

        def chosen(name: str) -> Any:
            value = getattr(self, name)
            return getattr(preset, name) if value is None else value

        own = {item.name: chosen(item.name) for item in fields(ElectraConfig) if hasattr(self, item.name)}
        discriminator = ElectraConfig(vocab_size=vocab_size, pad_token_id=pad_token_id, **own)
        if self.shared_encoder:
            return discriminator, discriminator
        multiplier = chosen("generator_multiplier")
        hidden_size = round(discriminator.hidden_size * multiplier)
        # As wide as the discriminator's: 64 in the published sizes.
        head_width = discriminator.hidden_size // discriminator.num_attention_heads
        num_heads = max(1, hidden_size // head_width)
        if hidden_size < 1 or hidden_size % num_heads:
            raise ValueError(
                f"generator_multiplier {multiplier:g} x hidden_size {discriminator.hidden_size} gives the "
                f"generator a hidden size of {hidden_size}, which {num_heads} heads do not divide: choose a "
                f"multiplier that makes it below {2 * head_width} or a multiple of {head_width}"
            )
        generator = replace(
            discriminator,
            embedding_size=(
                hidden_size if self.embedding_sharing is EmbeddingSharing.UNTIED else discriminator.embedding_size
            ),
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_attention_heads=num_heads,
        )
        return discriminator, generator


def published_mask_fraction(size: Size) -> float:
    """Share of the tokens that a generator of this size predicts."""
    return _PRESETS[Size(size)].mask_fraction
