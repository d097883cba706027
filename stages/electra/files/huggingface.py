"""Hugging Face's names for ELECTRA's tensors and configuration fields, which no other file knows.

A model is `{"embeddings": …, "encoder": …, "head": …}` here, and a flat dictionary there, whose dense kernels
are transposed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stages.electra.config import ElectraConfig


class Architecture(StrEnum):
    """The classes of transformers that a folder can be made for and loaded with."""

    MODEL = "ElectraModel"
    PRETRAINING = "ElectraForPreTraining"
    MASKED_LM = "ElectraForMaskedLM"
    CAUSAL_LM = "ElectraForCausalLM"
    SEQUENCE_CLASSIFICATION = "ElectraForSequenceClassification"
    MULTIPLE_CHOICE = "ElectraForMultipleChoice"
    TOKEN_CLASSIFICATION = "ElectraForTokenClassification"
    QUESTION_ANSWERING = "ElectraForQuestionAnswering"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"architecture {value}, must be one of {', '.join(cls)}")


# The classes of the two networks that are pretrained together.
NETWORKS = {"discriminator": Architecture.PRETRAINING, "generator": Architecture.MASKED_LM}


class ConversionError(ValueError):
    """The tensors of a model are not those that its configuration promises. Names every difference."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Tensors of a file compared with those of a model.

    Attributes:
      params: Ours that were found, by slashed name, float32.
      missing: Their names of those that the model has and the file has not.
      unexpected: Names that the file has and the model has not.
      mismatched: Of those among the missing that have another shape in the file, what both shapes are.
    """

    params: dict[str, np.ndarray]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    ours: str
    theirs: str
    axes: tuple[str | int, ...]  # of ours: fields of the config, or sizes
    transposed: bool = False

    def our_shape(self, config: ElectraConfig) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else getattr(config, axis) for axis in self.axes)

    def their_shape(self, config: ElectraConfig) -> tuple[int, ...]:
        return self.our_shape(config)[::-1] if self.transposed else self.our_shape(config)

    def turn(self, value: np.ndarray) -> np.ndarray:
        """Ours as theirs, and theirs as ours."""
        return value.T if self.transposed else value


# Buffers that old files hold and no model needs.
_IGNORED = ("electra.embeddings.position_ids", "electra.embeddings.token_type_ids")
_TIED = "generator_lm_head.weight"
_WORD_TABLE = "electra.embeddings.word_embeddings.weight"
_PREFIX = "electra."


def config_from_shapes(tensors: Mapping[str, np.ndarray], *, source: str = "the model") -> dict[str, Any]:
    """The fields of a `config.json` that the shapes of an encoder's tensors tell. Heads are 64 wide by guess.

    Raises:
      ConversionError: A table or layer that the sizes are read from is missing.
    """
    shapes = {name: value.shape for name, value in with_prefix(tensors).items()}
    try:
        vocab_size, embedding_size = shapes[_WORD_TABLE]
        intermediate_size, hidden_size = shapes["electra.encoder.layer.0.intermediate.dense.weight"]
        positions = shapes["electra.embeddings.position_embeddings.weight"][0]
        types = shapes["electra.embeddings.token_type_embeddings.weight"][0]
    except KeyError as error:
        raise ConversionError(f"{source}: no tensor {error.args[0]}, so not an ELECTRA encoder") from None
    layers = {name.split(".")[3] for name in shapes if name.startswith("electra.encoder.layer.")}
    return {
        "model_type": "electra",
        "vocab_size": vocab_size,
        "embedding_size": embedding_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden_size // 64),
        "intermediate_size": intermediate_size,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
    }


def to_huggingface(
    params: Mapping[str, Any], *, config: ElectraConfig, architecture: Architecture
) -> dict[str, np.ndarray]:
    """Our parameters under their names.

    Raises:
      ConversionError: `params` lacks a tensor, has one too many, or one of another shape.
    """
    ours = flatten(params)
    tensors = {tensor.ours: tensor for tensor in _tensors(config, architecture=architecture)}
    faults = [f"missing {name} {tensors[name].our_shape(config)}" for name in sorted(tensors.keys() - ours.keys())]
    faults += [f"unexpected {name} {ours[name].shape}" for name in sorted(ours.keys() - tensors.keys())]
    faults += [
        f"{name} has shape {ours[name].shape}, the configuration says {tensors[name].our_shape(config)}"
        for name in sorted(ours.keys() & tensors.keys())
        if ours[name].shape != tensors[name].our_shape(config)
    ]
    if faults:
        raise ConversionError(f"parameters for {architecture}: " + "; ".join(faults))
    # transformers writes a bare encoder without the prefix that it has below a head.
    skipped = len(_PREFIX) if architecture is Architecture.MODEL else 0
    return {tensor.theirs[skipped:]: np.ascontiguousarray(tensor.turn(ours[name])) for name, tensor in tensors.items()}


def with_dense(params: Mapping[str, Any]) -> dict[str, Any]:
    """A classifier with the original's head, z = W x + b, as one with transformers', prediction(gelu(dense(x))).

    z = gelu(z) - gelu(-z): the dense layer computes z and -z of every class, the prediction their difference. Where
    there are more classes than half the width, the dense layer instead adds so much to each element of x that none is
    below 6, where gelu is the identity in float32: x comes from a LayerNorm, so none is above sqrt(D) |scale| + |bias|.
    """
    kernel_DC, bias_C = (np.asarray(params["head"]["prediction"][name], np.float32) for name in ("kernel", "bias"))
    width, num_labels = kernel_DC.shape
    dense = {"kernel": np.zeros((width, width), np.float32), "bias": np.zeros(width, np.float32)}
    prediction = {"kernel": kernel_DC, "bias": bias_C}
    if 2 * num_labels <= width:
        dense["kernel"][:, : 2 * num_labels] = np.concatenate([kernel_DC, -kernel_DC], axis=1)
        dense["bias"][: 2 * num_labels] = np.concatenate([bias_C, -bias_C])
        difference = np.concatenate([np.eye(num_labels), -np.eye(num_labels)])
        prediction = {
            "kernel": np.pad(difference, ((0, width - 2 * num_labels), (0, 0))).astype(np.float32),
            "bias": np.zeros(num_labels, np.float32),
        }
    else:
        norm = params["encoder"]["layers"]["layer_norm"]
        scale_D, offset_D = (np.abs(np.asarray(norm[name][-1], np.float64)) for name in ("scale", "bias"))
        shift_D = (np.sqrt(width) * scale_D + offset_D + 6).astype(np.float32)
        dense = {"kernel": np.eye(width, dtype=np.float32), "bias": shift_D}
        prediction["bias"] = (bias_C - shift_D.astype(np.float64) @ kernel_DC.astype(np.float64)).astype(np.float32)
    return dict(params) | {"head": {"dense": dense, "prediction": prediction}}


def names_of_tensors(config: ElectraConfig, *, architecture: Architecture) -> dict[str, str]:
    """Their name of each of our parameters, by our slashed name."""
    skipped = len(_PREFIX) if architecture is Architecture.MODEL else 0
    return {tensor.ours: tensor.theirs[skipped:] for tensor in _tensors(config, architecture=architecture)}


def match_huggingface(
    tensors: Mapping[str, np.ndarray],
    *,
    config: ElectraConfig,
    architecture: Architecture,
    source: str = "the model",
    skip_mismatched: bool = False,
) -> Match:
    """Their tensors as our parameters, and the names of missing and unexpected ones.

    Args:
      tensors: Theirs.
      config: Of the model that is to be.
      architecture: Its class.
      source: Named in errors.
      skip_mismatched: Count tensors of another shape as missing.

    Raises:
      ConversionError: A tensor has another shape, or the output of a language model is not tied to its input.
    """
    theirs = {name: value for name, value in with_prefix(tensors).items() if name not in _IGNORED}
    if architecture in (Architecture.MASKED_LM, Architecture.CAUSAL_LM):
        tied = theirs.pop(_TIED, None)
        if tied is not None and _WORD_TABLE in theirs and not np.array_equal(tied, theirs[_WORD_TABLE]):
            raise ConversionError(f"{source}: {_TIED} differs from {_WORD_TABLE}, which it must be tied to")
    expected = {tensor.theirs: tensor for tensor in _tensors(config, architecture=architecture)}
    found = {name: tensor for name, tensor in expected.items() if name in theirs}
    mismatched: list[str] = []
    if skip_mismatched:
        fits = {name: tensor for name, tensor in found.items() if theirs[name].shape == tensor.their_shape(config)}
        mismatched = [_shape_fault(found[name], theirs[name].shape, config) for name in sorted(found.keys() - fits)]
        theirs = {name: value for name, value in theirs.items() if name in fits or name not in found}
        found = fits
    faults = [
        _shape_fault(tensor, theirs[name].shape, config)
        for name, tensor in sorted(found.items())
        if theirs[name].shape != tensor.their_shape(config)
    ]
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(theirs.keys() - found.keys())
    if faults:
        faults = [f"missing {name} {expected[name].their_shape(config)}" for name in missing] + faults
        faults = [f"unexpected {name} {theirs[name].shape}" for name in unexpected] + faults
        raise ConversionError(f"{source} as {architecture}: " + "; ".join(faults))
    params = {
        tensor.ours: np.ascontiguousarray(tensor.turn(theirs[name]), dtype=np.float32) for name, tensor in found.items()
    }
    return Match(params=params, missing=tuple(missing), unexpected=tuple(unexpected), mismatched=tuple(mismatched))


def from_huggingface(
    tensors: Mapping[str, np.ndarray], *, config: ElectraConfig, architecture: Architecture, source: str = "the model"
) -> dict[str, Any]:
    """Their tensors as our parameters, in float32.

    Raises:
      ConversionError: A tensor is missing, unexpected or of another shape.
    """
    match = match_huggingface(tensors, config=config, architecture=architecture, source=source)
    faults = [f"missing {name}" for name in match.missing] + [f"unexpected {name}" for name in match.unexpected]
    if faults:
        raise ConversionError(f"{source} as {architecture}: " + "; ".join(faults))
    return unflatten(match.params)


def backbone_from_huggingface(
    tensors: Mapping[str, np.ndarray], *, config: ElectraConfig, source: str = "the model"
) -> dict[str, Any]:
    """Embeddings and encoder alone. Tensors whose names do not begin with `electra.` are a head's and are left out."""
    backbone = {name: value for name, value in with_prefix(tensors).items() if name.startswith(_PREFIX)}
    return from_huggingface(backbone, config=config, architecture=Architecture.MODEL, source=source)


def with_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names that an encoder's tensors have below a head, also where it was saved without one."""
    is_bare = not any(name.startswith(_PREFIX) for name in tensors)
    return {f"{_PREFIX}{name}" if is_bare else name: value for name, value in tensors.items()}


def flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by path, joined by slashes. A layer has a name: `layers/query` [L, …] becomes `layers/0/query`, …"""
    flat: dict[str, np.ndarray] = {}
    for path, value in flatten_dict(dict(tree), sep="/").items():
        above, layers, below = path.rpartition("layers/")
        if layers:
            flat |= {f"{above}{layers}{number}/{below}": one for number, one in enumerate(np.asarray(value))}
        else:
            flat[path] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Reverses `flatten`."""
    whole: dict[str, Any] = {}
    layers: dict[str, dict[int, Any]] = {}
    for path, value in flat.items():
        if match := re.fullmatch(r"((?:.*/)?layers/)(\d+)/(.*)", path):
            layers.setdefault(match[1] + match[3], {})[int(match[2])] = value
        else:
            whole[path] = value
    stacked = {path: np.stack([each[number] for number in sorted(each)]) for path, each in layers.items()}
    return unflatten_dict(whole | stacked, sep="/")


def _shape_fault(tensor: _Tensor, found: tuple[int, ...], config: ElectraConfig) -> str:
    """Both shapes, and which fields of the config would make them one."""
    expected = tensor.their_shape(config)
    text = f"{tensor.theirs} has shape {found}, the configuration says {expected}"
    axes = tensor.axes[::-1] if tensor.transposed else tensor.axes
    if len(found) != len(expected):
        return text
    fields = [
        f"{axis} {size}"
        for axis, size, known in zip(axes, found, expected, strict=True)
        if size != known and isinstance(axis, str)
    ]
    return f"{text} (it would fit {', '.join(fields)})" if fields else text


def _dense(ours: str, theirs: str, inputs: str, outputs: str | int) -> list[_Tensor]:
    return [
        _Tensor(ours=f"{ours}/kernel", theirs=f"{theirs}.weight", axes=(inputs, outputs), transposed=True),
        _Tensor(ours=f"{ours}/bias", theirs=f"{theirs}.bias", axes=(outputs,)),
    ]


def _layer_norm(ours: str, theirs: str, width: str) -> list[_Tensor]:
    return [
        _Tensor(ours=f"{ours}/scale", theirs=f"{theirs}.weight", axes=(width,)),
        _Tensor(ours=f"{ours}/bias", theirs=f"{theirs}.bias", axes=(width,)),
    ]


def _attention(ours: str, our_norm: str, theirs: str) -> list[_Tensor]:
    D = "hidden_size"
    tensors = [
        tensor
        for name in ("query", "key", "value")
        for tensor in _dense(f"{ours}/{name}", f"{theirs}.self.{name}", D, D)
    ]
    tensors += _dense(f"{ours}/output", f"{theirs}.output.dense", D, D)
    return tensors + _layer_norm(our_norm, f"{theirs}.output.LayerNorm", D)


def _backbone(config: ElectraConfig) -> list[_Tensor]:
    E, D, F = "embedding_size", "hidden_size", "intermediate_size"
    theirs = "electra.embeddings"
    tensors = [
        _Tensor(ours=f"embeddings/{name}/embedding", theirs=f"{theirs}.{name}_embeddings.weight", axes=(rows, E))
        for name, rows in (
            ("word", "vocab_size"),
            ("position", "max_position_embeddings"),
            ("token_type", "type_vocab_size"),
        )
    ]
    tensors += _layer_norm("embeddings/layer_norm", f"{theirs}.LayerNorm", E)
    if config.embedding_size != config.hidden_size:
        tensors += _dense("encoder/embeddings_project", "electra.embeddings_project", E, D)
    for number in range(config.num_hidden_layers):
        ours, theirs = f"encoder/layers/{number}", f"electra.encoder.layer.{number}"
        tensors += _attention(f"{ours}/attention", f"{ours}/attention_layer_norm", f"{theirs}.attention")
        if config.add_cross_attention:
            tensors += _attention(f"{ours}/cross/attention", f"{ours}/cross/layer_norm", f"{theirs}.crossattention")
        tensors += _dense(f"{ours}/intermediate", f"{theirs}.intermediate.dense", D, F)
        tensors += _dense(f"{ours}/output", f"{theirs}.output.dense", F, D)
        tensors += _layer_norm(f"{ours}/layer_norm", f"{theirs}.output.LayerNorm", D)
    return tensors


def _tensors(config: ElectraConfig, *, architecture: Architecture) -> list[_Tensor]:
    E, D = "embedding_size", "hidden_size"
    head: list[_Tensor] = []
    match architecture:
        case Architecture.PRETRAINING:
            head = _dense("head/dense", "discriminator_predictions.dense", D, D)
            head += _dense("head/prediction", "discriminator_predictions.dense_prediction", D, 1)
        case Architecture.MASKED_LM | Architecture.CAUSAL_LM:
            head = _dense("head/dense", "generator_predictions.dense", D, E)
            head += _layer_norm("head/layer_norm", "generator_predictions.LayerNorm", E)
            head += [_Tensor(ours="head/bias", theirs="generator_lm_head.bias", axes=("vocab_size",))]
        case Architecture.SEQUENCE_CLASSIFICATION:
            head = _dense("head/dense", "classifier.dense", D, D)
            head += _dense("head/prediction", "classifier.out_proj", D, "num_labels")
        case Architecture.MULTIPLE_CHOICE:
            head = _dense("head/summary", "sequence_summary.summary", D, D) if config.summary_use_proj else []
            head += _dense("head/prediction", "classifier", D, 1)
        case Architecture.TOKEN_CLASSIFICATION:
            head = _dense("head/prediction", "classifier", D, "num_labels")
        case Architecture.QUESTION_ANSWERING:
            head = _dense("head/prediction", "qa_outputs", D, 2)
    return _backbone(config) + head
