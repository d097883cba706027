"""Reads the tensors of a model folder, whichever library wrote them, under Hugging Face's PyTorch names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from upath import UPath

from cluster.storage import read_json
from stages.electra.files.hub import WEIGHTS
from stages.electra.files.huggingface import flatten
from stages.electra.files.torch_files import read_torch

# What flax calls the leaves that torch calls weights.
_FLAX_WEIGHTS = ("kernel", "scale", "embedding")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Raises ValueError where the file is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged: {error}") from error


def read_flax(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a `flax_model.msgpack`, dense kernels turned. Raises ValueError where the file is damaged."""
    from flax.serialization import msgpack_restore

    try:
        flat = flatten(msgpack_restore(path.read_bytes()))
    except Exception as error:  # msgpack's and numpy's, of many kinds
        raise ValueError(f"{path}: not parameters that flax saved, or damaged: {error}") from error
    tensors = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        tensors[".".join([*parents, "weight" if leaf in _FLAX_WEIGHTS else leaf])] = (
            value.T if leaf == "kernel" else value
        )
    return tensors


FORMATS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = dict(
    zip(WEIGHTS, (read_safetensors, read_torch, read_flax), strict=True)
)


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of the folder's first format, from one file or from those that its index names.

    Raises:
      FileNotFoundError: There are no weights, or the index names a file that is not there.
      ValueError: A file is damaged, or the index names one outside the folder.
    """
    for name, read in FORMATS.items():
        if (folder / name).exists():
            return read(folder / name)
        if (folder / f"{name}.index.json").exists():
            tensors: dict[str, np.ndarray] = {}
            for shard in _shards(folder / f"{name}.index.json"):
                tensors |= read(shard)
            return tensors
    found = ", ".join(sorted(entry.name for entry in folder.iterdir()))
    raise FileNotFoundError(f"{folder}: none of {', '.join(FORMATS)}; found {found}")


def _shards(index: Path) -> list[Path]:
    values = read_json(UPath(index))
    if not isinstance(values, dict) or not isinstance(values.get("weight_map"), dict):
        raise ValueError(f"{index}: has no weight_map")
    shards = []
    for name in sorted(set(values["weight_map"].values())):
        if Path(name).name != name:
            raise ValueError(f"{index}: names {name!r}, which is not a file of its folder")
        if not (index.parent / name).exists():
            raise FileNotFoundError(f"{index.parent}: no {name}, which {index.name} names")
        shards.append(index.parent / name)
    return shards
