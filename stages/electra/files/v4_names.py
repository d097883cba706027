"""Parameters under the names that they have in transformers v4's Flax classes, and back.

Masks, labels and optimizers of code that was written for v4 go by these names (`electra/encoder/layer/0/…/kernel`).
A leaf is handed on as it is: an array, a traced one, or the boolean of a mask. Both ways consume the tree completely.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stages.electra.config import ElectraConfig
from stages.electra.files.huggingface import Architecture, ConversionError, names_of_tensors


def has_v4_names(params: Mapping[str, Any]) -> bool:
    """Whether a model's parameters have v4's names, not ours."""
    return "electra" in params or "layer" in params.get("encoder", {})


def to_v4_names(params: Mapping[str, Any], *, config: ElectraConfig, architecture: Architecture) -> dict[str, Any]:
    """Our tree as v4's.

    Raises:
      ConversionError: A parameter is missing, or one too many.
    """
    flat: dict[str, Any] = {}
    for path, value in flatten_dict(dict(params), sep="/").items():
        for number, name in _of_layers(path, config):
            flat[name] = value[number] if number is not None and _is_array(value) else value
    return _rename(flat, _names(config, architecture))


def from_v4_names(params: Mapping[str, Any], *, config: ElectraConfig, architecture: Architecture) -> dict[str, Any]:
    """v4's tree as ours.

    Raises:
      ConversionError: A parameter is missing, or one too many, or leaves that are no arrays differ between layers.
    """
    names = _names(config, architecture)
    flat = flatten_dict(dict(params), sep="/")
    ours = flatten_dict(_rename(flat, {theirs: name for name, theirs in names.items()}), sep="/")
    whole: dict[str, Any] = {}
    for path in dict.fromkeys(_without_number(name) for name in ours):
        (first, *others) = ((number, ours[name]) for number, name in _of_layers(path, config))
        whole[path] = first[1] if first[0] is None else _stack(path, [first[1], *(value for _, value in others)])
    return unflatten_dict(whole, sep="/")


# The layers are stacked in our parameters, and have a name each in v4's: what knows of it stands below.

_LAYERS = "encoder/layers/"


def _of_layers(path: str, config: ElectraConfig) -> list[tuple[int | None, str]]:
    """Number and numbered name of each layer's part of one of our parameters; (None, path) where it has no layers."""
    if not path.startswith(_LAYERS):
        return [(None, path)]
    below = path.removeprefix(_LAYERS)
    return [(number, f"{_LAYERS}{number}/{below}") for number in range(config.num_hidden_layers)]


def _without_number(name: str) -> str:
    return _LAYERS + name.removeprefix(_LAYERS).partition("/")[2] if name.startswith(_LAYERS) else name


def _is_array(value: Any) -> bool:
    return getattr(value, "ndim", 0) > 0


def _stack(path: str, values: list[Any]) -> Any:
    if all(isinstance(value, np.ndarray) for value in values):
        return np.stack(values)
    if hasattr(values[0], "shape"):
        return jnp.stack(values)
    if any(value != values[0] for value in values):
        raise ConversionError(
            f"{path}: the layers, which are one parameter under our names, have different leaves, "
            f"{', '.join(map(repr, values))}: keep the tree under v4's names, which every call takes"
        )
    return values[0]


def _names(config: ElectraConfig, architecture: Architecture) -> dict[str, str]:
    """v4's name of each of our parameters, a layer a name: PyTorch's path, with the leaf's name as ours has it."""
    names = {}
    for ours, torch_name in names_of_tensors(config, architecture=architecture).items():
        names[ours] = "/".join([*torch_name.split(".")[:-1], ours.rpartition("/")[2]])
    return names


def _rename(flat: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    faults = [f"missing {name}" for name in sorted(names.keys() - flat.keys())]
    faults += [f"unexpected {name}" for name in sorted(flat.keys() - names.keys())]
    if faults:
        raise ConversionError(f"parameters: {'; '.join(faults)}")
    return unflatten_dict({names[name]: value for name, value in flat.items()}, sep="/")
