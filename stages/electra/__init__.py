"""The ELECTRA model and its objective.

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
    "Electra": "model",
    "ElectraForQuestionAnswering": "model",
    "ElectraForSequenceClassification": "model",
    "ElectraForTokenClassification": "model",
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
