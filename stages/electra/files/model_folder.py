"""Models in files: Hugging Face folders in and out, and the pretraining stage's own parameters."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from upath import UPath

from cluster.storage import write_bytes, write_json, write_text
from stages.electra.config import ElectraConfig
from stages.electra.files.card import ModelCard
from stages.electra.files.config_json import config_from_huggingface, config_to_huggingface
from stages.electra.files.hub import OWN_HEAD
from stages.electra.files.huggingface import (
    Architecture,
    backbone_from_huggingface,
    flatten,
    from_huggingface,
    to_huggingface,
    unflatten,
    with_dense,
)
from stages.electra.files.locate import read_model, read_tokenizer_files
from stages.electra.tokenizer import check_vocabulary, frame, parse_tokenizer, transformers_settings


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model read from a Hugging Face folder.

    Attributes:
      architecture: The class of transformers it was saved for.
      config: Its network and its classes.
      params: `{"embeddings": …, "encoder": …, "head": …}`, numpy arrays of float32.
      own_head: Parameters of the head it was trained with, where that is none of transformers'.
    """

    architecture: Architecture
    config: ElectraConfig
    params: dict[str, Any]
    own_head: dict[str, Any] | None = None


def save_pretrained(
    folder: UPath,
    *,
    architecture: str,
    config: ElectraConfig,
    params: Mapping[str, Any],
    tokenizer: UPath | None = None,
    card: ModelCard | None = None,
    own_head: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder that transformers loads as `architecture`.

    The original's head of a text is written as transformers': the same function, to float32's rounding.

    Args:
      folder: Made where it is missing; files of the same names are replaced.
      architecture: Name of a class in `Architecture`.
      config: The network and its classes.
      params: `{"embeddings": …, "encoder": …, "head": …}`, as `split` gives them.
      tokenizer: Folder with the tokenizer's files, which are copied; where transformers would make other ids of them
        than the pipeline trains on, they are changed.
      card: The README.md.
      own_head: Parameters of a head that transformers has no class for, in a file of its own, which it ignores.

    Raises:
      ValueError: The vocabulary has more tokens than the embedding table rows.
      ConversionError: `params` are not those of the architecture and configuration.
    """
    kind = Architecture(architecture)
    if kind is Architecture.SEQUENCE_CLASSIFICATION and "dense" not in params["head"]:
        params = with_dense(params)
    tensors = to_huggingface(params, config=config, architecture=kind)
    files = {} if tokenizer is None else _as_trained(read_tokenizer_files(tokenizer), config, source=str(tokenizer))
    check_vocabulary(files.get("vocab.txt", b""), config, source=f"{tokenizer}/vocab.txt")
    folder.mkdir(parents=True, exist_ok=True)
    # 'pt' is what transformers asks for; the bytes are the same for every framework.
    write_bytes(folder / "model.safetensors", safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    write_json(folder / "config.json", config_to_huggingface(config, architecture=kind))
    for name, content in files.items():
        write_bytes(folder / name, content)
    if own_head is not None:
        save_parameters(folder / OWN_HEAD, own_head)
    if card is not None:
        write_text(folder / "README.md", card.render())


def _as_trained(files: dict[str, bytes], config: ElectraConfig, *, source: str) -> dict[str, bytes]:
    """A tokenizer's files by name, from which transformers makes the ids that a model was trained on.

    They say too where texts are to be cut: longer ones than the model has positions for would crash it.

    Raises:
      ValueError: Its tokenizer.json is damaged.
    """
    if not {"tokenizer.json", "vocab.txt"} & files.keys():
        return files
    settings = found = json.loads(files.get("tokenizer_config.json", b"{}"))
    if "tokenizer.json" in files:
        tokenizer = parse_tokenizer(files["tokenizer.json"].decode(), source=f"{source}/tokenizer.json")
        before = tokenizer.to_str()
        frame(tokenizer)
        if tokenizer.to_str() != before:
            files = files | {"tokenizer.json": tokenizer.to_str(pretty=True).encode()}
        settings = found | transformers_settings(tokenizer)
    # Where nobody said so, transformers writes a number without meaning, 1e30.
    longest = min(settings.get("model_max_length") or config.max_position_embeddings, config.max_position_embeddings)
    settings = settings | {"model_max_length": longest}
    if settings != found:
        files = files | {"tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False).encode()}
    return files


def load_pretrained(location: str | Path | UPath, *, revision: str | None = None) -> Pretrained:
    """Reads a whole model from a Hugging Face folder or hub id (at a branch, tag or commit).

    Raises:
      FileNotFoundError: There is no such folder, or it lacks a file.
      ConversionError: Its tensors are not those of its architecture and configuration.
      ValueError: A file is damaged, or its vocabulary has more tokens than the embedding table rows.
    """
    files = read_model(location, revision=revision)
    try:
        architecture = Architecture((files.values.get("architectures") or ["none"])[0])
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from None
    config = config_from_huggingface(files.values)
    check_vocabulary(files.tokenizer.get("vocab.txt", b""), config, source=f"{location}: vocab.txt")
    params = from_huggingface(files.tensors, config=config, architecture=architecture, source=str(location))
    own_head = None if files.own_head is None else unflatten(files.own_head)
    return Pretrained(architecture=architecture, config=config, params=params, own_head=own_head)


def load_backbone(location: str | Path | UPath) -> tuple[ElectraConfig, dict[str, Any]]:
    """Reads configuration and `{"embeddings": …, "encoder": …}`; a head is left behind, and its classes too.

    Args:
      location: A folder on any file system, a hub id (`google/electra-small-discriminator`) or a TensorFlow
        checkpoint of the original code, of which the discriminator is read.

    Raises:
      FileNotFoundError: There is no such folder, or it lacks a file.
      ConversionError: Its tensors are not those of its configuration.
    """
    files = read_model(location)
    config = config_from_huggingface(files.values).change(id2label=None, problem_type=None)
    return config, backbone_from_huggingface(files.tensors, config=config, source=str(location))


def take_network(params: Mapping[str, Any], name: str) -> tuple[Architecture, dict[str, Any]]:
    """One network of a pretrained pair, as a model of its own.

    Args:
      params: Of an `Electra`, numpy arrays.
      name: `discriminator` or `generator`.

    Returns:
      Its class in transformers, and `{"embeddings": …, "encoder": …, "head": …}`. What the two share is in both models:
      the embeddings, unless they are untied; the encoder, where there is one for both.
    """
    embeddings, head = params.get(f"{name}_embeddings", params["embeddings"]), params[f"{name}_head"]
    if name == "discriminator" and "difference" in params:
        embeddings = jax.tree.map(np.add, embeddings, params["difference"])
    # A head with one bias for each word predicts words, whichever network it belongs to.
    architecture = Architecture.MASKED_LM if "bias" in head else Architecture.PRETRAINING
    encoder = params[name if name in params else "discriminator"]
    return architecture, {"embeddings": embeddings, "encoder": encoder, "head": head}


def save_parameters(path: UPath, params: Mapping[str, Any]) -> None:
    """Writes nested parameters as one safetensors file of float32, names joined by slashes."""
    flat = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in flatten(params).items()}
    write_bytes(path, safetensors.numpy.save(flat))


def load_parameters(path: UPath) -> dict[str, Any]:
    """Reads what `save_parameters` wrote."""
    return unflatten(safetensors.numpy.load(path.read_bytes()))
