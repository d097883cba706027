"""What a model is pretrained for: the objectives and what distinguishes them.

Imports nothing heavy: every configuration is checked before any stage runs.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from stages.electra.config import ElectraConfig
from stages.electra.sizes import Size, published_mask_fraction


class ObjectiveKind(StrEnum):
    """What is learnt.

    `replaced_token_detection`: to tell replaced tokens from original ones (ELECTRA).
    `masked_language_modeling`: to fill in masked tokens (BERT), by one network.
    `replace_mlm`: to predict which token stood at each replaced position (arXiv 2003.10555, section 3.4).
    `all_tokens_mlm`: to predict the token of every position, with a way to copy it (likewise).
    `electric`: how likely each token is in its place, by telling text from noise of a known distribution (Electric,
    arXiv 2012.08561).
    """

    REPLACED_TOKEN_DETECTION = "replaced_token_detection"
    MASKED_LANGUAGE_MODELING = "masked_language_modeling"
    REPLACE_MLM = "replace_mlm"
    ALL_TOKENS_MLM = "all_tokens_mlm"
    ELECTRIC = "electric"

    @property
    def traits(self) -> "Traits":
        """What distinguishes it from the others."""
        return _TRAITS[self]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What distinguishes an objective: the only place that tells one kind from another.

    Attributes:
      detects: The network of full size gives each token one logit, whether it was replaced.
      restores: The network of full size predicts the words of a text in which some were replaced.
      copies: It may copy what it sees, and so predicts every token rather than the replaced ones.
      generator_towers: Encoders of the generator. Two of them, which read a text from either end, see no token that
        they predict: they predict every token, one text a row, and are no network that others could load.
      is_continued: Its networks are those of released models, so that it may go on from their weights.
      meaningless: Fields of `ObjectiveConfig` that it has no use for.
    """

    detects: bool = False
    restores: bool = False
    copies: bool = False
    generator_towers: int = 1
    is_continued: bool = False
    meaningless: tuple[str, ...] = ()

    @property
    def trains_one_network(self) -> bool:
        """Whether the masked language model alone is trained, at full size."""
        return not self.detects and not self.restores

    @property
    def has_towers(self) -> bool:
        """Whether the generator is a pair of towers."""
        return self.generator_towers > 1


_TRAITS = {
    ObjectiveKind.REPLACED_TOKEN_DETECTION: Traits(detects=True, is_continued=True),
    ObjectiveKind.MASKED_LANGUAGE_MODELING: Traits(
        is_continued=True, meaningless=("temperature", "disallow_correct", "uniform_generator", "discriminator_weight")
    ),
    ObjectiveKind.REPLACE_MLM: Traits(restores=True, meaningless=("discriminator_weight",)),
    ObjectiveKind.ALL_TOKENS_MLM: Traits(restores=True, copies=True, meaningless=("discriminator_weight",)),
    # Its discriminator needs the probability of each token under what the samples are drawn from.
    ObjectiveKind.ELECTRIC: Traits(
        detects=True,
        generator_towers=2,
        meaningless=("temperature", "disallow_correct", "uniform_generator", "masking"),
    ),
}


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
      discriminator_weight: Of the discriminator's loss in the total. The loss of restoring words has weight 1.
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
        for name in self.kind.traits.meaningless:
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
        if self.kind.traits.trains_one_network:
            return None, discriminator
        return discriminator, None if self.uniform_generator else generator

    def resolve(self, size: Size) -> Self:
        """Fills in what depends on the model's size."""
        if self.mask_fraction is not None:
            return self
        return replace(self, mask_fraction=published_mask_fraction(size))


def max_masked(num_tokens: int, mask_fraction: float) -> int:
    """The most positions that a sequence of `num_tokens` can have masked."""
    # The original's max_predictions_per_seq. A sequence must have one slot, however short it is.
    return max(1, int((mask_fraction + 0.005) * num_tokens))
