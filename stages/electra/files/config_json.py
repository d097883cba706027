"""The `config.json` of transformers: our configuration out of it, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.electra.config import ElectraConfig
from stages.electra.files.huggingface import Architecture

# What a config.json says of its files, and is written anew with them.
_WRITTEN = (
    "architectures",
    "dtype",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "position_embedding_type",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
)


def config_from_huggingface(values: Mapping[str, Any]) -> ElectraConfig:
    """Reads the fields of a `config.json` that describe the network and its head.

    Raises:
      ValueError: It describes another kind of model, or one that this project cannot compute.
    """
    if values.get("model_type") != "electra":
        raise ValueError(f"model_type is {values.get('model_type')!r}, must be 'electra'")
    position_type = values.get("position_embedding_type", "absolute")
    if position_type != "absolute":
        raise ValueError(f"position_embedding_type is {position_type!r}, only 'absolute' is supported")
    fields = ElectraConfig.__dataclass_fields__.keys() - {"extra"}
    known = {
        name: values[name]
        for name in sorted(fields)
        # None is a value for this one: no activation.
        if values.get(name) is not None or (name == "summary_activation" and name in values)
    }
    if "id2label" in known:
        known.pop("num_labels", None)
    extra = {name: value for name, value in values.items() if name not in fields and name not in _WRITTEN}
    return ElectraConfig(**known, extra=extra)


def config_to_huggingface(config: ElectraConfig, *, architecture: Architecture) -> dict[str, Any]:
    """The contents of a `config.json`."""
    has_labels = architecture in (Architecture.SEQUENCE_CLASSIFICATION, Architecture.TOKEN_CLASSIFICATION)
    is_default = not config.has_named_labels and config.num_labels == 2  # as without a word in transformers
    names = config.id2label if has_labels or not is_default else None
    values = {name: value for name, value in config.to_dict().items() if name not in ("num_labels", "id2label")}
    values |= {
        "architectures": [str(architecture)],
        "model_type": "electra",
        "dtype": "float32",
        "tie_word_embeddings": True,
        "summary_activation": values["summary_activation"] or "",
    }
    if names is not None:
        values["id2label"] = {str(number): label for number, label in sorted(names.items())}
        values["label2id"] = {label: number for number, label in sorted(names.items())}
    if config.problem_type is None:
        del values["problem_type"]
    return dict(sorted(values.items()))


def as_config(config: Any) -> ElectraConfig:
    """Our configuration from itself, from the path or hub id of one, or from an object of transformers."""
    if isinstance(config, ElectraConfig):
        return config
    if isinstance(config, str | Path):
        return ElectraConfig.from_pretrained(config)
    if not hasattr(config, "to_dict"):
        raise TypeError(f"config is a {type(config).__name__}, must be an ElectraConfig, ours or transformers'")
    values = config.to_dict()
    # Of what describes no network, only what somebody set: transformers has dozens of defaults.
    said = config.to_diff_dict() if hasattr(config, "to_diff_dict") else values
    fields = ElectraConfig.__dataclass_fields__
    return config_from_huggingface({name: value for name, value in values.items() if name in fields} | dict(said))
