"""A model's configuration and parameters: made, loaded, renamed, saved. Calls are in `pretrained_model`."""

import logging
import tempfile
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax.core import FrozenDict, unfreeze
from flax.serialization import to_bytes
from jax.typing import DTypeLike
from upath import UPath

from cluster.storage import write_bytes, write_json
from stages.electra.config import ElectraConfig
from stages.electra.files.card import ModelCard, default_card
from stages.electra.files.config_json import as_config, config_from_huggingface
from stages.electra.files.google_tf import Part
from stages.electra.files.hub import HubAccess
from stages.electra.files.huggingface import Architecture, Match, flatten, match_huggingface, unflatten
from stages.electra.files.locate import read_model
from stages.electra.files.model_folder import save_pretrained
from stages.electra.files.upload import upload_folder
from stages.electra.files.v4_names import from_v4_names, has_v4_names, to_v4_names
from stages.electra.joint_model import Params, split
from stages.electra.network import Network
from stages.electra.tokenizer import ElectraTokenizer, check_vocabulary

logger = logging.getLogger(__name__)

_MSGPACK, _SAFETENSORS = "flax_model.msgpack", "model.safetensors"
# Arguments of transformers v4 that are refused, and what takes their place.
_REFUSED = {
    "_do_init": "parameters are plain arrays: take `model.params` and hand them to the call (`params=…`)",
    "input_shape": "parameters do not depend on it: leave it out",
    "gradient_checkpointing": "wrap the loss in jax.checkpoint",
    "max_shard_size": "the weights are one file (ELECTRA large has 1.3 GB)",
    "use_auth_token": "it is `token` now",
}


class StoredModel(ABC):
    """A configuration and parameters.

    Attributes:
      config: The network and its head.
      dtype: What matrix products take in; they add up in float32, and outputs are float32.
    """

    architecture: ClassVar[Architecture]
    base_model_prefix: ClassVar[str] = "electra"  # of embeddings and encoder, in v4's names of parameters
    main_input_name: ClassVar[str] = "input_ids"
    _network: ClassVar[type[Network]]

    def __init__(
        self,
        config: ElectraConfig,
        *,
        seed: int = 0,
        dtype: DTypeLike = jnp.float32,
        params: Params | None = None,
        **refused: Any,
    ) -> None:
        """`params` are random, of this seed, where none are given. `config` may be one of transformers."""
        _refuse(type(self), refused)
        self.config = as_config(config)
        self.dtype = jnp.dtype(dtype)
        self.params = self.init_params(self.config, seed=seed) if params is None else params

    @property
    def params(self) -> Params:
        """`{"embeddings": …, "encoder": …, "head": …}`, float32; after `model.params = model.to_v4_params()`, v4's."""
        return self._params

    @params.setter
    def params(self, params: Params | FrozenDict) -> None:
        self._params: Params = jax.tree.map(jnp.asarray, unfreeze(params))

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model goes on from prompts."""
        return hasattr(cls, "generate")

    @classmethod
    def init_params(cls, config: ElectraConfig, *, seed: int) -> Params:
        """Random parameters as the paper starts from."""
        return jax.jit(lambda key: split(cls._network(config, key=key))[1])(jax.random.key(seed))

    def to_v4_params(self, params: Params | FrozenDict | None = None) -> Params:
        """Parameters, or a tree with other leaves (a mask), under the names of v4's Flax class.

        Whatever takes parameters here takes them under either names. A mask or optimizer by v4's names so needs one
        line: `model.params = model.to_v4_params()`.

        Args:
          params: The tree; None is the model's own.

        Raises:
          ConversionError: A parameter is missing, or one too many.
        """
        params = unfreeze(self.params if params is None else params)
        if has_v4_names(params):
            return params
        return to_v4_names(params, config=self.config, architecture=self.architecture)

    def from_v4_params(self, params: Params | FrozenDict) -> Params:
        """Reverses `to_v4_params`; a tree with our names stays as it is."""
        params = unfreeze(params)
        if not has_v4_names(params):
            return params
        return from_v4_names(params, config=self.config, architecture=self.architecture)

    def to_bf16(self, params: Params, mask: Any = None) -> Params:
        """Parameters in bfloat16, as a new tree; with a mask, those of which it is true."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params, mask: Any = None) -> Params:
        """Likewise in float16."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Params, mask: Any = None) -> Params:
        """Likewise in float32."""
        return _cast(params, jnp.float32, mask)

    @classmethod
    def from_pretrained(
        cls,
        location: str | Path | UPath,
        *,
        revision: str | None = None,
        dtype: DTypeLike = jnp.float32,
        config: Any = None,
        seed: int = 0,
        part: Part | None = None,
        ignore_mismatched_sizes: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        from_pt: bool = False,
        trust_remote_code: bool = False,
        **changes: Any,
    ) -> Self:
        """Reads a model, of this class or another.

        Parameters that the files lack are random; one warning names them and the tensors that were left over.

        Args:
          location: A folder on any file system, a hub id (`google/electra-small-discriminator`), or a TensorFlow
            checkpoint of the original code.
          revision: Branch, tag or commit of a hub id.
          dtype: What matrix products take in; parameters are float32 whatever they were saved in.
          config: In the place of the files' own: ours, one of transformers, or the folder or hub id of one.
          seed: Of the parameters that are random.
          part: Which network of a TensorFlow checkpoint; None takes the one that this class is made for.
          ignore_mismatched_sizes: Whether tensors of another shape than the configuration says are left out as if
            they were missing.
          token: See `HubAccess`, also for the three after it.
          cache_dir: Likewise.
          local_files_only: Likewise.
          force_download: Likewise.
          from_pt: Taken and not needed: files of PyTorch are read wherever they are.
          trust_remote_code: Taken and not needed: no code is ever read from a model's folder.
          changes: Fields of the configuration (`num_labels=3`).

        Raises:
          FileNotFoundError: There is no such model, or a file of it is missing.
          ConversionError: A tensor has another shape than the configuration says.
          TypeError: An argument is no field of the configuration.
          ValueError: A file is damaged, the configuration is not one of ELECTRA, or the vocabulary has more tokens
            than the embedding table rows.
        """
        _refuse(cls, {name: value for name, value in changes.items() if name in _REFUSED})
        if part is None:
            is_generator = cls.architecture in (Architecture.MASKED_LM, Architecture.CAUSAL_LM)
            part = Part.GENERATOR if is_generator else Part.DISCRIMINATOR
        access = HubAccess(
            token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
        )
        files = read_model(location, revision=revision, part=part, access=access)
        config = config_from_huggingface(files.values) if config is None else as_config(config)
        config = config.change(**changes)
        check_vocabulary(files.tokenizer.get("vocab.txt", b""), config, source=f"{location}: vocab.txt")
        match = match_huggingface(
            files.tensors,
            config=config,
            architecture=cls.architecture,
            source=str(location),
            skip_mismatched=ignore_mismatched_sizes,
        )
        params = unflatten(match.params)
        if match.missing:
            params = unflatten(flatten(cls.init_params(config, seed=seed)) | match.params)
        if match.missing or match.unexpected:
            logger.warning("%s", _describe(cls, str(location), match))
        return cls(config, dtype=dtype, params=params)

    def save_pretrained(
        self,
        folder: str | Path | UPath,
        params: Params | FrozenDict | None = None,
        push_to_hub: bool = False,
        *,
        tokenizer: ElectraTokenizer | None = None,
        card: ModelCard | None = None,
        safe_serialization: bool = True,
        repo_id: str | None = None,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str = "Upload an ELECTRA model",
        **refused: Any,
    ) -> None:
        """Writes a folder that transformers loads: `config.json`, `model.safetensors`, `README.md`, the tokenizer's.

        Args:
          folder: Made where it is missing; files of the same names, and other weights, are replaced.
          params: In the place of the model's own.
          push_to_hub: Whether to upload the folder too.
          tokenizer: Saved beside the model.
          card: The README.md; None says what is known.
          safe_serialization: Whether the weights are `model.safetensors`, or else v4's `flax_model.msgpack`.
          repo_id: Where to upload to; None takes the folder's name.
          token: Of the hub; None takes the one that was logged in with.
          private: Whether a new repository is private.
          commit_message: Of the upload.
          refused: Arguments of transformers v4 that mean nothing here; the error says what to do instead.

        Raises:
          ValueError: The tokenizer has more tokens than the embedding table rows.
        """
        _refuse(type(self), refused)
        if tokenizer is not None:
            tokenizer.check(self.config)
        target = UPath(folder)
        ours = self.from_v4_params(self.params if params is None else params)
        save_pretrained(
            target,
            architecture=self.architecture,
            config=self.config,
            params=ours,
            card=card or default_card(self.architecture, self.config),
        )
        if self.can_generate():
            write_json(target / "generation_config.json", {"pad_token_id": self.config.pad_token_id})
        if not safe_serialization:
            write_bytes(target / _MSGPACK, to_bytes(jax.device_get(self.to_v4_params(ours))))
        # Else whoever looks for the other format first would read weights of an earlier save.
        (target / (_MSGPACK if safe_serialization else _SAFETENSORS)).unlink(missing_ok=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder, max_length=self.config.max_position_embeddings)
        if push_to_hub:
            upload_folder(target, repo_id or target.name, token=token, private=private, message=commit_message)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        tokenizer: ElectraTokenizer | None = None,
        card: ModelCard | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload an ELECTRA model",
    ) -> str:
        """Uploads what `save_pretrained` writes and returns the address of the commit."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, tokenizer=tokenizer, card=card)
            return upload_folder(
                UPath(folder), repo_id, token=token, private=private, revision=revision, message=commit_message
            )


def _cast(params: Params, dtype: DTypeLike, mask: Any) -> Params:
    def cast(leaf: jax.Array, is_chosen: bool = True) -> jax.Array:
        return leaf.astype(dtype) if is_chosen and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, params) if mask is None else jax.tree.map(cast, params, mask)


def _refuse(model: type[StoredModel], arguments: Mapping[str, Any]) -> None:
    """Raises TypeError for arguments of v4 that have no meaning here, with what to do instead, and for all others."""
    for name in arguments:
        raise TypeError(f"{model.__name__} takes no {name}" + (f": {_REFUSED[name]}" if name in _REFUSED else ""))


def _describe(model: type[StoredModel], location: str, match: Match) -> str:
    parts = [f"{location} as {model.__name__}:"]
    if match.missing:
        parts.append(f"not in the files and random, to be trained: {', '.join(match.missing)}.")
    if match.mismatched:
        parts.append(f"of these, some have other shapes in the files: {'; '.join(match.mismatched)}.")
    if match.unexpected:
        parts.append(f"in the files and not used: {', '.join(match.unexpected)}.")
    return " ".join(parts)
