"""Predicts with a Hugging Face folder: what `mlflow.pyfunc.load_model(...)` gives for the models of a run, and what
`python -m pipeline.predict` prints.

B batch, T tokens, C classes, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from upath import UPath

from stages.electra.config import HeadKind, ProblemType
from stages.electra.files.huggingface import Architecture, ConversionError, flatten
from stages.electra.files.locate import OWN_HEAD
from stages.electra.files.model_folder import Pretrained, load_pretrained
from stages.electra.models import classes as models
from stages.electra.tokenizer import ElectraTokenizer
from stages.tasks.base import Split, TaskOptions
from stages.tasks.classification import truncate
from stages.tasks.files.squad import Question
from stages.tasks.kinds import TaskKind
from stages.tasks.model import init_model, make_predict
from stages.tasks.question_answering import NULL_THRESHOLD, QuestionAnswering
from stages.tasks.tokens import WordPiece

BATCH_SIZE = 16
# Inputs are padded to a multiple of this many tokens, so that few shapes are compiled.
_BUCKET = 64

Row = Mapping[str, Any]
Input = tuple[list[int], int]  # token ids, how many of them are of type 0

_COLUMNS: Mapping[Architecture, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # required, optional
    Architecture.PRETRAINING: (("text",), ()),
    Architecture.MASKED_LM: (("text",), ()),
    Architecture.SEQUENCE_CLASSIFICATION: (("text",), ("text_pair",)),
    Architecture.TOKEN_CLASSIFICATION: (("text",), ()),
    Architecture.QUESTION_ANSWERING: (("question", "context"), ()),
}


def _load_pyfunc(path: str) -> "Predictor":
    """MLflow's name for what opens a model."""
    return Predictor(Path(path))


class Predictor:
    """A model with its tokenizer.

    `predict` takes a table (or a list of texts) with the column `text` and, where the model compares two, `text_pair`;
    `question` and `context` for question answering. It returns a table with a row each:

      classification        label, probability; labels, probabilities where a text may have several; value in regression
      tagging               words (split at white space), labels
      question answering    answer, start, score; of a model that may say that there is none, an empty answer
      discriminator         tokens, replaced: the probability of each token to be a replaced one
      generator             text, with every [MASK] replaced by the likeliest token
    """

    def __init__(self, location: Path | str) -> None:
        """Loads a folder or hub id.

        Raises:
          ValueError: The model is of a class that predicts nothing by itself.
        """
        model = load_pretrained(location if isinstance(location, str) else UPath(location))
        # What transformers has no head for answers questions.
        self.architecture = Architecture.QUESTION_ANSWERING if model.own_head else model.architecture
        if self.architecture not in _COLUMNS:
            raise ValueError(f"{location}: cannot predict with {self.architecture}; can with {', '.join(_COLUMNS)}")
        self._problem_type = model.config.problem_type
        self._labels = model.id2label or {number: f"LABEL_{number}" for number in range(model.config.num_labels)}
        self._max_length = model.config.max_position_embeddings
        self._kind = _question_kind(model)
        self._forward = (
            _make_answering(model, self._kind)
            if self.architecture is Architecture.QUESTION_ANSWERING
            else _make_forward(model)
        )
        tokenizer = ElectraTokenizer.from_pretrained(location)
        tokenizer.check(model.config)
        self._raw = tokenizer.backend
        self._tokenizer = WordPiece(tokenizer.backend)

    @property
    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the columns that `predict` needs, and of those that it may have."""
        return _COLUMNS[self.architecture]

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """A row of answers for each row of `model_input`. `params` is MLflow's and unused.

        Raises:
          ValueError: A column is missing or unknown.
        """
        import pandas as pd

        return pd.DataFrame(self.answers(model_input))

    def answers(self, model_input: Any) -> list[dict[str, Any]]:
        """The same, as dictionaries."""
        answer: Callable[[Sequence[Row]], list[dict[str, Any]]] = {
            Architecture.PRETRAINING: self._find_replaced,
            Architecture.MASKED_LM: self._fill_masks,
            Architecture.SEQUENCE_CLASSIFICATION: self._classify,
            Architecture.TOKEN_CLASSIFICATION: self._tag,
            Architecture.QUESTION_ANSWERING: self._answer,
        }[self.architecture]
        return answer(self._rows(model_input))

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

    def _logits(self, inputs: Sequence[Input]) -> list[np.ndarray]:
        """A row's [C], or its [T, …] for as many tokens as it has."""
        result: list[np.ndarray] = []
        for start in range(0, len(inputs), BATCH_SIZE):
            chunk = inputs[start : start + BATCH_SIZE]
            width = -(-max(len(ids) for ids, _ in chunk) // _BUCKET) * _BUCKET
            width = min(width, self._max_length)
            ids_BT = np.full((BATCH_SIZE, width), self._tokenizer.pad, np.int32)
            length_B, first_B = np.ones(BATCH_SIZE, np.int32), np.ones(BATCH_SIZE, np.int32)
            for row, (ids, first) in enumerate(chunk):
                ids_BT[row, : len(ids)] = ids
                length_B[row], first_B[row] = len(ids), first
            logits = np.asarray(self._forward(ids_BT, length_B, first_B))
            per_token = self.architecture is not Architecture.SEQUENCE_CLASSIFICATION
            result += [logits[row, : len(ids)] if per_token else logits[row] for row, (ids, _) in enumerate(chunk)]
        return result

    def _encode(self, rows: Sequence[Row]) -> list[Input]:
        """[CLS] text [SEP], or [CLS] text [SEP] text_pair [SEP], cut to what the model has positions for."""
        inputs = []
        for row in rows:
            texts = [str(row["text"])] + ([str(row["text_pair"])] if row.get("text_pair") is not None else [])
            kept = truncate(self._tokenizer.encode(texts), max_tokens=self._max_length - 1 - len(texts))
            ids = [self._tokenizer.cls, *kept[0], self._tokenizer.sep]
            first = len(ids)
            for text in kept[1:]:
                ids += [*text, self._tokenizer.sep]
            inputs.append((ids, first))
        return inputs

    def _classify(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [self._judge(logits_C) for logits_C in self._logits(self._encode(rows))]

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
        sentences = [str(row["text"]).split() for row in rows]
        inputs, starts = [], []
        for words in sentences:
            ids, positions = [self._tokenizer.cls], []
            for pieces in self._tokenizer.encode_words(words):
                if len(ids) + len(pieces) > self._max_length - 1:
                    raise ValueError(f"a text of {len(words)} words is longer than {self._max_length} tokens: split it")
                positions.append(len(ids))
                ids += pieces
            inputs.append(([*ids, self._tokenizer.sep], len(ids) + 1))
            starts.append(positions)
        return [
            {"words": words, "labels": [self._labels[int(number)] for number in logits_TC[positions].argmax(-1)]}
            for words, positions, logits_TC in zip(sentences, starts, self._logits(inputs), strict=True)
        ]

    def _answer(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The best span over all windows of each context."""
        questions = [
            Question(id=str(number), text=str(row["question"]), context=str(row["context"]), answers=())
            for number, row in enumerate(rows)
        ]
        quarter = max(1, self._max_length // 4)
        task = QuestionAnswering(
            name="predict",
            kind=self._kind,
            options=TaskOptions(max_length=self._max_length, doc_stride=quarter, max_question_length=quarter),
        )
        windows = task.features(questions, self._tokenizer, labels=(), split=Split.DEV)
        inputs = [(ids.tolist(), int(first)) for ids, first in zip(windows.ids, windows.first_length, strict=True)]
        found, odds = task.candidates(windows, self._logits(inputs), num_questions=len(questions))
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
        inputs = self._encode(rows)
        return [
            {
                "tokens": [self._raw.id_to_token(number) for number in ids[1:-1]],
                "replaced": _sigmoid(logits_T[1:-1]).tolist(),
            }
            for (ids, _), logits_T in zip(inputs, self._logits(inputs), strict=True)
        ]

    def _fill_masks(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        inputs = self._encode(rows)
        mask = self._raw.token_to_id("[MASK]")
        answers = []
        for (ids, _), logits_TV in zip(inputs, self._logits(inputs), strict=True):
            best = logits_TV.argmax(-1)
            filled = [int(best[place]) if number == mask else number for place, number in enumerate(ids)]
            answers.append({"text": self._raw.decode(filled[1:-1], skip_special_tokens=False)})
        return answers


def _make_forward(model: Pretrained) -> Callable[[np.ndarray, np.ndarray, np.ndarray], jax.Array]:
    """(ids, lengths, lengths of type 0) -> logits."""
    network = getattr(models, model.architecture)(model.config, params=model.params)

    def forward(ids_BT: np.ndarray, length_B: np.ndarray, first_B: np.ndarray) -> jax.Array:
        positions = np.arange(ids_BT.shape[1])[None, :]
        mask_BT = positions < length_B[:, None]
        types_BT = (positions >= first_B[:, None]) & mask_BT
        return network(ids_BT, mask_BT.astype(np.int32), types_BT.astype(np.int32)).logits

    return forward


def _question_kind(model: Pretrained) -> TaskKind:
    """Whether a model that answers may also say that there is no answer."""
    has_none = model.own_head is not None and "unanswerable" in model.own_head
    return TaskKind.ANSWERABILITY if has_none else TaskKind.QUESTION_ANSWERING


def _make_answering(model: Pretrained, kind: TaskKind) -> Callable[[np.ndarray, np.ndarray, np.ndarray], jax.Array]:
    """(ids, lengths, lengths of type 0) -> logits as `stages.tasks.answers.AnswerNetwork` gives them."""
    head = model.own_head or model.params["head"]
    graphdef, expected = init_model(
        kind,
        config=model.config,
        num_labels=model.config.num_labels,
        seed=0,
        head=HeadKind.ORIGINAL if "end" in head else HeadKind.HUGGINGFACE,
    )
    shapes, found = ({name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (expected["head"], head))
    if shapes != found:
        wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise ConversionError(
            f"{OWN_HEAD} does not belong to this model: {', '.join(wrong)} missing or of another shape"
        )
    predict = make_predict(graphdef, dtype="float32")
    params = model.params | {"head": head}

    def forward(ids_BT: np.ndarray, length_B: np.ndarray, first_B: np.ndarray) -> jax.Array:
        batch = {"ids": ids_BT, "length": length_B, "first_length": first_B}
        return predict(params, jax.tree.map(jnp.asarray, batch))

    return forward


def _softmax(logits_C: np.ndarray) -> np.ndarray:
    weights = np.exp(logits_C.astype(np.float64) - logits_C.max())
    return weights / weights.sum()


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
