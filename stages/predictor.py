"""Predicts with an exported Hugging Face folder: what `mlflow.pyfunc.load_model(...)` gives for the models of a run.

B batch, T tokens, C classes, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from upath import UPath

from stages.electra.config import ElectraConfig
from stages.electra.huggingface import Architecture
from stages.electra.model import (
    Electra,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    Params,
    merge,
    split,
)
from stages.electra.pretrained import Pretrained, load_pretrained
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

      classification        label, probability
      tagging               words (split at white space), labels
      question answering    answer, start, score
      discriminator         tokens, replaced: the probability of each token to be a replaced one
      generator             text, with every [MASK] replaced by the likeliest token
    """

    def __init__(self, folder: Path) -> None:
        model = load_pretrained(UPath(folder))
        self._architecture = model.architecture
        self._labels = model.id2label or {}
        self._max_length = model.config.max_position_embeddings
        self._forward = _make_forward(model)
        from tokenizers import Tokenizer

        self._raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer = WordPiece(Tokenizer.from_file(str(folder / "tokenizer.json")))

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """A row of answers for each row of `model_input`. `params` is MLflow's and unused.

        Raises:
          ValueError: A column is missing or unknown.
        """
        import pandas as pd

        answer: Callable[[Sequence[Row]], list[dict[str, Any]]] = {
            Architecture.PRETRAINING: self._find_replaced,
            Architecture.MASKED_LM: self._fill_masks,
            Architecture.SEQUENCE_CLASSIFICATION: self._classify,
            Architecture.TOKEN_CLASSIFICATION: self._tag,
            Architecture.QUESTION_ANSWERING: self._answer,
        }[self._architecture]
        return pd.DataFrame(answer(self._rows(model_input)))

    def _rows(self, model_input: Any) -> list[Row]:
        if hasattr(model_input, "to_dict"):
            model_input = model_input.to_dict(orient="records")
        if isinstance(model_input, str | Mapping):
            model_input = [model_input]
        rows: list[Row] = [{"text": row} if isinstance(row, str) else dict(row) for row in model_input]
        required, optional = _COLUMNS[self._architecture]
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
            per_token = self._architecture is not Architecture.SEQUENCE_CLASSIFICATION
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
        answers = []
        for logits_C in self._logits(self._encode(rows)):
            probabilities = _softmax(logits_C)
            best = int(probabilities.argmax())
            answers.append({"label": self._labels[best], "probability": float(probabilities[best])})
        return answers

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
                "replaced": (1 / (1 + np.exp(-logits_T[1:-1].astype(np.float64)))).tolist(),
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
    """(ids, lengths, lengths of type 0) -> logits, compiled."""
    method, graphdef, params = _build(model)

    @jax.jit
    def forward(params: Params, ids_BT: jax.Array, length_B: jax.Array, first_B: jax.Array) -> jax.Array:
        positions = jnp.arange(ids_BT.shape[1])[None, :]
        mask_BT = positions < length_B[:, None]
        types_BT = ((positions >= first_B[:, None]) & mask_BT).astype(jnp.int32)
        return getattr(merge(graphdef, params), method)(ids_BT, mask_BT, types_BT)

    return lambda ids, length, first: forward(params, ids, length, first)


def _build(model: Pretrained) -> tuple[str, Any, Params]:
    """The method to call, the structure of its module, and its parameters."""
    config, key = model.config, jax.random.key(0)
    match model.architecture:
        case Architecture.SEQUENCE_CLASSIFICATION:
            module: Any = ElectraForSequenceClassification(config, num_labels=len(model.id2label or {}), rngs_key=key)
        case Architecture.TOKEN_CLASSIFICATION:
            module = ElectraForTokenClassification(config, num_labels=len(model.id2label or {}), rngs_key=key)
        case Architecture.QUESTION_ANSWERING:
            module = ElectraForQuestionAnswering(config, rngs_key=key)
        case Architecture.MASKED_LM:
            return _build_half(config, model.params, name="generator", method="generate")
        case Architecture.PRETRAINING:
            return _build_half(config, model.params, name="discriminator", method="discriminate")
    return "__call__", split(module)[0], model.params


def _build_half(config: ElectraConfig, params: Mapping[str, Any], *, name: str, method: str) -> tuple[str, Any, Params]:
    """One network of the two; the parameters of the other are never looked at and cost one number each."""
    graphdef, whole = split(Electra(config, config, rngs_key=jax.random.key(0)))
    other = "generator" if name == "discriminator" else "discriminator"
    unused = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), {key: whole[key] for key in (other, f"{other}_head")})
    own = {"embeddings": params["embeddings"], name: params["encoder"], f"{name}_head": params["head"]}
    return method, graphdef, own | unused


def _softmax(logits_C: np.ndarray) -> np.ndarray:
    weights = np.exp(logits_C.astype(np.float64) - logits_C.max())
    return weights / weights.sum()
