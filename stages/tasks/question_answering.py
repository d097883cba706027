"""Extractive question answering: windows over the context, spans of tokens, answers from character offsets.

T tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from upath import UPath

from stages.tasks import scores
from stages.tasks.base import Evaluation, Features, Split, TaskData, TaskOptions
from stages.tasks.config import TASKS, TaskKind, TaskName
from stages.tasks.files import find_file
from stages.tasks.squad import Answer, Question, read_squad
from stages.tasks.tokens import WordPiece


@dataclass(frozen=True, kw_only=True)
class Context:
    """A tokenised context.

    Attributes:
      ids: Token ids.
      offsets: First character and the one after the last of each token [T, 2].
    """

    ids: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Window:
    """What the answers of a row need.

    Attributes:
      question: Number of the question.
      first: Position in the row of the window's first context token.
      offsets: Characters of its context tokens [T, 2].
      owned: Which of them have at least as much context here as in any other window [T].
    """

    question: int
    first: int
    offsets: np.ndarray
    owned: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A possible answer: its characters in the context, and its logits."""

    start: int
    end: int
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering:
    """SQuAD 1.1: every question has an answer in its context; start and end are scored independently.

    Attributes:
      name: As in the configuration.
      primary: The score by which runs are compared.
      options: Windows and answers.
    """

    name: str
    options: TaskOptions
    primary: str = "exact_match"
    kind: TaskKind = TaskKind.QUESTION_ANSWERING

    def load(self, data: UPath, *, train_file: str | None = None, eval_file: str | None = None) -> TaskData:
        paths = {
            key: find_file(
                data,
                patterns=(f"{part}-v1.1.json", f"{part}-v1.1.json.gz", f"{part}*v1.1*.json", f"{part}*v1.1*.json.gz"),
                override=override,
                what=key,
            )
            for key, part, override in (("train_file", "train", train_file), ("eval_file", "dev", eval_file))
        }
        return TaskData(
            train=read_squad(paths["train_file"]),
            dev=read_squad(paths["eval_file"]),
            train_file=str(paths["train_file"]),
            dev_file=str(paths["eval_file"]),
        )

    def features(
        self, examples: Sequence[Question], tokenizer: WordPiece, *, labels: tuple[str, ...], split: Split
    ) -> Features:
        """A row a window. In training a window without the whole answer has its span at [CLS], position 0."""
        del labels
        questions = tokenizer.encode([example.text for example in examples])
        contexts = encode_contexts(examples, tokenizer)
        ids, first_length, owners, spans, windows = [], [], [], [], []
        not_found, cut = [], 0
        for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
            context = contexts[example.context]
            target = None
            if split is Split.TRAIN:
                target = answer_tokens(example, context)
                if target is None:
                    not_found.append(example.id)
                    continue
            cut += len(question) > self.options.max_question_length
            head = [tokenizer.cls, *question[: self.options.max_question_length], tokenizer.sep]
            room = self.options.max_length - len(head) - 1
            bounds = window_bounds(len(context.ids), room=room, stride=self.options.doc_stride)
            for index, (start, end) in enumerate(bounds):
                ids.append(np.concatenate([head, context.ids[start:end], [tokenizer.sep]]).astype(np.int32))
                first_length.append(len(head))
                owners.append(number)
                if split is Split.TRAIN:
                    inside = target is not None and start <= target[0] and target[1] < end
                    shift = len(head) - start
                    spans.append((target[0] + shift, target[1] + shift) if target and inside else (0, 0))
                else:
                    spans.append((0, 0))
                    windows.append(
                        Window(
                            question=number,
                            first=len(head),
                            offsets=context.offsets[start:end],
                            owned=_owned(bounds, index),
                        )
                    )
        spans_array = np.array(spans, np.int32).reshape(-1, 2)
        return Features(
            ids=ids,
            first_length=np.array(first_length, np.int32),
            examples=np.array(owners, np.int32),
            labels={"start": spans_array[:, 0], "end": spans_array[:, 1]},
            counts={"answer_not_in_context": len(not_found), "question_cut": cut, "windows": len(ids)},
            details=windows if split is Split.DEV else {"answer_not_in_context": not_found},
        )

    def evaluate(
        self,
        examples: Sequence[Question],
        features: Features,
        logits: Sequence[np.ndarray],
        *,
        labels: tuple[str, ...],
    ) -> Evaluation:
        del labels
        found: list[list[Candidate]] = [[] for _ in examples]
        for window, logits_T2 in zip(features.details, logits, strict=True):
            found[window.question].extend(
                window_candidates(
                    window,
                    logits_T2,
                    n_best=self.options.n_best,
                    max_answer_length=self.options.max_answer_length,
                )
            )
        n_best = {
            example.id: rank(candidates, example.context, n_best=self.options.n_best)
            for example, candidates in zip(examples, found, strict=True)
        }
        predictions = {name: str(answers[0]["text"]) for name, answers in n_best.items()}
        gold = [[answer.text for answer in example.answers] for example in examples]
        warnings = []
        empty = sum(not text for text in predictions.values())
        if empty:
            warnings.append(f"{empty} of {len(predictions)} predicted answers are empty")
        whole = sum(text == example.context for example, text in zip(examples, predictions.values(), strict=True))
        if whole == len(examples):
            warnings.append("degenerate: every predicted answer is its whole context")
        return Evaluation(
            scores=scores.answer_scores(gold, list(predictions.values())),
            files={
                "predictions.json": json.dumps(predictions, ensure_ascii=False, indent=1) + "\n",
                "nbest_predictions.json": json.dumps(n_best, ensure_ascii=False, indent=1) + "\n",
            },
            warnings=tuple(warnings),
        )


def make_squad_v1(options: TaskOptions) -> QuestionAnswering:
    """SQuAD 1.1."""
    return QuestionAnswering(name=TaskName.SQUAD_V1, primary=TASKS[TaskName.SQUAD_V1].primary, options=options)


def encode_contexts(examples: Sequence[Question], tokenizer: WordPiece) -> dict[str, Context]:
    """Encodes every different context once."""
    texts = list(dict.fromkeys(example.context for example in examples))
    return {
        text: Context(
            ids=np.array(encoding.ids, np.int32),
            offsets=np.array(encoding.offsets, np.int32).reshape(-1, 2),
        )
        for start in range(0, len(texts), 256)
        for text, encoding in _encoded(texts[start : start + 256], tokenizer)
    }


def _encoded(texts: list[str], tokenizer: WordPiece) -> Iterator:
    return zip(texts, tokenizer.encode_with_offsets(texts), strict=True)


def window_bounds(length: int, *, room: int, stride: int) -> list[tuple[int, int]]:
    """Token spans of the windows over a context: starts `stride` apart, each up to `room` long, none lost."""
    if room < 1:
        raise ValueError(f"max_length leaves {room} tokens for the context beside the question; raise max_length")
    step = min(stride, room)
    bounds = [(0, min(room, length))]
    while bounds[-1][1] < length:
        start = bounds[-1][0] + step
        bounds.append((start, min(start + room, length)))
    return bounds


def _owned(bounds: Sequence[tuple[int, int]], index: int) -> np.ndarray:
    """Tokens of window `index` that no other window gives more context (BERT's max-context rule).

    A token's context is the smaller of its distances to both ends of the window, plus 0.01 of its length; the
    first of equal windows owns the token.
    """
    start, end = bounds[index]
    positions = np.arange(start, end)
    best = _context_width(positions, bounds[index])
    owned = np.ones(len(positions), bool)
    for other, other_bounds in enumerate(bounds):
        if other == index or other_bounds[1] <= start or other_bounds[0] >= end:
            continue
        width = _context_width(positions, other_bounds)
        owned &= (width < best) if other < index else (width <= best)
    return owned


def _context_width(positions: np.ndarray, bounds: tuple[int, int]) -> np.ndarray:
    start, end = bounds
    width = np.minimum(positions - start, end - 1 - positions).astype(float)
    return np.where(width < 0, -1.0, width + 0.01 * (end - start))


def answer_tokens(example: Question, context: Context) -> tuple[int, int] | None:
    """First and last token of the first gold answer, or None if the context does not hold it there."""
    answer = _trimmed(example.answers[0])
    if not answer.text or example.context[answer.start : answer.end] != answer.text:
        return None
    starts, ends = context.offsets[:, 0], context.offsets[:, 1]
    touched = np.nonzero((starts < answer.end) & (ends > answer.start))[0]
    if not len(touched):
        return None
    return int(touched[0]), int(touched[-1])


def _trimmed(answer: Answer) -> Answer:
    left = len(answer.text) - len(answer.text.lstrip())
    return Answer(text=answer.text.strip(), start=answer.start + left)


def window_candidates(window: Window, logits_T2: np.ndarray, *, n_best: int, max_answer_length: int) -> list[Candidate]:
    """The best spans of a window: n_best starts x n_best ends, a start only where its window owns it."""
    first, length = window.first, len(window.offsets)
    start_logits, end_logits = logits_T2[first : first + length].T.astype(np.float64)
    starts = _top(np.where(window.owned, start_logits, -np.inf), n_best)
    starts = starts[window.owned[starts]]
    ends = _top(end_logits, n_best)
    spans = ends[None, :] - starts[:, None]
    rows, columns = np.nonzero((spans >= 0) & (spans < max_answer_length))
    totals = start_logits[starts[rows]] + end_logits[ends[columns]]
    order = np.argsort(-totals, kind="stable")[:n_best]
    return [
        Candidate(
            start=int(window.offsets[starts[rows[index]], 0]),
            end=int(window.offsets[ends[columns[index]], 1]),
            start_logit=float(start_logits[starts[rows[index]]]),
            end_logit=float(end_logits[ends[columns[index]]]),
        )
        for index in order
    ]


def _top(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the largest values, largest first, the earlier of equal ones first."""
    if len(values) > count:
        smallest = np.partition(values, len(values) - count)[len(values) - count]
        places = np.nonzero(values >= smallest)[0]
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:count]


def rank(candidates: Sequence[Candidate], context: str, *, n_best: int) -> list[Mapping[str, str | float]]:
    """The best different answers of a question over all its windows, with probabilities among them."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        best.setdefault(context[candidate.start : candidate.end].strip(), candidate)
        if len(best) == n_best:
            break
    if not best:  # an empty context
        return [{"text": "", "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}]
    totals = np.array([candidate.score for candidate in best.values()])
    weights = np.exp(totals - totals.max())
    return [
        {
            "text": text,
            "probability": float(weight),
            "start_logit": candidate.start_logit,
            "end_logit": candidate.end_logit,
        }
        for (text, candidate), weight in zip(best.items(), weights / weights.sum(), strict=True)
    ]
