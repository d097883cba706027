"""Models in files: Hugging Face folders in and out, and the pretraining stage's own parameters."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import safe_open
from upath import UPath

from cluster.storage import local_copy, read_json, write_bytes, write_json, write_text
from stages.electra.card import ModelCard
from stages.electra.config import ElectraConfig
from stages.electra.huggingface import (
    Architecture,
    backbone_from_huggingface,
    config_from_huggingface,
    config_to_huggingface,
    flatten,
    from_huggingface,
    to_huggingface,
    unflatten,
)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model read from a Hugging Face folder.

    Attributes:
      architecture: The class of transformers it was saved for.
      config: Its network.
      params: `{"embeddings": …, "encoder": …, "head": …}`, numpy arrays of float32.
      id2label: Names of its classes by number; None where its head has none.
    """

    architecture: Architecture
    config: ElectraConfig
    params: dict[str, Any]
    id2label: dict[int, str] | None


def save_pretrained(
    folder: UPath,
    *,
    architecture: str,
    config: ElectraConfig,
    params: Mapping[str, Any],
    tokenizer: UPath | None = None,
    id2label: Mapping[int, str] | None = None,
    problem_type: str | None = None,
    card: ModelCard | None = None,
) -> None:
    """Writes a folder that transformers loads as `architecture`.

    Args:
      folder: Made where it is missing; files of the same names are replaced.
      architecture: Name of a class in `Architecture`.
      config: The network.
      params: `{"embeddings": …, "encoder": …, "head": …}`, as `split` gives them.
      tokenizer: Folder with `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`.
      id2label: Class names; required for sequence and token classification.
      problem_type: `regression`, `single_label_classification` or None.
      card: The README.md.

    Raises:
      ValueError: Labels are missing where the architecture has them.
      ConversionError: `params` are not those of the architecture and configuration.
    """
    kind = Architecture(architecture)
    has_classes = kind in (Architecture.SEQUENCE_CLASSIFICATION, Architecture.TOKEN_CLASSIFICATION)
    if has_classes and not id2label:
        raise ValueError(f"{kind} needs id2label: the names of its classes")
    if kind is Architecture.SEQUENCE_CLASSIFICATION and "dense" not in params.get("head", {}):
        raise ValueError(
            f"{kind} of transformers has a dense layer in its head, which the original's head lacks: "
            "fine-tune with head 'huggingface' to export"
        )
    tensors = to_huggingface(params, config=config, architecture=kind, num_labels=len(id2label) if id2label else 2)
    folder.mkdir(parents=True, exist_ok=True)
    # 'pt' is what transformers asks for; the bytes are the same for every framework.
    write_bytes(folder / _WEIGHTS, safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    write_json(
        folder / "config.json",
        config_to_huggingface(config, architecture=kind, id2label=id2label, problem_type=problem_type),
    )
    if tokenizer is not None:
        for name in _TOKENIZER_FILES:
            write_bytes(folder / name, (tokenizer / name).read_bytes())
    if card is not None:
        write_text(folder / "README.md", card.render())


def load_pretrained(location: str | UPath) -> Pretrained:
    """Reads a whole model from a Hugging Face folder or hub id.

    Raises:
      FileNotFoundError: There is no such folder, or it lacks a file.
      ConversionError: Its tensors are not those of its architecture and configuration.
    """
    with ExitStack() as stack:
        folder = _local_folder(location, stack)
        values = _read_config(folder)
        architectures = values.get("architectures") or ["none"]
        try:
            architecture = Architecture(architectures[0])
        except ValueError:
            known = ", ".join(Architecture)
            raise ValueError(f"{location}: architecture {architectures[0]}, must be one of {known}") from None
        id2label = {int(number): label for number, label in (values.get("id2label") or {}).items()} or None
        config = config_from_huggingface(values)
        params = from_huggingface(
            _read_tensors(folder),
            config=config,
            architecture=architecture,
            num_labels=len(id2label) if id2label else 2,
            source=str(location),
        )
    return Pretrained(architecture=architecture, config=config, params=params, id2label=id2label)


def load_backbone(location: str | UPath) -> tuple[ElectraConfig, dict[str, Any]]:
    """Reads configuration and `{"embeddings": …, "encoder": …}`; a head is left behind.

    Args:
      location: A Hugging Face folder on any file system, or a hub id (`google/electra-small-discriminator`).

    Raises:
      FileNotFoundError: There is no such folder, or it lacks a file.
      ConversionError: Its tensors are not those of its configuration.
    """
    with ExitStack() as stack:
        folder = _local_folder(location, stack)
        config = config_from_huggingface(_read_config(folder))
        return config, backbone_from_huggingface(_read_tensors(folder), config=config, source=str(location))


def save_parameters(path: UPath, params: Mapping[str, Any]) -> None:
    """Writes nested parameters as one safetensors file of float32, names joined by slashes."""
    flat = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in flatten(params).items()}
    write_bytes(path, safetensors.numpy.save(flat))


def load_parameters(path: UPath) -> dict[str, Any]:
    """Reads what `save_parameters` wrote."""
    return unflatten(safetensors.numpy.load(path.read_bytes()))


def _local_folder(location: str | UPath, stack: ExitStack) -> Path:
    path = UPath(location)
    if path.is_dir():
        return stack.enter_context(local_copy(path))
    text = str(location)
    if "://" in text or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise FileNotFoundError(f"{location}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "vocab.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{location}: no such folder, and the Hugging Face hub has no model of this id that can be read: {error}"
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder}: no config.json, so not a Hugging Face model folder")
    return read_json(UPath(folder / "config.json"))


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    if (folder / _WEIGHTS_INDEX).exists():
        names = sorted(set(read_json(UPath(folder / _WEIGHTS_INDEX))["weight_map"].values()))
    else:
        names = [_WEIGHTS]
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        if not (folder / name).exists():
            found = ", ".join(sorted(entry.name for entry in folder.iterdir()))
            raise FileNotFoundError(f"{folder}: no {name}; found {found}")
        with safe_open(str(folder / name), framework="numpy") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return tensors
