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

from stages.electra import models
from stages.electra.config import ProblemType
from stages.electra.huggingface import Architecture
from stages.electra.pretrained import Pretrained, load_pretrained
from stages.electra.tokenizer import ElectraTokenizer
from stages.tasks.classification import truncate
from stages.tasks.question_answering import encode_contexts, window_bounds
from stages.tasks.squad import Question
from stages.tasks.tokens import WordPiece

BATCH_SIZE = 16
# Inputs are padded to a multiple of this many tokens, so that few shapes are compiled.
_BUCKET = 64
_MAX_ANSWER_TOKENS = 30

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
      question answering    answer, start, score
      discriminator         tokens, replaced: the probability of each token to be a replaced one
      generator             text, with every [MASK] replaced by the likeliest token
    """

    def __init__(self, location: Path | str) -> None:
        """Loads a folder or hub id.

        Raises:
          ValueError: The model is of a class that predicts nothing by itself.
        """
        model = load_pretrained(location if isinstance(location, str) else UPath(location))
        if model.architecture not in _COLUMNS:
            raise ValueError(f"{location}: cannot predict with {model.architecture}; can with {', '.join(_COLUMNS)}")
        self.architecture = model.architecture
        self._problem_type = model.config.problem_type
        self._labels = model.id2label or {number: f"LABEL_{number}" for number in range(model.config.num_labels)}
        self._max_length = model.config.max_position_embeddings
        self._forward = _make_forward(model)
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
        contexts = encode_contexts(questions, self._tokenizer)
        inputs: list[Input] = []
        owners: list[tuple[int, int, np.ndarray]] = []  # question, tokens before the context, its offsets
        for number, question in enumerate(questions):
            context = contexts[question.context]
            text = self._tokenizer.encode([question.text])[0][: self._max_length // 4]
            head = [self._tokenizer.cls, *text, self._tokenizer.sep]
            room = self._max_length - len(head) - 1
            for start, end in window_bounds(len(context.ids), room=room, stride=max(1, room // 2)):
                inputs.append(([*head, *context.ids[start:end].tolist(), self._tokenizer.sep], len(head)))
                owners.append((number, len(head), context.offsets[start:end]))
        best: list[dict[str, Any]] = [{"answer": "", "start": 0, "score": -np.inf} for _ in questions]
        for (number, first, offsets), logits_T2 in zip(owners, self._logits(inputs), strict=True):
            if not len(offsets):
                continue
            starts, ends = logits_T2[first : first + len(offsets)].T
            totals = starts[:, None] + ends[None, :]
            spans = np.arange(len(offsets))[None, :] - np.arange(len(offsets))[:, None]
            totals = np.where((spans >= 0) & (spans < _MAX_ANSWER_TOKENS), totals, -np.inf)
            i, j = np.unravel_index(int(totals.argmax()), totals.shape)
            if totals[i, j] > best[number]["score"]:
                begin, end = int(offsets[i, 0]), int(offsets[j, 1])
                answer = questions[number].context[begin:end]
                best[number] = {"answer": answer, "start": begin, "score": float(totals[i, j])}
        return best

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
    """(ids, lengths, lengths of type 0) -> logits; [B, T, 2] for answers."""
    network = getattr(models, model.architecture)(model.config, params=model.params)

    def forward(ids_BT: np.ndarray, length_B: np.ndarray, first_B: np.ndarray) -> jax.Array:
        positions = np.arange(ids_BT.shape[1])[None, :]
        mask_BT = positions < length_B[:, None]
        types_BT = (positions >= first_B[:, None]) & mask_BT
        output = network(ids_BT, mask_BT.astype(np.int32), types_BT.astype(np.int32))
        if model.architecture is Architecture.QUESTION_ANSWERING:
            return jnp.stack([output.start_logits, output.end_logits], axis=-1)
        return output.logits

    return forward


def _softmax(logits_C: np.ndarray) -> np.ndarray:
    weights = np.exp(logits_C.astype(np.float64) - logits_C.max())
    return weights / weights.sum()


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
