"""The model of a task, its loss, its answers, and how fast each layer learns.

B batch, T tokens, C classes.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cluster.mesh import replicated
from stages.electra.config import ElectraConfig, HeadKind
from stages.electra.joint_model import Params, merge, split
from stages.electra.network import SequenceClassifier, TokenClassifier
from stages.tasks.answers import AnswerNetwork
from stages.tasks.base import IGNORED, Features
from stages.tasks.named import TaskKind
from stages.training.state import Batch, LossFn, Sums, Total

ARCHITECTURES: Mapping[TaskKind, str] = {
    TaskKind.CLASSIFICATION: "ElectraForSequenceClassification",
    TaskKind.MULTI_LABEL: "ElectraForSequenceClassification",
    TaskKind.REGRESSION: "ElectraForSequenceClassification",
    TaskKind.TAGGING: "ElectraForTokenClassification",
    TaskKind.QUESTION_ANSWERING: "ElectraForQuestionAnswering",
    TaskKind.ANSWERABILITY: "ElectraForQuestionAnswering",
}

_FINETUNING = 0xF17E
_UNANSWERABLE_WEIGHT = 0.5  # of the loss of 'no answer in this window' beside the span's (google-research/electra)


def init_model(
    kind: TaskKind,
    *,
    config: ElectraConfig,
    num_labels: int,
    seed: int,
    backbone: Mapping[str, Any] | None = None,
    head: HeadKind = HeadKind.HUGGINGFACE,
) -> tuple[Any, Params]:
    """Structure and parameters of a task's model; `backbone` replaces its random embeddings and encoder.

    The head depends on the seed alone, not on whether there is a backbone: so two runs that differ in the
    backbone differ in nothing else.
    """
    # Folded, so that a run of the same seed as the pretraining's does not start from its first weights.
    key = jax.random.fold_in(jax.random.key(seed), _FINETUNING)
    config = config.change(num_labels=num_labels)
    module: Any
    match kind:
        case TaskKind.CLASSIFICATION | TaskKind.MULTI_LABEL | TaskKind.REGRESSION:
            module = SequenceClassifier(config, rngs_key=key, head=head)
        case TaskKind.TAGGING:
            module = TokenClassifier(config, rngs_key=key)
        case TaskKind.QUESTION_ANSWERING | TaskKind.ANSWERABILITY:
            unanswerable = kind is TaskKind.ANSWERABILITY
            module = AnswerNetwork(config, kind=head, unanswerable=unanswerable, rngs_key=key)
    graphdef, params = split(module)
    if backbone is None:
        return graphdef, params
    for name in ("embeddings", "encoder"):
        expected, found = _shapes(params[name]), _shapes(backbone[name])
        assert expected == found, (name, expected, found)  # load_backbone read both from one config
    return graphdef, params | {name: jax.tree.map(jnp.asarray, backbone[name]) for name in ("embeddings", "encoder")}


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


def make_layer_scale(*, num_layers: int, decay: float, offset: int) -> Callable[[str], float]:
    """Factor on the learning rate of the parameter at a path: decay^(depth of the head - its own depth).

    Depth is 0 for the embeddings and their projection, i + 1 for layer i, num_layers + offset for the head:
    the paper's offset is 1, its code's 2 (google-research/electra issue 51).

    Raises:
      ValueError: A path that belongs to none of these.
    """

    def scale(path: str) -> float:
        return decay ** (num_layers + offset - depth(path))

    def depth(path: str) -> int:
        if path.startswith(("embeddings/", "encoder/embeddings_project/")):
            return 0
        if path.startswith("head/"):
            return num_layers + offset
        if match := re.match(r"encoder/layers/(\d+)/", path):
            layer = int(match[1])
            if layer < num_layers:
                return layer + 1
        raise ValueError(f"{path}: not a parameter of the embeddings, of one of {num_layers} layers or a head")

    return scale


def make_task_loss(graphdef: Any, kind: TaskKind, *, dtype: str) -> LossFn:
    """Mean loss of a batch: cross-entropy over texts, over labelled words, over starts and ends; over all classes of
    a text where it may have several; squared error of a number.

    Where the batch has a `label_weight`, a text counts by the weight of its class.

    The seed comes with the batch: as a constant of the step it would make every seed compile its own.
    """

    def loss_fn(
        params: Any, batch: Batch, key_B: jax.Array, *, train: bool, over_devices: Total = lambda value: value
    ) -> tuple[jax.Array, Sums]:
        key_B = jax.vmap(jax.random.fold_in)(key_B, batch["seed"])
        given = {"start_B": batch["start"]} if "start" in batch else {}
        logits = _forward(graphdef, params, batch, key_B=key_B if train else None, dtype=dtype, **given)
        weight_B = batch["weight"]
        match kind:
            case TaskKind.CLASSIFICATION:
                losses, weights = _cross_entropy(logits, batch["label"]), weight_B
                if "label_weight" in batch:
                    weights = weight_B * batch["label_weight"]
            case TaskKind.MULTI_LABEL:
                losses_BC = _binary_cross_entropy(logits, batch["label"])
                losses = jnp.mean(losses_BC * batch.get("label_weight", 1.0), axis=-1)
                weights = weight_B
            case TaskKind.REGRESSION:
                losses, weights = jnp.square(logits[:, 0] - batch["label"]), weight_B
            case TaskKind.TAGGING:
                labels_BT = batch["labels"]
                weights = (labels_BT != IGNORED) * weight_B[:, None]
                losses = _cross_entropy(logits, jnp.maximum(labels_BT, 0))
            case TaskKind.QUESTION_ANSWERING | TaskKind.ANSWERABILITY:
                # Every real token may be chosen; [CLS] stands for 'not in this window'.
                real_BT = _positions(batch) < batch["length"][:, None]
                starts_BT, ends_BT = (jnp.where(real_BT, logits[..., n], -1e9) for n in (0, 1))
                losses = (_cross_entropy(starts_BT, batch["start"]) + _cross_entropy(ends_BT, batch["end"])) / 2
                if kind is TaskKind.ANSWERABILITY:
                    losses += _UNANSWERABLE_WEIGHT * _binary_cross_entropy(logits[:, 0, -1], batch["unanswerable"])
                weights = weight_B
        total, count = jnp.sum(losses * weights), jnp.sum(weights)
        sums = {
            "loss": total,
            "targets": count,
            "examples": jnp.sum(weight_B),
            "tokens": jnp.sum(batch["length"] * weight_B),
        }
        return total / jnp.maximum(over_devices(count), 1.0), sums

    return loss_fn


def make_predict(graphdef: Any, *, dtype: str, mesh: Mesh | None = None) -> Callable[[Any, Batch], jax.Array]:
    """A compiled (params, batch) -> logits, without dropout; on a mesh, whole on each of its devices."""
    return jax.jit(
        lambda params, batch: _forward(graphdef, params, batch, key_B=None, dtype=dtype),
        out_shardings=None if mesh is None else replicated(mesh),
    )


def constant_loss(features: Features, kind: TaskKind) -> float:
    """Mean loss of the best guess that does not look at the input: what a model that learns nothing reaches.
    For answers the guess is any token of the row."""
    match kind:
        case TaskKind.REGRESSION:
            return float(np.var(features.labels["label"]))
        case TaskKind.MULTI_LABEL:
            labels_NC = np.asarray(features.labels["label"])
            weights_NC = np.broadcast_to(features.labels.get("label_weight", np.float32(1.0)), labels_NC.shape)
            present_C, absent_C = ((weights_NC * side).mean(axis=0) for side in (labels_NC, 1 - labels_NC))
            return float(np.mean([_entropy(pair) for pair in zip(present_C, absent_C, strict=True)]))
        case TaskKind.QUESTION_ANSWERING:
            return float(np.mean(np.log(features.lengths)))
        case TaskKind.ANSWERABILITY:
            # Without an answer the span is [CLS], with one any token.
            none_N = np.asarray(features.labels["unanswerable"])
            place = float(np.mean((1 - none_N) * np.log(features.lengths)))
            return place + (1 + _UNANSWERABLE_WEIGHT) * _entropy((none_N.mean(), 1 - none_N.mean()))
        case TaskKind.CLASSIFICATION if "label_weight" in features.labels:
            weights = np.bincount(features.labels["label"], weights=features.labels["label_weight"])
            return _entropy(weights / weights.sum())
    labels = features.labels["label" if kind is TaskKind.CLASSIFICATION else "labels"]
    numbers = np.concatenate([np.atleast_1d(value) for value in _arrays(labels)])
    counts = np.bincount(numbers[numbers != IGNORED])
    return _entropy(counts / max(1, counts.sum()))


def _entropy(weights: Iterable[float]) -> float:
    """-sum of w log(w / sum of all w): the entropy of shares, of weights the smallest loss of a constant guess."""
    positive = [float(weight) for weight in weights if weight > 0]
    return -sum(weight * math.log(weight / sum(positive)) for weight in positive)


def _arrays(labels: Sequence[Any] | np.ndarray) -> list[np.ndarray]:
    return [labels] if isinstance(labels, np.ndarray) else list(labels)


def _positions(batch: Batch) -> jax.Array:
    return jnp.arange(batch["ids"].shape[1])[None, :]


def _forward(
    graphdef: Any, params: Any, batch: Batch, *, key_B: jax.Array | None, dtype: str, **given: jax.Array
) -> jax.Array:
    mask_BT = _positions(batch) < batch["length"][:, None]
    types_BT = ((_positions(batch) >= batch["first_length"][:, None]) & mask_BT).astype(jnp.int32)
    return merge(graphdef, params)(batch["ids"], mask_BT, types_BT, key_B=key_B, dtype=jnp.dtype(dtype), **given)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def _binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jax.nn.softplus(logits) - labels * logits
