"""The configuration of an ELECTRA model.

Imports nothing heavy: every configuration is checked before any stage runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cluster.nearest import did_you_mean

IGNORED = -100  # label of what is neither trained on nor scored, as in transformers


class Activation(StrEnum):
    """Activation of the feed-forward layers and the discriminator head.

    `gelu` is the exact one (erf), `gelu_new` its tanh approximation.
    """

    GELU = "gelu"
    GELU_NEW = "gelu_new"
    RELU = "relu"
    TANH = "tanh"


class Rematerialize(StrEnum):
    """What the backward pass computes anew, to save memory, instead of keeping it from the forward pass.

    NONE: only what is no matrix product and no softmax. DOTS: all of attention's weights too. LAYERS: all of a layer
    but what enters it.
    """

    NONE = "none"
    DOTS = "dots"
    LAYERS = "layers"


class HeadKind(StrEnum):
    """Which head classifies texts and answers questions: transformers' or the original code's."""

    HUGGINGFACE = "huggingface"
    ORIGINAL = "original"


class SummaryType(StrEnum):
    """Which token stands for a text where choices are compared; `cls_index` without an index is the last."""

    FIRST = "first"
    LAST = "last"
    MEAN = "mean"
    CLS_INDEX = "cls_index"


class ProblemType(StrEnum):
    """Kind of the labels of a text."""

    REGRESSION = "regression"
    SINGLE_LABEL = "single_label_classification"
    MULTI_LABEL = "multi_label_classification"


# What a `config.json` of transformers may say beside the network, and the classes of `stages.electra.models` heed.
_ELSEWHERE = ("finetuning_task", "output_attentions", "output_hidden_states", "return_dict")


@dataclass(frozen=True, kw_only=True)
class ElectraConfig:
    """One transformer with its embeddings. Names and defaults are those of a Hugging Face `config.json`.

    Attributes:
      classifier_dropout: Of the heads for texts and tokens; None takes `hidden_dropout_prob`.
      summary_type: With the other `summary_` fields, how `ElectraForMultipleChoice` reads a choice.
      is_decoder: Tokens attend to themselves and those before them only.
      add_cross_attention: A decoder's layers attend to another encoder's states as well.
      num_labels: Classes of a fine-tuned head; 0 counts `id2label`, or is 2 without it.
      id2label: Names of the classes by number; without it `LABEL_0`, `LABEL_1`, …
      problem_type: What a text's labels are; None reads it off the labels.
      extra: What a `config.json` says besides (`finetuning_task`), kept and read as attributes too. Two configurations
        that differ in it alone are equal: it changes no logits.
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
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    if not TYPE_CHECKING:  # a type checker is to refuse what no field is

        def __getattr__(self, name: str) -> Any:
            extra = self.__dict__.get("extra", {})
            if name in extra:
                return extra[name]
            raise AttributeError(f"a model configuration has no {name}.{did_you_mean(name, self.__dataclass_fields__)}")

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
        names = {int(number): label for number, label in (self.id2label or {}).items()}  # JSON's keys are text
        if names == default_labels(len(names)):  # nobody named them
            count = self.num_labels or len(names) or 2
            names = default_labels(count)
        else:
            count = self.num_labels or len(names)
        self._set("id2label", names)
        self._set("num_labels", count)
        if sorted(names) != list(range(count)):
            raise ValueError(f"id2label names the classes {sorted(names)}, num_labels is {count}")

    @property
    def has_named_labels(self) -> bool:
        """Whether somebody gave the classes names."""
        return self.id2label != default_labels(self.num_labels)

    @property
    def is_encoder_decoder(self) -> bool:
        """False: code for any model of transformers asks."""
        return False

    @property
    def head_dropout(self) -> float:
        """Dropout rate of the heads for texts and tokens."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def label2id(self) -> dict[str, int]:
        """Numbers of the classes by name."""
        return {label: number for number, label in (self.id2label or {}).items()}

    @classmethod
    def from_pretrained(
        cls,
        location: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        trust_remote_code: bool = False,
        **changes: Any,
    ) -> "ElectraConfig":
        """Reads the `config.json` of a folder or hub id; `changes` are fields in the place of its own.

        For what is between them see `HubAccess`. `trust_remote_code` is taken and not needed: no code is ever read.
        """
        from stages.electra.files.config_json import config_from_huggingface
        from stages.electra.files.hub import HubAccess
        from stages.electra.files.locate import read_config

        access = HubAccess(
            token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
        )
        return config_from_huggingface(read_config(location, revision=revision, access=access)).change(**changes)

    def change(self, **changes: Any) -> Self:
        """A copy with other fields, or with other words of `extra`. Names of the classes go where their number changes.

        Raises:
          TypeError: There is no such field.
          ValueError: `label2id` is not the inverse of `id2label`.
        """
        if (label2id := changes.pop("label2id", None)) is not None:
            numbers = {int(number): label for label, number in label2id.items()}
            names = changes.setdefault("id2label", numbers)
            if {int(number): label for number, label in names.items()} != numbers:
                raise ValueError(f"label2id is {label2id}, which is not the inverse of id2label, {names}")
        known, extra = self.__dataclass_fields__, {}
        for name in sorted(changes.keys() - known.keys()):
            if name not in self.extra and name not in _ELSEWHERE:
                raise TypeError(f"{name} is no field of a model configuration.{did_you_mean(name, known)}")
            extra[name] = changes.pop(name)
        if changes.get("num_labels", self.num_labels) != self.num_labels or "id2label" in changes:
            changes = {"num_labels": 0, "id2label": None} | changes
        changes.setdefault("extra", {**self.extra, **extra})
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads the fields back that `to_dict` wrote; an unknown one is an error."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"not fields of a model configuration: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, and what `extra` holds. Names that nobody gave the classes are None."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "extra"}
        values["id2label"] = dict(self.id2label or {}) if self.has_named_labels else None
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in values.items()} | {
            **self.extra
        }


def default_labels(count: int) -> dict[int, str]:
    """The names that transformers gives classes which have none."""
    return {number: f"LABEL_{number}" for number in range(count)}
