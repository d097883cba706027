"""Predicts with a Hugging Face folder: what `mlflow.pyfunc.load_model(...)` gives for the models of a run, and what
`python -m pipeline.predict` prints.

B batch, T tokens, C classes, V vocabulary.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from upath import UPath

from cluster.storage import read_json
from stages.electra.config import ProblemType
from stages.electra.files.hub import OWN_HEAD
from stages.electra.files.huggingface import Architecture, ConversionError, flatten
from stages.electra.files.model_folder import Pretrained, load_pretrained
from stages.electra.joint_model import Params, split
from stages.electra.network import Discriminator, LanguageModel, Network, SequenceClassifier, TokenClassifier
from stages.electra.tokenizer import ElectraTokenizer
from stages.tasks.base import Features, Split, TaskOptions
from stages.tasks.classification import join_texts
from stages.tasks.files.squad import Question
from stages.tasks.kinds import TaskKind
from stages.tasks.model import init_model, make_predict
from stages.tasks.prediction import BatchShape, predict_rows
from stages.tasks.question_answering import NULL_THRESHOLD, QuestionAnswering, kind_of_head
from stages.tasks.tagging import Sentence, Tagging
from stages.tasks.tokens import WordPiece

BATCH_SIZE = 16
CUT = "cut_tokens"
TASK_FILE = "task.json"  # beside a fine-tuned model: what it is asked
_GUESSES = 5
# What begins and ends with a letter or digit, whatever is inside; dots and dashes; else a single mark.
_PARTS = re.compile(r"\w(?:\S*\w)?|\.+|-+|\W")
# Inputs are padded to a multiple of this many tokens, so that few shapes are compiled.
_BUCKET = 64

Row = Mapping[str, Any]


class _Use(NamedTuple):
    """How a class of models answers, and which columns it needs and may have besides."""

    answer: Callable[["Predictor", Sequence[Row]], list[dict[str, Any]]]
    network: type[Network] | None = None  # questions have one of their own
    required: tuple[str, ...] = ("text",)
    optional: tuple[str, ...] = ()


def _load_pyfunc(path: str) -> "Predictor":
    """Opens a model; MLflow calls it by this name."""
    return Predictor(Path(path))


class Predictor:
    """A model with its tokenizer.

    `predict` takes a table (or a list of texts) with the column `text` and, where the model compares two, `text_pair`;
    `question` and `context` for question answering. It returns a table with a row each:

      classification        label, probability; labels, probabilities where a text may have several; value in regression
      tagging               words (split at white space, punctuation for itself), labels
      question answering    answer, start, score; of a model that may say that there is none, an empty answer
      discriminator         tokens, replaced: the probability of each token to be a replaced one
      generator             text, with every [MASK] replaced by the likeliest token; guesses, a list for each [MASK]
                            of the likeliest tokens, each with its probability

    A model of a task on pairs, as this project leaves it, refuses a single text.
    """

    def __init__(self, location: Path | str) -> None:
        """Loads a folder or hub id.

        Raises:
          ValueError: The model is of a class that predicts nothing by itself.
        """
        model = load_pretrained(location if isinstance(location, str) else UPath(location))
        # A head that transformers has no class for answers questions.
        architecture = Architecture.QUESTION_ANSWERING if model.own_head else model.architecture
        if architecture not in _USES:
            raise ValueError(f"{location}: cannot predict with {architecture}; can with {', '.join(_USES)}")
        self._use = _as_asked(_USES[architecture], location)
        self._problem_type = model.config.problem_type
        self._labels = dict(model.config.id2label or {})
        max_length = model.config.max_position_embeddings
        quarter = max(1, max_length // 4)
        self._options = TaskOptions(max_length=max_length, doc_stride=quarter, max_question_length=quarter)
        if (network := self._use.network) is None:
            self._kind, graphdef, params = _answering(model)
        else:
            graphdef, _ = jax.eval_shape(lambda: split(network(model.config, key=jax.random.key(0))))
            params = model.params
        self._params = jax.tree.map(jnp.asarray, params)
        self._predict = make_predict(graphdef, dtype="float32")
        tokenizer = ElectraTokenizer.from_pretrained(location)
        tokenizer.check(model.config)
        self._raw = tokenizer.backend
        # Who asks for a masked word spells [MASK] out.
        split_special_tokens = (
            tokenizer.split_special_tokens is not False and model.architecture is not Architecture.MASKED_LM
        )
        self._tokenizer = WordPiece(tokenizer.backend, split_special_tokens=split_special_tokens)
        buckets = (*range(_BUCKET, max_length, _BUCKET), max_length)
        self._shape = BatchShape(batch_size=BATCH_SIZE, buckets=buckets, pad=self._tokenizer.pad)

    @property
    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the columns that `predict` needs, and of those that it may have."""
        return self._use.required, self._use.optional

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """A row of answers for each row of `model_input`. `params` is MLflow's and unused.

        Raises:
          ValueError: A column is missing or unknown.
        """
        import pandas as pd

        return pd.DataFrame(self.answers(model_input)).drop(columns=CUT, errors="ignore")

    def answers(self, model_input: Any) -> list[dict[str, Any]]:
        """The same, as dictionaries; that of a text that was too long says under `CUT` how many tokens it lost."""
        return self._use.answer(self, self._rows(model_input))

    def _rows(self, model_input: Any) -> list[Row]:
        if hasattr(model_input, "to_dict"):
            model_input = model_input.to_dict(orient="records")
        if isinstance(model_input, str | Mapping):
            model_input = [model_input]
        rows: list[Row] = [{"text": row} if isinstance(row, str) else dict(row) for row in model_input]
        required, optional = self.columns
        for number, row in enumerate(rows):
            if set(required) - row.keys() or row.keys() - {*required, *optional}:
                also = f" and perhaps {', '.join(optional)}" if optional else ""
                raise ValueError(
                    f"row {number}: expected {', '.join(required)}{also}, found {', '.join(map(str, row))}"
                )
        return rows

    def _logits(self, features: Features) -> Sequence[np.ndarray]:
        return predict_rows(self._params, features, shape=self._shape, predict=self._predict)

    def _encode(self, rows: Sequence[Row]) -> Features:
        pairs = [(row["text"], row.get("text_pair")) for row in rows]
        texts = [self._tokenizer.encode([str(text), *([] if pair is None else [str(pair)])]) for text, pair in pairs]
        features = join_texts(texts, self._tokenizer, max_length=self._options.max_length)
        lost = [sum(map(len, each)) + 1 + len(each) - len(ids) for each, ids in zip(texts, features.ids, strict=True)]
        return replace(features, details={CUT: lost})

    def _classify(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        features = self._encode(rows)
        return _with_cuts(features, [self._judge(logits_C) for logits_C in self._logits(features)])

    def _judge(self, logits_C: np.ndarray) -> dict[str, Any]:
        is_regression = self._problem_type is None and len(logits_C) == 1
        if is_regression or self._problem_type is ProblemType.REGRESSION:
            return {"value": float(logits_C[0]) if len(logits_C) == 1 else logits_C.tolist()}
        if self._problem_type is ProblemType.MULTI_LABEL:
            shares = _sigmoid(logits_C).tolist()
            chosen = [number for number, share in enumerate(shares) if share > 0.5]
            return {
                "labels": [self._labels[number] for number in chosen],
                "probabilities": [shares[number] for number in chosen],
            }
        probabilities = _softmax(logits_C)
        best = int(probabilities.argmax())
        return {"label": self._labels[best], "probability": float(probabilities[best])}

    def _tag(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """A text that is longer than a row is tagged in parts, as when a model is scored."""
        words = [split_words(str(row["text"])) for row in rows]
        sentences = [Sentence(words=tuple(each), tags=("",) * len(each), lines=()) for each in words]
        task = Tagging(name="predict", primary="f1", columns=(), options=self._options)
        labels = tuple(self._labels[number] for number in range(len(self._labels)))
        features = task.features(sentences, self._tokenizer, labels=labels, split=Split.TEST)
        found = task.predict(features, self._logits(features))
        return [{"words": each, "labels": list(tags)} for each, tags in zip(words, found, strict=True)]

    def _answer(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The best span over all windows of each context."""
        questions = [
            Question(id=str(number), text=str(row["question"]), context=str(row["context"]), answers=())
            for number, row in enumerate(rows)
        ]
        task = QuestionAnswering(name="predict", primary="exact_match", kind=self._kind, options=self._options)
        features = task.features(questions, self._tokenizer, labels=(), split=Split.DEV)
        found, odds = task.candidates(features, self._logits(features), num_questions=len(questions))
        answers = []
        for question, candidates, odds_of_none in zip(questions, found, odds, strict=True):
            best = max(candidates, key=lambda candidate: candidate.score, default=None)
            if best is None or (task.unanswerable and odds_of_none > NULL_THRESHOLD):
                answers.append({"answer": "", "start": 0, "score": best.score if best else -np.inf})
            else:
                text = question.context[best.start : best.end]
                answers.append({"answer": text, "start": best.start, "score": best.score})
        return answers

    def _find_replaced(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        features = self._encode(rows)
        found = [
            {
                "tokens": [self._raw.id_to_token(number) for number in ids[1:-1]],
                "replaced": _sigmoid(logits_T[1 : len(ids) - 1]).tolist(),
            }
            for ids, logits_T in zip(features.ids, self._logits(features), strict=True)
        ]
        return _with_cuts(features, found)

    def _fill_masks(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        features = self._encode(rows)
        mask = self._raw.token_to_id("[MASK]")
        answers = []
        for ids, logits_TV in zip(features.ids, self._logits(features), strict=True):
            filled = np.where(ids == mask, logits_TV.argmax(-1), ids)
            text = self._raw.decode(filled[1:-1].tolist(), skip_special_tokens=False)
            guesses = [self._guess(logits_TV[place]) for place in np.flatnonzero(ids == mask)]
            answers.append({"text": text, "guesses": guesses})
        return _with_cuts(features, answers)

    def _guess(self, logits_V: np.ndarray) -> list[dict[str, Any]]:
        shares_V = _softmax(logits_V)
        likeliest = np.argsort(-shares_V)[:_GUESSES].tolist()
        return [
            {"token": self._raw.id_to_token(number), "probability": float(shares_V[number])} for number in likeliest
        ]


_USES: Mapping[Architecture, _Use] = {
    Architecture.PRETRAINING: _Use(Predictor._find_replaced, Discriminator),
    Architecture.MASKED_LM: _Use(Predictor._fill_masks, LanguageModel),
    Architecture.SEQUENCE_CLASSIFICATION: _Use(Predictor._classify, SequenceClassifier, optional=("text_pair",)),
    Architecture.TOKEN_CLASSIFICATION: _Use(Predictor._tag, TokenClassifier),
    Architecture.QUESTION_ANSWERING: _Use(Predictor._answer, required=("question", "context")),
}


def split_words(text: str) -> list[str]:
    """Words at white space, with the punctuation at either end of each for itself."""
    return [part for word in text.split() for part in _PARTS.findall(word)]


def _as_asked(use: _Use, location: Path | str) -> _Use:
    """With the columns that the folder's task.json names, if there is one: a pair's second text is not optional."""
    file = UPath(location) / TASK_FILE
    if not use.optional or not file.is_file():
        return use
    columns = tuple(read_json(file).get("columns", use.required))
    return use._replace(required=columns, optional=())


def _with_cuts(features: Features, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lost = features.details[CUT]
    return [answer | ({CUT: count} if count else {}) for answer, count in zip(answers, lost, strict=True)]


def _answering(model: Pretrained) -> tuple[TaskKind, nnx.GraphDef, Params]:
    """Kind, structure and parameters of a model that answers questions."""
    head = model.own_head or model.params["head"]
    kind, head_kind = kind_of_head(head)
    graphdef, expected = init_model(
        kind, config=model.config, num_labels=model.config.num_labels, seed=0, head=head_kind
    )
    shapes, found = ({name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (expected["head"], head))
    if shapes != found:
        wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise ConversionError(
            f"{OWN_HEAD} does not belong to this model: {', '.join(wrong)} missing or of another shape"
        )
    return kind, graphdef, model.params | {"head": head}


def _softmax(logits_C: np.ndarray) -> np.ndarray:
    weights = np.exp(logits_C.astype(np.float64) - logits_C.max())
    return weights / weights.sum()


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
