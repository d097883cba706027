"""What an ELECTRA model is made of, the published sizes, and what it is trained on.

Imports nothing heavy: every configuration is checked before any stage runs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self


class Size(StrEnum):
    """A published set of sizes; `tiny` is this project's own, for two cores and for tests."""

    TINY = "tiny"
    SMALL = "small"
    BASE = "base"
    LARGE = "large"


class Activation(StrEnum):
    """Activation of the feed-forward layers and the discriminator head.

    `gelu` is the exact one (erf), `gelu_new` its tanh approximation.
    """

    GELU = "gelu"
    GELU_NEW = "gelu_new"
    RELU = "relu"
    TANH = "tanh"


class SummaryType(StrEnum):
    """Which token stands for a text where choices are compared; `cls_index` without an index is the last."""

    FIRST = "first"
    LAST = "last"
    MEAN = "mean"
    CLS_INDEX = "cls_index"


class ProblemType(StrEnum):
    """What the labels of a text are."""

    REGRESSION = "regression"
    SINGLE_LABEL = "single_label_classification"
    MULTI_LABEL = "multi_label_classification"


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


class EmbeddingSharing(StrEnum):
    """How the embeddings of generator and discriminator belong together.

    `shared`: they are one. `untied`: the generator has its own, as wide as its hidden states. `disentangled`: the
    discriminator's are the generator's and a difference of its own; the generator gets no gradient from it
    (DeBERTaV3, arXiv 2111.09543, section 3.3).
    """

    SHARED = "shared"
    UNTIED = "untied"
    DISENTANGLED = "disentangled"


class Masking(StrEnum):
    """How positions are drawn: `distinct` ones, or as `original` code does it, which may draw one several times."""

    DISTINCT = "distinct"
    ORIGINAL = "original"


@dataclass(frozen=True, kw_only=True)
class ElectraConfig:
    """One transformer with its embeddings. Names and defaults are those of a Hugging Face `config.json`.

    Attributes:
      classifier_dropout: Of the heads for texts and tokens; None takes `hidden_dropout_prob`.
      summary_type: With the other `summary_` fields, how `ElectraForMultipleChoice` reads a choice.
      is_decoder: Tokens attend to themselves and those before them only.
      add_cross_attention: A decoder's layers attend to another encoder's states as well.
      num_labels: Classes of a fine-tuned head; 0 counts `id2label`, or is 2 without it.
      id2label: Names of the classes by number.
      problem_type: What a text's labels are; None reads it off the labels.
    """

    vocab_size: int = 30522
    embedding_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    hidden_act: Activation = Activation.GELU
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    summary_type: SummaryType = SummaryType.FIRST
    summary_use_proj: bool = True
    summary_activation: Activation | None = Activation.GELU
    summary_last_dropout: float = 0.1
    is_decoder: bool = False
    add_cross_attention: bool = False
    num_labels: int = 0
    id2label: Mapping[int, str] | None = field(default=None, hash=False)
    problem_type: ProblemType | None = None

    def __post_init__(self) -> None:
        self._set("hidden_act", Activation(self.hidden_act))
        self._set("summary_type", SummaryType(self.summary_type))
        # Transformers 5 has an empty name for none.
        self._set("summary_activation", Activation(self.summary_activation) if self.summary_activation else None)
        if self.problem_type is not None:
            self._set("problem_type", ProblemType(self.problem_type))
        self._check_sizes()
        self._check_labels()
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("add_cross_attention is true and is_decoder false: only a decoder attends to an encoder")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_sizes(self) -> None:
        for name in (
            "vocab_size",
            "embedding_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        for name in (
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout",
            "summary_last_dropout",
        ):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}, must be at least 0 and below 1")
        for name in ("initializer_range", "layer_norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id is {self.pad_token_id}, must be an id below vocab_size {self.vocab_size}")

    def _check_labels(self) -> None:
        if self.id2label is None:
            self._set("num_labels", self.num_labels or 2)
            return
        names = {int(number): label for number, label in self.id2label.items()}  # JSON's keys are text
        self._set("id2label", names)
        self._set("num_labels", self.num_labels or len(names))
        if sorted(names) != list(range(self.num_labels)):
            raise ValueError(f"id2label names the classes {sorted(names)}, num_labels is {self.num_labels}")

    @property
    def head_dropout(self) -> float:
        """Dropout rate of the heads for texts and tokens."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def label2id(self) -> dict[str, int]:
        """Numbers of the classes by name."""
        return {label: number for number, label in (self.id2label or {}).items()}

    @classmethod
    def from_pretrained(cls, location: str | Path, *, revision: str | None = None, **changes: Any) -> "ElectraConfig":
        """Reads the `config.json` of a folder or hub id; `changes` are fields in the place of its own."""
        from stages.electra.huggingface import config_from_huggingface
        from stages.electra.source import read_config

        return config_from_huggingface(read_config(location, revision=revision)).change(**changes)

    def change(self, **changes: Any) -> Self:
        """A copy with other fields. Names of the classes go where their number changes."""
        if changes.get("num_labels", self.num_labels) != self.num_labels or "id2label" in changes:
            changes = {"num_labels": 0, "id2label": None} | changes
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads the fields back that `to_dict` wrote; an unknown one is an error."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"not fields of a model configuration: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class _Preset:
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    embedding_size: int
    generator_multiplier: float
    mask_fraction: float


# arXiv 2003.10555, table 6. The released small model is 'Small++': its generator has multiplier 1.
_PRESETS = {
    Size.TINY: _Preset(
        num_hidden_layers=4,
        hidden_size=128,
        intermediate_size=512,
        num_attention_heads=2,
        embedding_size=64,
        generator_multiplier=1 / 2,
        mask_fraction=0.15,
    ),
    Size.SMALL: _Preset(
        num_hidden_layers=12,
        hidden_size=256,
        intermediate_size=1024,
        num_attention_heads=4,
        embedding_size=128,
        generator_multiplier=1 / 4,
        mask_fraction=0.15,
    ),
    Size.BASE: _Preset(
        num_hidden_layers=12,
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        embedding_size=768,
        generator_multiplier=1 / 3,
        mask_fraction=0.15,
    ),
    Size.LARGE: _Preset(
        num_hidden_layers=24,
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        embedding_size=1024,
        generator_multiplier=1 / 4,
        mask_fraction=0.25,
    ),
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

        discriminator = ElectraConfig(
            vocab_size=vocab_size,
            embedding_size=chosen("embedding_size"),
            hidden_size=chosen("hidden_size"),
            num_hidden_layers=chosen("num_hidden_layers"),
            num_attention_heads=chosen("num_attention_heads"),
            intermediate_size=chosen("intermediate_size"),
            hidden_act=self.hidden_act,
            hidden_dropout_prob=self.hidden_dropout_prob,
            attention_probs_dropout_prob=self.attention_probs_dropout_prob,
            max_position_embeddings=self.max_position_embeddings,
            type_vocab_size=self.type_vocab_size,
            initializer_range=self.initializer_range,
            layer_norm_eps=self.layer_norm_eps,
            pad_token_id=pad_token_id,
        )
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
        return replace(self, mask_fraction=_PRESETS[Size(size)].mask_fraction)
