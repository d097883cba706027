"""Base of the classes in `stages.electra.models.classes`: parameters, the compiled call, files.

Shapes: `B` batch, `T` tokens, `S` tokens of another encoder, `N` choices, `E` embedding width.
"""

import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from upath import UPath

from stages.electra.attention import Cache, Source
from stages.electra.config import ElectraConfig
from stages.electra.files.card import ModelCard, default_card
from stages.electra.files.google_tf import Part
from stages.electra.files.huggingface import (
    Architecture,
    config_from_huggingface,
    flatten,
    match_huggingface,
    unflatten,
)
from stages.electra.files.locate import read_model
from stages.electra.files.model_folder import save_pretrained
from stages.electra.joint_model import Params, merge, split
from stages.electra.layers import split_keys
from stages.electra.models.outputs import ModelOutput
from stages.electra.network import Network
from stages.electra.tokenizer import ElectraTokenizer, check_vocabulary

logger = logging.getLogger(__name__)

Inputs = dict[str, jax.Array]


class ElectraPreTrainedModel(ABC):
    """A configuration, parameters, and the function that they make.

    Attributes:
      config: The network and its head.
      params: `{"embeddings": …, "encoder": …, "head": …}`, float32.
      dtype: What matrix products take in; they add up in float32, and outputs are float32.
    """

    architecture: ClassVar[Architecture]

    def __init__(
        self, config: ElectraConfig, *, seed: int = 0, dtype: DTypeLike = jnp.float32, params: Params | None = None
    ) -> None:
        """`params` are random, of this seed, where none are given."""
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.params = self.init_params(config, seed=seed) if params is None else jax.tree.map(jnp.asarray, params)

    @classmethod
    def init_params(cls, config: ElectraConfig, *, seed: int) -> Params:
        """Random parameters as the paper starts from."""
        return jax.jit(lambda key: split(cls._network(config, key=key))[1])(jax.random.key(seed))

    @classmethod
    def from_pretrained(
        cls,
        location: str | Path | UPath,
        *,
        revision: str | None = None,
        dtype: DTypeLike = jnp.float32,
        config: ElectraConfig | None = None,
        seed: int = 0,
        part: Part | None = None,
        **changes: Any,
    ) -> Self:
        """Reads a model, of this class or another.

        Parameters that the files lack are random; one warning names them and the tensors that were left over.

        Args:
          location: A folder on any file system, a hub id (`google/electra-small-discriminator`), or a TensorFlow
            checkpoint of the original code.
          revision: Branch, tag or commit of a hub id.
          dtype: What matrix products take in; parameters are float32 whatever they were saved in.
          config: In the place of the files' own.
          seed: Of the parameters that are random.
          part: Which network of a TensorFlow checkpoint; None takes the one that this class is made for.
          changes: Fields of the configuration (`num_labels=3`).

        Raises:
          FileNotFoundError: There is no such model, or a file of it is missing.
          ConversionError: A tensor has another shape than the configuration says.
          ValueError: A file is damaged, the configuration is not one of ELECTRA, or the vocabulary has more tokens
            than the embedding table rows.
        """
        if part is None:
            is_generator = cls.architecture in (Architecture.MASKED_LM, Architecture.CAUSAL_LM)
            part = Part.GENERATOR if is_generator else Part.DISCRIMINATOR
        files = read_model(location, revision=revision, part=part)
        if config is None:
            config = config_from_huggingface(files.values)
        config = config.change(**changes)
        check_vocabulary(files.tokenizer.get("vocab.txt", b""), config, source=f"{location}: vocab.txt")
        match = match_huggingface(files.tensors, config=config, architecture=cls.architecture, source=str(location))
        params = unflatten(match.params)
        if match.missing:
            params = unflatten(flatten(cls.init_params(config, seed=seed)) | match.params)
        if match.missing or match.unexpected:
            logger.warning("%s", _describe(cls, str(location), missing=match.missing, unexpected=match.unexpected))
        return cls(config, dtype=dtype, params=params)

    def save_pretrained(
        self, folder: str | Path | UPath, *, tokenizer: ElectraTokenizer | None = None, card: ModelCard | None = None
    ) -> None:
        """Writes a folder that transformers loads: `config.json`, `model.safetensors`, `README.md`, the tokenizer's.

        Raises:
          ValueError: The tokenizer has more tokens than the embedding table rows.
        """
        if tokenizer is not None:
            tokenizer.check(self.config)
        save_pretrained(
            UPath(folder),
            architecture=self.architecture,
            config=self.config,
            params=self.params,
            card=card or default_card(self.architecture, self.config),
        )
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        tokenizer: ElectraTokenizer | None = None,
        card: ModelCard | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload an ELECTRA model",
    ) -> str:
        """Uploads what `save_pretrained` writes and returns the address of the commit. The token is the hub's own."""
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, tokenizer=tokenizer, card=card)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
        return str(commit.commit_url)

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
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        past_key_values: Cache | None = None,
        **more: ArrayLike | None,
    ) -> Any:
        """Runs the model.

        Args:
          input_ids: Token ids [B, T]; [B, N, T] for choices.
          attention_mask: 1 at real tokens; without it all are.
          token_type_ids: 0 in the first segment and 1 in the second; without it all are 0.
          position_ids: Places in the text; without it they count from 0.
          inputs_embeds: Vectors [B, T, E] in the place of `input_ids`.
          params: In the place of the model's own.
          train: Whether there is dropout, drawn from `dropout_rng`.
          output_hidden_states: Keep those of every layer.
          output_attentions: Keep the weights of every layer.
          return_dict: Whether the result is an object, or a tuple of the fields that are there.
          past_key_values: Of a decoder, what `init_cache` or the call before gave: the inputs come after its tokens,
            and `attention_mask` is of all that it has room for.
          more: `labels`, and what else the class takes.

        Raises:
          ValueError: An argument is missing, of the wrong shape, or an id is out of range.
          TypeError: An argument that this class does not take.
        """
        if unknown := sorted(more.keys() - set(self._extra)):
            raise TypeError(f"{type(self).__name__} takes no {', '.join(unknown)}; it takes {', '.join(self._extra)}")
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
        self._check_ids(given)
        output = _run(
            self.params if params is None else params,
            {name: jnp.asarray(value) for name, value in given.items() if value is not None},
            typed_key(dropout_rng) if train and dropout_rng is not None else None,
            past_key_values,
            model=type(self),
            config=self.config,
            dtype=self.dtype,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return output if return_dict else output.to_tuple()

    def _check_ids(self, given: Mapping[str, Any]) -> None:
        """Inputs on the host are looked at; a gather on a device would take the nearest row and say nothing."""
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

    # What a class is made of: its network, its arguments and its output.

    _network: ClassVar[type[Network]]
    _extra: ClassVar[tuple[str, ...]] = ("labels",)
    _has_choices: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def _output(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> ModelOutput: ...


def _describe(
    model: type[ElectraPreTrainedModel], location: str, *, missing: tuple[str, ...], unexpected: tuple[str, ...]
) -> str:
    parts = [f"{location} as {model.__name__}:"]
    if missing:
        parts.append(f"not in the files and random, to be trained: {', '.join(missing)}.")
    if unexpected:
        parts.append(f"in the files and not used: {', '.join(unexpected)}.")
    return " ".join(parts)


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
