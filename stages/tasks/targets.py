"""What is predicted for a text: one class, any number of classes, or a number.

B batch, N examples, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from stages.run_warning import RunWarning, WarningKind
from stages.tasks import scores
from stages.tasks.base import Features, entropy
from stages.tasks.form import TaskForm
from stages.tasks.kinds import TaskKind

if TYPE_CHECKING:
    import jax

    from stages.electra.joint_model import Params
    from stages.training.state import Batch

Score = Callable[[np.ndarray, np.ndarray], float]

_SCORES: Mapping[str, Score] = {
    "accuracy": scores.accuracy,
    "micro_f1": scores.micro_f1,
    "macro_f1": scores.macro_f1,
    "matthews": scores.matthews,
    "f1": scores.binary_f1,
    "exact_match": scores.accuracy,  # of rows of indicators: all classes of a text are right
    "spearman": scores.spearman,
    "pearson": scores.pearson,
}
_NUM_WRONG = 10  # wrong examples that the report shows
_CONSTANT = 1e-3  # predictions that differ by less than this share of the range count as the same


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Predictions for all examples, with their scores.

    Attributes:
      scores: By name, in per cent.
      written: Each prediction as it stands in the prediction file.
      warnings: What a reader of the scores must know.
      details: Further results for readers.
      wrong: Numbers of wrong examples, the most confident errors first.
      named: The predictions in the names of the classes, where the file has others.
      probabilities: Of the predicted classes.
    """

    scores: Mapping[str, float]
    written: Sequence[str]
    warnings: tuple[RunWarning, ...]
    details: Mapping[str, Any]
    wrong: Sequence[int] = ()
    named: Sequence[str] = ()
    probabilities: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """Labels in files to arrays, logits to predictions and scores.

    Attributes:
      kind: Which head and loss the model gets.
      names: Of the classes by number; of the number.
      scores: By name, of (gold, predicted): class numbers, indicators [N, C], or numbers.
    """

    kind: ClassVar[TaskKind]
    names: tuple[str, ...]
    scores: Mapping[str, Score]

    @classmethod
    @abstractmethod
    def from_form(cls, form: TaskForm) -> Self:
        """What a task of the user's own predicts."""

    @abstractmethod
    def parse(self, value: Any, *, place: str, column: str, labels: Mapping[str, int]) -> Any:
        """The label of a row. `labels` are the classes as this file writes them.

        Raises:
          ValueError: The value is not allowed; the message names the place, the value and what is allowed.
        """

    @abstractmethod
    def arrays(self, labels: Sequence[Any]) -> dict[str, np.ndarray]:
        """What the loss needs: `label`, and `label_weight` where labels count differently."""

    @staticmethod
    @abstractmethod
    def losses(logits_BC: "jax.Array", batch: "Batch") -> tuple["jax.Array", "jax.Array"]:
        """As `stages.tasks.base.KindWork` has them."""

    @staticmethod
    @abstractmethod
    def constant_loss(features: Features) -> float:
        """Likewise."""

    def exported_head(self, head: "Params") -> "Params":
        """The head that answers in the units of the labels."""
        return head

    @abstractmethod
    def write(self, logits_NC: np.ndarray) -> list[str]:
        """Predictions as they stand in the task's files."""

    @abstractmethod
    def evaluate(self, labels: Sequence[Any], logits_NC: np.ndarray) -> Verdict:
        """Scores."""


@dataclass(frozen=True, kw_only=True)
class Classes(Target):
    """One of several classes.

    Attributes:
      written: Names of the classes in the prediction files.
      weights: Weight of each class in the loss; None weighs all alike, () by the inverse of their frequency.
    """

    kind = TaskKind.CLASSIFICATION
    written: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    @classmethod
    def from_form(cls, form: TaskForm) -> Self:
        return cls(names=form.labels, written=form.labels, scores=named_scores(form.metrics), weights=_weights(form))

    def parse(self, value: Any, *, place: str, column: str, labels: Mapping[str, int]) -> int:
        return _class_number(value, place=place, column=column, labels=labels)

    def arrays(self, labels: Sequence[int]) -> dict[str, np.ndarray]:
        label_N = np.array(labels, np.int32)
        if self.weights is None:
            return {"label": label_N}
        counts_C = np.maximum(np.bincount(label_N, minlength=len(self.names)), 1)
        weights_C = np.array(self.weights or len(labels) / (len(self.names) * counts_C), np.float32)
        return {"label": label_N, "label_weight": weights_C[label_N]}

    @staticmethod
    def losses(logits_BC: "jax.Array", batch: "Batch") -> tuple["jax.Array", "jax.Array"]:
        """Cross-entropies. Where there are weights of the classes, a text counts by that of its own."""
        from stages.electra.losses import cross_entropy

        weight_B = batch["weight"] * batch["label_weight"] if "label_weight" in batch else batch["weight"]
        return cross_entropy(logits_BC, batch["label"]), weight_B

    @staticmethod
    def constant_loss(features: Features) -> float:
        """By the share of each class, or of its weights."""
        weights_C = np.bincount(features.labels["label"], weights=features.labels.get("label_weight"))
        return entropy(weights_C / weights_C.sum())

    def write(self, logits_NC: np.ndarray) -> list[str]:
        return [self.written[number] for number in np.argmax(logits_NC, axis=-1)]

    def evaluate(self, labels: Sequence[int], logits_NC: np.ndarray) -> Verdict:
        gold, predicted = np.array(labels), np.argmax(logits_NC, axis=-1)
        confusion = np.zeros((len(self.names), len(self.names)), int)
        np.add.at(confusion, (gold, predicted), 1)
        return Verdict(
            scores={name: score(gold, predicted) for name, score in self.scores.items()},
            written=self.write(logits_NC),
            warnings=_degenerate(self._one_class(gold, predicted)),
            details={"confusion": confusion.tolist(), "labels": list(self.names)},
            wrong=_surest(np.nonzero(gold != predicted)[0], logits_NC.max(-1) - logits_NC[np.arange(len(gold)), gold]),
            named=[self.names[number] for number in predicted],
            probabilities=(1 / np.exp(logits_NC - logits_NC.max(-1, keepdims=True)).sum(-1)).tolist(),
        )

    def _one_class(self, gold: np.ndarray, predicted: np.ndarray) -> str | None:
        if len(set(predicted.tolist())) > 1 or len(set(gold.tolist())) < 2:
            return None
        label = int(predicted[0])
        majority = int(np.bincount(gold).argmax())
        name = "the majority class" if label == majority else "one class"
        return f"all {len(predicted)} predictions are {name}, {self.names[label]}"


@dataclass(frozen=True, kw_only=True)
class LabelSet(Target):
    """Any number of classes for each text. A class is predicted where its logit is above 0.

    In a file a set is a JSON or Parquet list, or one text with `separator` between the classes; an empty text
    is no class.

    Attributes:
      separator: Between the classes, in text and in the prediction files.
      weights: Weight of each class in the loss where it is present; None is 1, () is absent / present.
    """

    kind = TaskKind.MULTI_LABEL
    separator: str
    weights: tuple[float, ...] | None = None

    @classmethod
    def from_form(cls, form: TaskForm) -> Self:
        found = named_scores(form.metrics)
        return cls(names=form.labels, separator=form.separator, scores=found, weights=_weights(form))

    def parse(self, value: Any, *, place: str, column: str, labels: Mapping[str, int]) -> frozenset[int]:
        if not isinstance(value, str | list | tuple):
            raise ValueError(
                f"{place}: column {column!r} holds {value!r}, expected a list, or classes with "
                f"{self.separator!r} between them"
            )
        parts = [part for part in value.split(self.separator) if part.strip()] if isinstance(value, str) else value
        return frozenset(_class_number(part, place=place, column=column, labels=labels) for part in parts)

    def arrays(self, labels: Sequence[frozenset[int]]) -> dict[str, np.ndarray]:
        label_NC = np.zeros((len(labels), len(self.names)), np.float32)
        for row, numbers in enumerate(labels):
            label_NC[row, list(numbers)] = 1.0
        if self.weights is None:
            return {"label": label_NC}
        present_C = label_NC.sum(axis=0)
        weights_C = np.array(self.weights or (len(labels) - present_C) / np.maximum(present_C, 1.0), np.float32)
        return {"label": label_NC, "label_weight": np.where(label_NC > 0, weights_C, 1.0).astype(np.float32)}

    @staticmethod
    def losses(logits_BC: "jax.Array", batch: "Batch") -> tuple["jax.Array", "jax.Array"]:
        """The mean over all classes of a text of their binary cross-entropies, each by its weight."""
        import jax.numpy as jnp

        from stages.electra.losses import binary_cross_entropy

        losses_BC = binary_cross_entropy(logits_BC, batch["label"])
        return jnp.mean(losses_BC * batch.get("label_weight", 1.0), axis=-1), batch["weight"]

    @staticmethod
    def constant_loss(features: Features) -> float:
        """By the shares of present and absent, the mean over the classes."""
        labels_NC = np.asarray(features.labels["label"])
        weights_NC = np.broadcast_to(features.labels.get("label_weight", np.float32(1.0)), labels_NC.shape)
        present_C, absent_C = ((weights_NC * side).mean(axis=0) for side in (labels_NC, 1 - labels_NC))
        return float(np.mean([entropy(pair) for pair in zip(present_C, absent_C, strict=True)]))

    def write(self, logits_NC: np.ndarray) -> list[str]:
        return [
            self.separator.join(name for name, logit in zip(self.names, logits_C, strict=True) if logit > 0)
            for logits_C in logits_NC
        ]

    def evaluate(self, labels: Sequence[frozenset[int]], logits_NC: np.ndarray) -> Verdict:
        gold_NC, predicted_NC = self.arrays(labels)["label"].astype(int), (logits_NC > 0).astype(int)
        same = (predicted_NC == predicted_NC[0]).all() and not (gold_NC == gold_NC[0]).all()
        all_are = f"all {len(labels)} predictions are the same, {self.write(logits_NC[:1])[0] or 'no class'}"
        return Verdict(
            scores={name: score(gold_NC, predicted_NC) for name, score in self.scores.items()},
            written=self.write(logits_NC),
            warnings=_degenerate(all_are if same else None),
            details={
                "by_label": {
                    name: {
                        "gold": int(gold_NC[:, number].sum()),
                        "predicted": int(predicted_NC[:, number].sum()),
                        "correct": int((gold_NC * predicted_NC)[:, number].sum()),
                    }
                    for number, name in enumerate(self.names)
                }
            },
        )


@dataclass(frozen=True, kw_only=True)
class Number(Target):
    """A number in a known range, learnt as a share of that range by its squared error.

    Attributes:
      low: Smallest label.
      high: Largest one.
    """

    kind = TaskKind.REGRESSION
    low: float
    high: float

    @classmethod
    def from_form(cls, form: TaskForm) -> Self:
        low, high = form.range or (0.0, 1.0)
        return cls(names=(form.label or "",), low=low, high=high, scores=named_scores(form.metrics))

    def parse(self, value: Any, *, place: str, column: str, labels: Mapping[str, int]) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = np.nan
        if not self.low <= number <= self.high:
            raise ValueError(
                f"{place}: column {column!r} holds {value!r}, expected a number from {self.low:g} to {self.high:g}"
            )
        return number

    def arrays(self, labels: Sequence[float]) -> dict[str, np.ndarray]:
        return {"label": ((np.array(labels) - self.low) / (self.high - self.low)).astype(np.float32)}

    @staticmethod
    def losses(logits_BC: "jax.Array", batch: "Batch") -> tuple["jax.Array", "jax.Array"]:
        """Squared errors."""
        import jax.numpy as jnp

        return jnp.square(logits_BC[:, 0] - batch["label"]), batch["weight"]

    @staticmethod
    def constant_loss(features: Features) -> float:
        """Of the mean label."""
        return float(np.var(features.labels["label"]))

    def exported_head(self, head: "Params") -> "Params":
        span, last = self.high - self.low, head["prediction"]
        return head | {"prediction": {"kernel": last["kernel"] * span, "bias": last["bias"] * span + self.low}}

    def predict(self, logits_NC: np.ndarray) -> np.ndarray:
        """Shares of the range to numbers."""
        return self.low + (self.high - self.low) * logits_NC[:, 0].astype(np.float64)

    def write(self, logits_NC: np.ndarray) -> list[str]:
        return [f"{value:.3f}" for value in np.clip(self.predict(logits_NC), self.low, self.high)]

    def evaluate(self, labels: Sequence[float], logits_NC: np.ndarray) -> Verdict:
        gold, predicted = np.array(labels), self.predict(logits_NC)
        constant = np.ptp(predicted) < _CONSTANT * (self.high - self.low) <= np.ptp(gold)
        all_are = f"all {len(gold)} predictions are {predicted.mean():.3f}"
        return Verdict(
            scores={name: score(gold, predicted) for name, score in self.scores.items()},
            written=self.write(logits_NC),
            warnings=_degenerate(all_are if constant else None),
            wrong=_surest(np.nonzero(np.abs(gold - predicted) > 0)[0], np.abs(gold - predicted)),
            details={"predicted_range": [float(predicted.min()), float(predicted.max())]},
        )


def named_scores(names: Iterable[str]) -> dict[str, Score]:
    """The functions that compute these scores."""
    return {name: _SCORES[name] for name in names}


def _weights(form: TaskForm) -> tuple[float, ...] | None:
    if isinstance(form.class_weights, Mapping):
        return tuple(form.class_weights.get(label, 1.0) for label in form.labels)
    return None if form.class_weights is None else ()  # balanced


def _degenerate(text: str | None) -> tuple[RunWarning, ...]:
    return () if text is None else (RunWarning(WarningKind.DEGENERATE, text),)


def _surest(numbers: np.ndarray, by: np.ndarray) -> list[int]:
    """At most `_NUM_WRONG` of these examples, those with the largest `by` first."""
    return numbers[np.argsort(-by[numbers], kind="stable")][:_NUM_WRONG].tolist()


def _class_number(value: Any, *, place: str, column: str, labels: Mapping[str, int]) -> int:
    text = str(value)
    if text not in labels:
        raise ValueError(f"{place}: column {column!r} holds {text!r}, expected one of {', '.join(labels)}")
    return labels[text]
