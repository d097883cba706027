"""Outputs of the models, with the field names of transformers.

A field that was not asked for is None. Fields are read by name (`output.logits`, `output["logits"]`) or by their
place among those that are there (`output[0]`).

Shapes: `B` batch, `T` tokens, `S` tokens of another encoder, `D` model width, `H` heads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import jax

from stages.electra.attention.attention import Cache


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """The fields that every model's output has.

    Attributes:
      hidden_states: What enters the first layer, then what each layer gives, each [B, T, D].
      attentions: Weights of each layer, [B, H, T, T].
    """

    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        jax.tree_util.register_pytree_with_keys_class(cls)

    def keys(self) -> list[str]:
        """Names of the fields that are there; those of the subclass come first."""
        names = [field.name for field in fields(self)]
        shared = len(fields(ModelOutput))
        return [name for name in names[shared:] + names[:shared] if getattr(self, name) is not None]

    def values(self) -> list[Any]:
        """The fields that are there, in the order of `keys`."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Names and fields."""
        return list(zip(self.keys(), self.values(), strict=True))

    def get(self, key: str, default: Any = None) -> Any:
        """A field, or `default` where it is not there."""
        return self[key] if key in self.keys() else default

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are there."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(field.name), getattr(self, field.name)) for field in fields(self)], None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Self:
        return cls(**dict(zip([field.name for field in fields(cls)], children, strict=True)))


@dataclass(frozen=True, kw_only=True)
class BaseModelOutput(ModelOutput):
    """Of `ElectraModel`; `last_hidden_state` is [B, T, D]."""

    last_hidden_state: jax.Array
    cross_attentions: tuple[jax.Array, ...] | None = None
    past_key_values: Cache | None = None


@dataclass(frozen=True, kw_only=True)
class HeadOutput(ModelOutput):
    """Of a model with a head; `loss` is there where labels were given."""

    loss: jax.Array | None = None
    logits: jax.Array


@dataclass(frozen=True, kw_only=True)
class CausalLMOutput(ModelOutput):
    """Of `ElectraForCausalLM`; `cross_attentions` are [B, H, T, S] for each layer.

    `past_key_values` are there where some were given, and go into the next call.
    """

    loss: jax.Array | None = None
    logits: jax.Array
    cross_attentions: tuple[jax.Array, ...] | None = None
    past_key_values: Cache | None = None


@dataclass(frozen=True, kw_only=True)
class GenerateOutput(ModelOutput):
    """Of `generate`; `sequences` are [B, T], the prompts and what follows them."""

    sequences: jax.Array


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOutput(ModelOutput):
    """Of `ElectraForQuestionAnswering`; both logits are [B, T]."""

    loss: jax.Array | None = None
    start_logits: jax.Array
    end_logits: jax.Array
