"""Starts from released weights: a model on the Hugging Face hub, or an earlier export, trained on other text."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from stages.electra.config import ElectraConfig
from stages.electra.files.huggingface import NETWORKS
from stages.electra.files.model_folder import load_pretrained
from stages.electra.sizes import EmbeddingSharing

# What must be as in the weights' own configuration: it shapes a tensor, or a number that they were trained with.
_FIXED = (
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "is_decoder",
)  # fmt: skip


def load_networks(
    *,
    discriminator: tuple[str | None, ElectraConfig | None],
    generator: tuple[str | None, ElectraConfig | None],
    revisions: Mapping[str, str | None] = MappingProxyType({}),
    embedding_sharing: EmbeddingSharing = EmbeddingSharing.SHARED,
    shared_encoder: bool = False,
) -> dict[str, Any]:
    """Parameters of an `Electra` that are taken from Hugging Face folders or hub ids.

    Args:
      discriminator: Where its weights are, and the configuration that they must have; no place leaves it out.
      generator: Likewise.
      revisions: Branch, tag or commit of the hub ids among them, by `discriminator` and `generator`.
      embedding_sharing: How the embeddings of the two belong together.
      shared_encoder: Whether the discriminator's encoder is the generator's too. One of the two models is enough then.

    Returns:
      The top-level entries of the parameters that were read, numpy arrays of float32.

    Raises:
      FileNotFoundError: There is no such model.
      ValueError: A model is of another kind or size, or the embeddings of the two differ and cannot be shared.
    """
    params: dict[str, Any] = {}
    for name, (location, config) in {"discriminator": discriminator, "generator": generator}.items():
        if location is None or config is None:
            continue
        loaded = load_pretrained(location, revision=revisions.get(name))
        if loaded.architecture is not NETWORKS[name]:
            raise ValueError(
                f"pretrain.init_from.{name}: {location} is an {loaded.architecture}, must be {NETWORKS[name]}"
            )
        _check_config(name, location, wanted=config, found=loaded.config)
        if name == "generator" and embedding_sharing is EmbeddingSharing.UNTIED:
            params["generator_embeddings"] = loaded.params["embeddings"]
        elif "embeddings" in params and embedding_sharing is EmbeddingSharing.DISENTANGLED:
            params["difference"] = jax.tree.map(np.subtract, params["embeddings"], loaded.params["embeddings"])
            params["embeddings"] = loaded.params["embeddings"]
        elif "embeddings" not in params:
            params["embeddings"] = loaded.params["embeddings"]
        elif not _equal(params["embeddings"], loaded.params["embeddings"]):
            raise ValueError(
                f"pretrain.init_from: the embeddings of {location} are not those of {discriminator[0]}, so they cannot "
                "be shared: set pretrain.model.embedding_sharing, or give models that were trained together"
            )
        encoder = "discriminator" if shared_encoder else name
        if encoder in params and not _equal(params[encoder], loaded.params["encoder"]):
            raise ValueError(
                f"pretrain.init_from: the layers of {location} are not those of {discriminator[0]}, so they cannot be "
                "shared: give one of the two, or unset pretrain.model.shared_encoder"
            )
        params |= {encoder: loaded.params["encoder"], f"{name}_head": loaded.params["head"]}
    return params


def _equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def _check_config(name: str, location: str, *, wanted: ElectraConfig, found: ElectraConfig) -> None:
    faults = [
        f"{field} is {getattr(found, field)}, this run's {name} has {getattr(wanted, field)}"
        for field in _FIXED
        if getattr(found, field) != getattr(wanted, field)
    ]
    if faults:
        change = "pretrain.model (a generator's widths follow from generator_multiplier)"
        if found.vocab_size != wanted.vocab_size:
            change += " and adopt the model's own vocabulary with vocab.file"
        raise ValueError(f"pretrain.init_from.{name}: {location}: {'; '.join(faults)}; change {change}")
