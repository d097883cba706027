"""What a model is pretrained for.

Imports nothing heavy: every configuration is checked before any stage runs.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from stages.electra.config import ElectraConfig, Size, published_mask_fraction


class ObjectiveKind(StrEnum):
    """What is learnt.

    `replaced_token_detection`: to tell replaced tokens from original ones (ELECTRA).
    `masked_language_modeling`: to fill in masked tokens (BERT), by one network.
    `replace_mlm`: to say what stood at the replaced positions (arXiv 2003.10555, section 3.4).
    `all_tokens_mlm`: to say what stood at every position, with a way to copy (likewise).
    `electric`: how likely each token is in its place, by telling text from noise of a known distribution (Electric,
    arXiv 2012.08561).
    """

    REPLACED_TOKEN_DETECTION = "replaced_token_detection"
    MASKED_LANGUAGE_MODELING = "masked_language_modeling"
    REPLACE_MLM = "replace_mlm"
    ALL_TOKENS_MLM = "all_tokens_mlm"
    ELECTRIC = "electric"

    @property
    def detects(self) -> bool:
        """Whether a discriminator gives each token one logit."""
        return self in (ObjectiveKind.REPLACED_TOKEN_DETECTION, ObjectiveKind.ELECTRIC)

    @property
    def restores(self) -> bool:
        """Whether a network of the discriminator's size predicts the words of a corrupted text."""
        return self in (ObjectiveKind.REPLACE_MLM, ObjectiveKind.ALL_TOKENS_MLM)


class Masking(StrEnum):
    """How positions are drawn: `distinct` ones, or as `original` code does it, which may draw one several times."""

    DISTINCT = "distinct"
    ORIGINAL = "original"


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a model is pretrained for: by default ELECTRA's replaced-token detection.

    Attributes:
      kind: The objective. Masked language modeling trains one network of the model's full size, which is exported
        as `generator`; all others a generator beside it, and the network of full size is exported as
        `discriminator`, whatever it predicts.
      mask_fraction: Share of the tokens that the generator predicts; None takes the model size's own.
      mask_probability: How often such a token is shown to the generator as [MASK]; else it stays as it is.
      masking: How the positions are drawn.
      temperature: Of the generator's samples.
      disallow_correct: Never sample the token that stood there.
      uniform_generator: Sample from all words alike; there is no generator then.
      generator_weight: Of the generator's loss in the total.
      discriminator_weight: Of the discriminator's loss in the total. Where a network of its size predicts words, that
        counts as much as the generator.
    """

    kind: ObjectiveKind = ObjectiveKind.REPLACED_TOKEN_DETECTION
    mask_fraction: float | None = None
    mask_probability: float = 0.85
    masking: Masking = Masking.DISTINCT
    temperature: float = 1.0
    disallow_correct: bool = False
    uniform_generator: bool = False
    generator_weight: float = 1.0
    discriminator_weight: float = 50.0

    def __post_init__(self) -> None:
        if self.mask_fraction is not None and not 0 < self.mask_fraction < 1:
            raise ValueError(f"mask_fraction is {self.mask_fraction}, must be above 0 and below 1")
        if not 0 <= self.mask_probability <= 1:
            raise ValueError(f"mask_probability is {self.mask_probability}, must be between 0 and 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, must be above 0")
        for name in ("generator_weight", "discriminator_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must not be negative")
        meaningless: tuple[str, ...] = ()
        if self.kind is ObjectiveKind.MASKED_LANGUAGE_MODELING:
            meaningless = ("temperature", "disallow_correct", "uniform_generator", "discriminator_weight")
        elif self.kind is ObjectiveKind.ELECTRIC:
            # Its discriminator needs the probability of each token under what the samples are drawn from.
            meaningless = ("temperature", "disallow_correct", "uniform_generator", "masking")
        elif self.kind.restores:
            meaningless = ("discriminator_weight",)
        for name in meaningless:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} is {getattr(self, name)}, which means nothing to {self.kind}: leave it out")
        if self.uniform_generator and self.temperature != 1:
            raise ValueError(
                f"temperature is {self.temperature}, but a uniform generator is the same at any: leave it out"
            )

    @property
    def resolved_mask_fraction(self) -> float:
        """The mask fraction, known once the model's size is.

        Raises:
          ValueError: It is not.
        """
        if self.mask_fraction is None:
            raise ValueError("mask_fraction is not set: resolve the objective for the model's size first")
        return self.mask_fraction

    def networks(
        self, discriminator: ElectraConfig, generator: ElectraConfig
    ) -> tuple[ElectraConfig | None, ElectraConfig | None]:
        """Which discriminator and generator are trained, of those of a model."""
        if self.kind is ObjectiveKind.MASKED_LANGUAGE_MODELING:
            return None, discriminator
        return discriminator, None if self.uniform_generator else generator

    def resolve(self, size: Size) -> Self:
        """Fills in what depends on the model's size."""
        if self.mask_fraction is not None:
            return self
        return replace(self, mask_fraction=published_mask_fraction(size))
