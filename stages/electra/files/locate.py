"""Finds a model: a folder anywhere, a hub id, or a checkpoint of the original code."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from cluster.storage import local_copy, read_json
from stages.electra.files.google_tf import Part, is_checkpoint, read_checkpoint
from stages.electra.files.hub import DEFAULT_ACCESS, OWN_HEAD, TOKENIZER_FILES, HubAccess, download, is_hub_id
from stages.electra.files.huggingface import config_from_shapes
from stages.electra.files.weights import read_safetensors, read_tensors


@dataclass(frozen=True, kw_only=True)
class Files:
    """Contents of a model's files.

    Attributes:
      values: The `config.json`; what the shapes tell where there is none.
      tensors: Under Hugging Face's names.
      tokenizer: Contents of the tokenizer's files by name.
      own_head: Tensors of `OWN_HEAD` by slashed name, where there is one.
    """

    values: dict[str, Any]
    tensors: dict[str, np.ndarray]
    tokenizer: dict[str, bytes]
    own_head: dict[str, np.ndarray] | None


def read_model(
    location: str | Path | UPath,
    *,
    revision: str | None = None,
    part: Part = Part.DISCRIMINATOR,
    access: HubAccess = DEFAULT_ACCESS,
) -> Files:
    """Reads a model's configuration, tensors and tokenizer.

    Args:
      location: A folder on any file system, a hub id (`owner/name`), or the prefix of a TensorFlow checkpoint.
      revision: Branch, tag or commit of a hub id.
      part: Which network of a TensorFlow checkpoint.
      access: How the hub is asked.

    Raises:
      FileNotFoundError: There is no such model, or a file of it is missing.
      ValueError: A file is damaged, or names one outside its folder.
    """
    with ExitStack() as stack:
        folder = find_folder(location, stack=stack, revision=revision, access=access)
        if is_checkpoint(folder):
            tensors = read_checkpoint(folder, part=part)
            values = config_from_shapes(tensors, source=str(location))
        else:
            values = _read_config(folder)
            tensors = read_tensors(folder)
        files = folder if folder.is_dir() else folder.parent
        own_head = read_safetensors(files / OWN_HEAD) if (files / OWN_HEAD).is_file() else None
        return Files(values=values, tensors=tensors, tokenizer=read_tokenizer_files(files), own_head=own_head)


def read_tokenizer_files(folder: Path | UPath) -> dict[str, bytes]:
    """Contents of the tokenizer's files that exist, by name."""
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}


def read_config(
    location: str | Path | UPath, *, revision: str | None = None, access: HubAccess = DEFAULT_ACCESS
) -> dict[str, Any]:
    """The `config.json` alone.

    Raises:
      FileNotFoundError: There is none.
    """
    with ExitStack() as stack:
        return _read_config(find_folder(location, stack=stack, revision=revision, with_weights=False, access=access))


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder}: no config.json, so not a Hugging Face model folder")
    return read_json(UPath(folder / "config.json"))


def find_folder(
    location: str | Path | UPath,
    *,
    stack: ExitStack,
    revision: str | None = None,
    with_weights: bool = True,
    access: HubAccess = DEFAULT_ACCESS,
) -> Path:
    """A path on this machine for a model, until `stack` is closed. See `read_model` for the rest."""
    path = UPath(location).expanduser()
    if path.is_dir():
        return stack.enter_context(local_copy(path))
    text = str(location)
    if "://" not in text and is_checkpoint(Path(text).expanduser()):
        return Path(text).expanduser()
    if not is_hub_id(text):
        raise FileNotFoundError(f"{location}: no such folder, and not a hub id (owner/name)")
    return download(text, revision=revision, with_weights=with_weights, access=access)
