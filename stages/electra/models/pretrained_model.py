"""Base of the classes in `stages.electra.models.classes`: the compiled call.

Shapes: `B` batch, `T` tokens, `S` tokens of another encoder, `N` choices, `E` embedding width.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from stages.electra.attention.attention import Cache, Source
from stages.electra.config import ElectraConfig
from stages.electra.joint_model import Params, merge, split
from stages.electra.layers import split_keys
from stages.electra.models.outputs import ModelOutput
from stages.electra.models.stored_model import StoredModel

Inputs = dict[str, jax.Array]


# What every class takes, if only as None, since v4's classes do.
_OPTIONAL = ("labels", "encoder_hidden_states", "encoder_attention_mask")


class ElectraPreTrainedModel(StoredModel):
    """A configuration, parameters, and the function that they make."""

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        inputs_embeds: ArrayLike | None = None,
        *,
        params: Params | None = None,
        train: bool = False,
        dropout_rng: jax.Array | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Cache | None = None,
        head_mask: None = None,
        **more: ArrayLike | None,
    ) -> Any:
        """Runs the model.

        Args:
          input_ids: Token ids [B, T]; [B, N, T] for choices.
          attention_mask: 1 at real tokens; without it all are.
          token_type_ids: 0 in the first segment and 1 in the second; without it all are 0.
          position_ids: Places in the text; without it they count from 0.
          inputs_embeds: Vectors [B, T, E] in the place of `input_ids`.
          params: In the place of the model's own, under our names or v4's (see `to_v4_params`).
          train: Whether there is dropout, drawn from `dropout_rng`.
          output_hidden_states: Keep those of every layer; None asks the configuration, which says no by default.
          output_attentions: Keep the weights of every layer; None likewise.
          return_dict: Whether the result is an object, or a tuple of the fields that are there; None likewise, an
            object by default.
          past_key_values: Of a decoder, what `init_cache` or the call before gave: the inputs come after its tokens,
            and `attention_mask` is of all that it has room for.
          head_mask: Must be None: heads are not masked.
          more: `labels`, and what else the class takes.

        Raises:
          ValueError: An argument is missing, of the wrong shape, or an id is out of range.
          TypeError: An argument that this class does not take.
        """
        taken = {*self._extra, *(name for name in _OPTIONAL if more.get(name) is None)}
        if unknown := sorted(more.keys() - taken):
            raise TypeError(f"{type(self).__name__} takes no {', '.join(unknown)}; it takes {', '.join(self._extra)}")
        if head_mask is not None:
            raise ValueError("head_mask is given, but heads are not masked: leave it out")
        if more.get("encoder_hidden_states") is not None and not self.config.add_cross_attention:
            raise ValueError("encoder_hidden_states are given, but the config's add_cross_attention is false")
        if past_key_values is not None and not self.config.is_decoder:
            raise ValueError("past_key_values are given, but the config's is_decoder is false")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give one of input_ids and inputs_embeds")
        if train and dropout_rng is None:
            raise ValueError("train=True needs dropout_rng, a key of jax.random")
        given = more | {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        given |= self._check_ids(given)
        settings = self.config.extra

        def choose(given: bool | None, name: str, default: bool) -> bool:
            return bool(settings.get(name, default) if given is None else given)

        output = _run(
            self.from_v4_params(self.params if params is None else params),
            {name: jnp.asarray(value) for name, value in given.items() if value is not None},
            typed_key(dropout_rng) if train and dropout_rng is not None else None,
            past_key_values,
            model=type(self),
            config=self.config,
            dtype=self.dtype,
            output_hidden_states=choose(output_hidden_states, "output_hidden_states", False),
            output_attentions=choose(output_attentions, "output_attentions", False),
        )
        return output if choose(return_dict, "return_dict", True) else output.to_tuple()

    def _check_ids(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The ids among the inputs, as whole numbers.

        Those on the host are looked at; a gather on a device would take the nearest row and say nothing.
        """
        ids = {}
        for name, limit, field in (
            ("input_ids", self.config.vocab_size, "vocab_size"),
            ("token_type_ids", self.config.type_vocab_size, "type_vocab_size"),
            ("position_ids", self.config.max_position_embeddings, "max_position_embeddings"),
        ):
            value = given[name]
            if value is None or isinstance(value, jax.Array):
                continue
            array = np.asarray(value)
            if array.size and not 0 <= array.min() <= array.max() < limit:
                raise ValueError(f"{name} reach from {array.min()} to {array.max()}, {field} is {limit}")
            ids[name] = array.astype(np.int32)
            if not np.array_equal(ids[name], array):
                raise ValueError(f"{name} are not whole numbers")
        return ids

    # What a class is made of besides its network: its arguments and its output.

    _extra: ClassVar[tuple[str, ...]] = ("labels",)
    _has_choices: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def _output(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> ModelOutput: ...


def typed_key(key: jax.Array) -> jax.Array:
    """A typed key, also from a key of the old style (`jax.random.PRNGKey`)."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


@partial(jax.jit, static_argnames=("model", "config", "dtype", "output_hidden_states", "output_attentions"))
def _run(
    params: Params,
    inputs: Inputs,
    key: jax.Array | None,
    cache: Cache | None,
    *,
    model: type[ElectraPreTrainedModel],
    config: ElectraConfig,
    dtype: DTypeLike,
    output_hidden_states: bool,
    output_attentions: bool,
) -> ModelOutput:
    network = network_of(model, config, params)
    words = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
    if model._has_choices:  # they are rows of the encoder
        words = words.reshape(-1, *words.shape[2:])
    shape = words.shape[:2]

    def rows(name: str, default: int, width: int = shape[1]) -> jax.Array:
        value = inputs[name].reshape(-1, width) if name in inputs else jnp.int32(default)
        return jnp.broadcast_to(value, (shape[0], width))

    positions_BT = rows("position_ids", 0) if "position_ids" in inputs else None
    if cache is not None and positions_BT is None:
        positions_BT = jnp.broadcast_to(cache.num_tokens + jnp.arange(shape[1]), shape)
    keys = split_keys(None if key is None else jax.random.split(key, shape[0]), 2)
    mask = rows("attention_mask", 1, shape[1] if cache is None else cache.max_length)
    encoded = network.encode(
        words,
        mask,
        rows("token_type_ids", 0),
        positions_BT=positions_BT,
        source=_source(inputs),
        key_B=keys[0],
        dtype=dtype,
        cache=cache,
        with_hidden_states=output_hidden_states,
        with_attentions=output_attentions,
    )
    output = model._output(network.logits(encoded.last_BTD, mask, key_B=keys[1], dtype=dtype), inputs, config)
    more: dict[str, Any] = {}
    if output_attentions and encoded.cross_attentions:
        more["cross_attentions"] = encoded.cross_attentions
    if cache is not None:
        more["past_key_values"] = encoded.cache
    return replace(
        output,
        hidden_states=encoded.hidden_states if output_hidden_states else None,
        attentions=encoded.attentions if output_attentions else None,
        **more,
    )


def network_of(model: type[ElectraPreTrainedModel], config: ElectraConfig, params: Params) -> Any:
    """The model's network around `params`, to be called inside a compiled function."""
    structure, _ = jax.eval_shape(lambda: split(model._network(config, key=jax.random.key(0))))
    return merge(structure, params)


def _source(inputs: Inputs) -> Source | None:
    if "encoder_hidden_states" not in inputs:
        return None
    x_BSD = inputs["encoder_hidden_states"]
    mask_BS = inputs.get("encoder_attention_mask", jnp.ones(x_BSD.shape[:2], jnp.int32))
    return Source(x_BSD, mask_BS.astype(bool))
