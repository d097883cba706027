"""ELECTRA: models with the names of transformers, their files, and the objective that they are pretrained with.

The public names load their module, and with it JAX, when first used: configurations are read without it.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Activation": "config",
    "ElectraConfig": "config",
    "ModelConfig": "config",
    "ObjectiveConfig": "config",
    "Size": "config",
    "ModelCard": "card",
    "ElectraForCausalLM": "models",
    "ElectraForMaskedLM": "models",
    "ElectraForMultipleChoice": "models",
    "ElectraForPreTraining": "models",
    "ElectraForQuestionAnswering": "models",
    "ElectraForSequenceClassification": "models",
    "ElectraForTokenClassification": "models",
    "ElectraModel": "models",
    "ElectraTokenizer": "tokenizer",
    "Part": "google_tf",
    "Electra": "model",
    "merge": "model",
    "split": "model",
    "make_pretraining_loss": "pretraining",
    "summarize": "pretraining",
    "load_backbone": "pretrained",
    "save_pretrained": "pretrained",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
