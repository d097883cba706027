"""Parameters under the names that they have in transformers v4's Flax classes, and back.

Masks, labels and optimizers of code that was written for v4 go by these names (`electra/encoder/layer/0/…/kernel`).
A leaf is handed on as it is: an array, a traced one, or the boolean of a mask. Both ways consume the tree completely.
"""

from collections.abc import Mapping
from typing import Any

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
    return _rename(params, _names(config, architecture))


def from_v4_names(params: Mapping[str, Any], *, config: ElectraConfig, architecture: Architecture) -> dict[str, Any]:
    """v4's tree as ours.

    Raises:
      ConversionError: A parameter is missing, or one too many.
    """
    return _rename(params, {theirs: ours for ours, theirs in _names(config, architecture).items()})


def _names(config: ElectraConfig, architecture: Architecture) -> dict[str, str]:
    """v4's slashed name of each of our parameters: PyTorch's path, with flax's word for the leaf, as ours has it."""
    names = {}
    for ours, torch_name in names_of_tensors(config, architecture=architecture).items():
        names[ours] = "/".join([*torch_name.split(".")[:-1], ours.rpartition("/")[2]])
    return names


def _rename(params: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    flat = flatten_dict(dict(params), sep="/")
    faults = [f"missing {name}" for name in sorted(names.keys() - flat.keys())]
    faults += [f"unexpected {name}" for name in sorted(flat.keys() - names.keys())]
    if faults:
        raise ConversionError(f"parameters: {'; '.join(faults)}")
    return unflatten_dict({names[name]: value for name, value in flat.items()}, sep="/")
