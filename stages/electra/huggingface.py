"""Hugging Face's names for ELECTRA's tensors and configuration fields, known to nothing else here.

A model is `{"embeddings": …, "encoder": …, "head": …}` here, and a flat dictionary there, whose dense kernels
are transposed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from stages.electra.config import ElectraConfig


class Architecture(StrEnum):
    """The classes of transformers that an exported model can be loaded with."""

    PRETRAINING = "ElectraForPreTraining"
    MASKED_LM = "ElectraForMaskedLM"
    SEQUENCE_CLASSIFICATION = "ElectraForSequenceClassification"
    TOKEN_CLASSIFICATION = "ElectraForTokenClassification"
    QUESTION_ANSWERING = "ElectraForQuestionAnswering"


class ConversionError(ValueError):
    """The tensors of a model are not those that its configuration promises. Names every difference."""


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    ours: str
    theirs: str
    shape: tuple[int, ...]  # ours
    transposed: bool = False


# Fields whose values transformers fills in where a config.json lacks them.
_DEFAULTS = {
    "vocab_size": 30522,
    "embedding_size": 128,
    "hidden_size": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}

# Buffers that old files hold and no model needs.
_IGNORED = ("electra.embeddings.position_ids", "electra.embeddings.token_type_ids")
_TIED = "generator_lm_head.weight"
_WORD_TABLE = "electra.embeddings.word_embeddings.weight"


def config_from_huggingface(values: Mapping[str, Any]) -> ElectraConfig:
    """Reads the fields of a `config.json` that describe the network.

    Raises:
      ValueError: It describes another kind of model, or one that this project cannot compute.
    """
    if values.get("model_type") != "electra":
        raise ValueError(f"model_type is {values.get('model_type')!r}, must be 'electra'")
    position_type = values.get("position_embedding_type", "absolute")
    if position_type != "absolute":
        raise ValueError(f"position_embedding_type is {position_type!r}, only 'absolute' is supported")
    known = {name: values[name] for name in ElectraConfig.__dataclass_fields__ if values.get(name) is not None}
    return ElectraConfig(**(_DEFAULTS | known))


def config_to_huggingface(
    config: ElectraConfig,
    *,
    architecture: Architecture,
    id2label: Mapping[int, str] | None = None,
    problem_type: str | None = None,
) -> dict[str, Any]:
    """The contents of a `config.json`."""
    values = config.to_dict() | {
        "architectures": [str(architecture)],
        "model_type": "electra",
        "dtype": "float32",
        "classifier_dropout": None,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "tie_word_embeddings": True,
    }
    if id2label is not None:
        values["id2label"] = {str(number): label for number, label in sorted(id2label.items())}
        values["label2id"] = {label: number for number, label in sorted(id2label.items())}
    if problem_type is not None:
        values["problem_type"] = problem_type
    return dict(sorted(values.items()))


def to_huggingface(
    params: Mapping[str, Any], *, config: ElectraConfig, architecture: Architecture, num_labels: int = 2
) -> dict[str, np.ndarray]:
    """Our parameters under their names.

    Raises:
      ConversionError: `params` lacks a tensor, has one too many, or one of another shape.
    """
    ours = flatten(params)
    tensors = _tensors(config, architecture=architecture, num_labels=num_labels)
    _check(
        {name: value.shape for name, value in ours.items()},
        {tensor.ours: tensor.shape for tensor in tensors},
        what=f"parameters for {architecture}",
    )
    return {
        tensor.theirs: np.ascontiguousarray(ours[tensor.ours].T if tensor.transposed else ours[tensor.ours])
        for tensor in tensors
    }


def from_huggingface(
    tensors: Mapping[str, np.ndarray],
    *,
    config: ElectraConfig,
    architecture: Architecture,
    num_labels: int = 2,
    source: str = "the model",
) -> dict[str, Any]:
    """Their tensors as our parameters, in float32.

    Raises:
      ConversionError: A tensor is missing, unexpected or of another shape.
    """
    theirs = {name: value for name, value in tensors.items() if name not in _IGNORED}
    tied = theirs.pop(_TIED, None) if architecture is Architecture.MASKED_LM else None
    if tied is not None and _WORD_TABLE in theirs and not np.array_equal(tied, theirs[_WORD_TABLE]):
        raise ConversionError(f"{source}: {_TIED} differs from {_WORD_TABLE}, which it must be tied to")
    expected = _tensors(config, architecture=architecture, num_labels=num_labels)
    _check(
        {name: value.shape for name, value in theirs.items()},
        {tensor.theirs: _their_shape(tensor) for tensor in expected},
        what=f"{source} as {architecture}",
    )
    return unflatten(
        {
            tensor.ours: np.ascontiguousarray(
                theirs[tensor.theirs].T if tensor.transposed else theirs[tensor.theirs], dtype=np.float32
            )
            for tensor in expected
        }
    )


def backbone_from_huggingface(
    tensors: Mapping[str, np.ndarray], *, config: ElectraConfig, source: str = "the model"
) -> dict[str, Any]:
    """Embeddings and encoder alone: whatever does not begin with `electra.` is a head, and left behind."""
    backbone = {name: value for name, value in tensors.items() if name.startswith("electra.") and name not in _IGNORED}
    expected = _backbone(config)
    _check(
        {name: value.shape for name, value in backbone.items()},
        {tensor.theirs: _their_shape(tensor) for tensor in expected},
        what=source,
    )
    return unflatten(
        {
            tensor.ours: np.ascontiguousarray(
                backbone[tensor.theirs].T if tensor.transposed else backbone[tensor.theirs], dtype=np.float32
            )
            for tensor in expected
        }
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dictionaries as one, with the names joined by slashes."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: np.asarray(value)}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Reverses `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def _their_shape(tensor: _Tensor) -> tuple[int, ...]:
    return tensor.shape[::-1] if tensor.transposed else tensor.shape


def _check(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, what: str) -> None:
    faults = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - found.keys())]
    faults += [f"unexpected {name} {found[name]}" for name in sorted(found.keys() - expected.keys())]
    faults += [
        f"{name} has shape {found[name]}, the configuration says {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if faults:
        raise ConversionError(f"{what}: " + "; ".join(faults))


def _dense(ours: str, theirs: str, num_inputs: int, num_outputs: int) -> list[_Tensor]:
    shape = (num_inputs, num_outputs)
    return [
        _Tensor(ours=f"{ours}/kernel", theirs=f"{theirs}.weight", shape=shape, transposed=True),
        _Tensor(ours=f"{ours}/bias", theirs=f"{theirs}.bias", shape=(num_outputs,)),
    ]


def _layer_norm(ours: str, theirs: str, width: int) -> list[_Tensor]:
    return [
        _Tensor(ours=f"{ours}/scale", theirs=f"{theirs}.weight", shape=(width,)),
        _Tensor(ours=f"{ours}/bias", theirs=f"{theirs}.bias", shape=(width,)),
    ]


def _backbone(config: ElectraConfig) -> list[_Tensor]:
    E, D, F = config.embedding_size, config.hidden_size, config.intermediate_size
    theirs = "electra.embeddings"
    tensors = [
        _Tensor(ours=f"embeddings/{name}/embedding", theirs=f"{theirs}.{name}_embeddings.weight", shape=(rows, E))
        for name, rows in (
            ("word", config.vocab_size),
            ("position", config.max_position_embeddings),
            ("token_type", config.type_vocab_size),
        )
    ]
    tensors += _layer_norm("embeddings/layer_norm", f"{theirs}.LayerNorm", E)
    if E != D:
        tensors += _dense("encoder/embeddings_project", "electra.embeddings_project", E, D)
    for number in range(config.num_hidden_layers):
        ours, theirs = f"encoder/layers/{number}", f"electra.encoder.layer.{number}"
        for name in ("query", "key", "value"):
            tensors += _dense(f"{ours}/attention/{name}", f"{theirs}.attention.self.{name}", D, D)
        tensors += _dense(f"{ours}/attention/output", f"{theirs}.attention.output.dense", D, D)
        tensors += _layer_norm(f"{ours}/attention_layer_norm", f"{theirs}.attention.output.LayerNorm", D)
        tensors += _dense(f"{ours}/intermediate", f"{theirs}.intermediate.dense", D, F)
        tensors += _dense(f"{ours}/output", f"{theirs}.output.dense", F, D)
        tensors += _layer_norm(f"{ours}/layer_norm", f"{theirs}.output.LayerNorm", D)
    return tensors


def _tensors(config: ElectraConfig, *, architecture: Architecture, num_labels: int) -> list[_Tensor]:
    E, D = config.embedding_size, config.hidden_size
    match architecture:
        case Architecture.PRETRAINING:
            head = _dense("head/dense", "discriminator_predictions.dense", D, D)
            head += _dense("head/prediction", "discriminator_predictions.dense_prediction", D, 1)
        case Architecture.MASKED_LM:
            head = _dense("head/dense", "generator_predictions.dense", D, E)
            head += _layer_norm("head/layer_norm", "generator_predictions.LayerNorm", E)
            head += [_Tensor(ours="head/bias", theirs="generator_lm_head.bias", shape=(config.vocab_size,))]
        case Architecture.SEQUENCE_CLASSIFICATION:
            head = _dense("head/dense", "classifier.dense", D, D)
            head += _dense("head/prediction", "classifier.out_proj", D, num_labels)
        case Architecture.TOKEN_CLASSIFICATION:
            head = _dense("head/prediction", "classifier", D, num_labels)
        case Architecture.QUESTION_ANSWERING:
            head = _dense("head/prediction", "qa_outputs", D, 2)
    return _backbone(config) + head
