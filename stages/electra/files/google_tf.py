"""Reads checkpoints of the original code (google-research/electra), with TensorFlow (extra `tensorflow`).

One checkpoint holds both networks, over one set of embeddings, and Adam's moments of every variable.
"""

import re
from enum import StrEnum
from pathlib import Path

import numpy as np


class Part(StrEnum):
    """One of the two networks."""

    DISCRIMINATOR = "discriminator"
    GENERATOR = "generator"


# Variables that are no weights: of the optimizer, and of the loop.
_TRAINING = re.compile(r"(^|/)(adam_m|adam_v|global_step|temperature)$")
_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


def is_checkpoint(location: Path) -> bool:
    """Whether it is a folder with a TensorFlow checkpoint and no `config.json`, or a checkpoint's prefix."""
    if location.is_dir():
        return not (location / "config.json").exists() and any(location.glob("*.index"))
    return location.with_name(f"{location.name}.index").exists()


def read_checkpoint(location: Path, *, part: Part) -> dict[str, np.ndarray]:
    """One network's tensors under Hugging Face's names, dense kernels turned.

    Args:
      location: A checkpoint's prefix (`…/model.ckpt-1000000`), or a folder, whose latest is taken.
      part: Which network; the other's variables are left behind.

    Raises:
      ModuleNotFoundError: TensorFlow is not installed.
      ValueError: There is no checkpoint that can be read, or the network is not in it.
    """
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{location} is a TensorFlow checkpoint: install tensorflow to read it (pip install "
            "'electra-pipeline[tensorflow]')"
        ) from error
    prefix = str(location)
    if location.is_dir():
        indices = sorted(location.glob("*.index"), key=_step)
        # The file `checkpoint` may hold paths of the machine that wrote it; the newest step is the latest.
        prefix = str(indices[-1]).removesuffix(".index")
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = [name for name in reader.get_variable_to_shape_map() if not _TRAINING.search(name)]
        variables = {name: reader.get_tensor(name) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(f"{prefix}: not a checkpoint that TensorFlow can read, or damaged: {error}") from error
    scope = "electra" if part is Part.DISCRIMINATOR else "generator"
    if not any(name.startswith(f"{scope}/encoder/") for name in variables):
        raise ValueError(f"{prefix}: no variables {scope}/encoder/…, so no {part}")
    return _tensors(variables, scope=scope)


def _step(index: Path) -> int:
    match = re.search(r"-(\d+)\.index$", index.name)
    return int(match[1]) if match else -1


def _tensors(variables: dict[str, np.ndarray], *, scope: str) -> dict[str, np.ndarray]:
    heads = {"electra": "discriminator_predictions/", "generator": "generator_predictions/"}
    shared = "electra/embeddings/"
    # A generator with embeddings of its own has them in its scope, where they come second and win.
    chosen = {name: value for name, value in variables.items() if name.startswith(shared)}
    chosen |= {
        name.replace("generator/", "electra/", 1): value
        for name, value in variables.items()
        if name.startswith((f"{scope}/", heads[scope]))
    }
    others = [name for name in variables if not name.startswith(("electra/", "generator/", *heads.values()))]
    chosen |= {name: variables[name] for name in others}  # a head of the task that it was fine-tuned on
    return {_their_name(name): value.T if name.endswith("/kernel") else value for name, value in chosen.items()}


def _their_name(name: str) -> str:
    if name == "generator_predictions/output_bias":
        return "generator_lm_head.bias"
    if name.startswith("electra/embeddings/") and name.endswith("_embeddings"):
        return name.replace("/", ".") + ".weight"
    *parents, leaf = name.split("/")
    path = ".".join([*parents, _LEAVES.get(leaf, leaf)])
    path = re.sub(r"\blayer_(\d+)\b", r"layer.\1", path)
    return path.replace("discriminator_predictions.dense_1.", "discriminator_predictions.dense_prediction.")
