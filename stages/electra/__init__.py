"""ELECTRA: models with the names of transformers, their files, and the objective that they are pretrained with.

The public names load their module, and with it JAX, when first used: configurations are read without it.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Activation": "config",
    "ElectraConfig": "config",
    "ModelConfig": "sizes",
    "ObjectiveConfig": "objectives.objective",
    "Size": "sizes",
    "ModelCard": "files.card",
    "ElectraForCausalLM": "models.classes",
    "ElectraForMaskedLM": "models.classes",
    "ElectraForMultipleChoice": "models.classes",
    "ElectraForPreTraining": "models.classes",
    "ElectraForQuestionAnswering": "models.classes",
    "ElectraForSequenceClassification": "models.classes",
    "ElectraForTokenClassification": "models.classes",
    "ElectraModel": "models.classes",
    "ElectraTokenizer": "tokenizer",
    "Part": "files.google_tf",
    "Electra": "joint_model",
    "merge": "joint_model",
    "split": "joint_model",
    "make_pretraining_loss": "objectives.pretraining_loss",
    "summarize": "objectives.pretraining_loss",
    "load_backbone": "files.model_folder",
    "save_pretrained": "files.model_folder",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
