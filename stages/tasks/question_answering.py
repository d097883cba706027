"""Extractive question answering: windows over the context, spans of tokens, answers from character offsets.

T tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from upath import UPath

from stages.run_warning import RunWarning, WarningKind
from stages.tasks import scores
from stages.tasks.base import Evaluation, Features, Split, TaskData, TaskOptions
from stages.tasks.files.question_files import read_questions
from stages.tasks.files.reading import find_file
from stages.tasks.files.squad import Question
from stages.tasks.named import TASKS, TaskKind, TaskName
from stages.tasks.spans import Candidate, Window, rank, window_candidates
from stages.tasks.thresholds import make_thresholds
from stages.tasks.tokens import WordPiece

NULL_THRESHOLD = -2.75  # log odds of 'no answer' above which none is given: google-research/electra's, tuned on SQuAD


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
class QuestionAnswering:
    """Questions with an answer in their context, or perhaps none.

    Attributes:
      name: As in the configuration.
      primary: The score by which runs are compared.
      options: Windows and answers.
      version: What its files have in their names: `v1.1`.
      kind: `ANSWERABILITY` where a question may have no answer.
    """

    name: str
    options: TaskOptions
    primary: str = "exact_match"
    version: str = ""
    kind: TaskKind = TaskKind.QUESTION_ANSWERING

    @property
    def unanswerable(self) -> bool:
        """Whether a question may have no answer."""
        return self.kind is TaskKind.ANSWERABILITY

    def load(self, data: UPath, *, train_file: str | None = None, eval_file: str | None = None) -> TaskData:
        train_path = find_file(data, patterns=self._patterns("train"), override=train_file, what="train_file")
        patterns = (*self._patterns("dev"), *self._patterns("validation"))
        dev_path = find_file(data, patterns=patterns, override=eval_file, what="eval_file")
        return TaskData(
            train=read_questions(train_path, unanswerable=self.unanswerable),
            dev=read_questions(dev_path, unanswerable=self.unanswerable),
            train_file=str(train_path),
            dev_file=str(dev_path),
        )

    def _patterns(self, part: str) -> tuple[str, ...]:
        official: tuple[str, ...] = ()
        if self.version:
            official = tuple(
                f"{part}{between}{self.version}{rest}{ending}"
                for between, rest in (("-", ""), ("*", "*"))
                for ending in (".json", ".json.gz")
            )
        plain = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet", "-*.parquet")
        return (*official, *(f"{part}{ending}" for ending in plain))

    def features(
        self, examples: Sequence[Question], tokenizer: WordPiece, *, labels: tuple[str, ...], split: Split
    ) -> Features:
        """A row a window. In training a window without the whole answer has its span at [CLS], position 0.

        A window that lacks the answer of a question that has one is `unanswerable` like any other without.
        """
        del labels
        questions = tokenizer.encode([example.text for example in examples])
        contexts = encode_contexts(examples, tokenizer)
        ids, first_length, owners, spans, windows = [], [], [], [], []
        faults, cut = [], 0
        for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
            context = contexts[example.context]
            target = None
            if split is not Split.TRAIN and example.answers and not _can_be_answered(example):
                faults.append(_misplaced(example))
            if split is Split.TRAIN and (example.answers or not self.unanswerable):
                target = answer_tokens(example, context)
                if target is None:
                    faults.append(_misplaced(example))
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
            labels={"start": spans_array[:, 0], "end": spans_array[:, 1]}
            | ({"unanswerable": (spans_array[:, 1] == 0).astype(np.float32)} if self.unanswerable else {}),
            counts={"answer_not_in_context": len(faults), "question_cut": cut, "windows": len(ids)},
            details=windows,
            faults=faults,
        )

    def candidates(
        self, features: Features, logits: Sequence[np.ndarray], *, num_questions: int
    ) -> tuple[list[list[Candidate]], np.ndarray]:
        """The best spans of each question over all its windows, and the log odds that it has no answer.

        Args:
          features: Of the dev split, a row a window.
          logits: Of each row, as `stages.tasks.answers.AnswerNetwork` gives them.
        """
        found: list[list[Candidate]] = [[] for _ in range(num_questions)]
        odds = np.full(num_questions, np.inf)  # the lowest over the windows
        for window, logits_TC in zip(features.details, logits, strict=True):
            if self.unanswerable:
                odds[window.question] = min(odds[window.question], logits_TC[0, -1])
            found[window.question].extend(
                window_candidates(
                    window,
                    logits_TC[:, :-1] if self.unanswerable else logits_TC,
                    n_best=self.options.n_best,
                    max_answer_length=self.options.max_answer_length,
                )
            )
        return found, odds

    def evaluate(
        self,
        examples: Sequence[Question],
        features: Features,
        logits: Sequence[np.ndarray],
        *,
        labels: tuple[str, ...],
    ) -> Evaluation:
        del labels
        found, odds = self.candidates(features, logits, num_questions=len(examples))
        n_best = {
            example.id: rank(candidates, example.context, n_best=self.options.n_best)
            for example, candidates in zip(examples, found, strict=True)
        }
        texts = {name: str(answers[0]["text"]) for name, answers in n_best.items()}
        files = {"nbest_predictions.json": _as_json(n_best)}
        warnings = []
        whole = sum(text == example.context for example, text in zip(examples, texts.values(), strict=True))
        if whole == len(examples):
            warnings.append(RunWarning(WarningKind.DEGENERATE, "every predicted answer is its whole context"))
        gold = [example.texts for example in examples]
        if not self.unanswerable:
            empty = sum(not text for text in texts.values())
            if empty:
                text = f"{empty} of {len(texts)} predicted answers are empty"
                warnings.insert(0, RunWarning(WarningKind.EMPTY_ANSWERS, text))
            return Evaluation(
                scores=scores.answer_scores(gold, list(texts.values())),
                files={"predictions.json": _as_json(texts)} | files,
                warnings=tuple(warnings),
            )
        none = odds > NULL_THRESHOLD
        if none.all() or not none.any():
            text = f"{'no' if none.all() else 'every'} question is answered"
            warnings.append(RunWarning(WarningKind.DEGENERATE, text))
        thresholds = make_thresholds(gold, list(texts.values()), odds.tolist())
        chosen = {
            name: "" if unanswered else text for (name, text), unanswered in zip(texts.items(), none, strict=True)
        }
        return Evaluation(
            scores=thresholds.scores(NULL_THRESHOLD)
            | {f"best/{name}": thresholds.best(name)[0] for name in ("exact_match", "f1")},
            files={
                "predictions.json": _as_json(chosen),
                "null_odds.json": _as_json(dict(zip(texts, odds.tolist(), strict=True))),
                "answers.json": _as_json(texts),  # for the official search of the best threshold
            }
            | files,
            warnings=tuple(warnings),
            details=thresholds.as_json(threshold=NULL_THRESHOLD),
        )


def _as_json(value: Mapping) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def make_squad_v1(options: TaskOptions) -> QuestionAnswering:
    """SQuAD 1.1."""
    return _make(TaskName.SQUAD_V1, options, version="v1.1")


def make_squad_v2(options: TaskOptions) -> QuestionAnswering:
    """SQuAD 2.0: half of dev's questions have no answer."""
    return _make(TaskName.SQUAD_V2, options, version="v2.0")


def make_mrqa(name: TaskName, options: TaskOptions) -> QuestionAnswering:
    """One of the sets that MRQA brought into one form. Its own files are called as the set: give train_file and
    eval_file, or name no data."""
    return _make(name, options)


def _make(name: TaskName, options: TaskOptions, *, version: str = "") -> QuestionAnswering:
    return QuestionAnswering(
        name=name, primary=TASKS[name].primary, options=options, version=version, kind=TASKS[name].kind
    )


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
    if not example.answers or not example.holds(example.answers[0]):
        return None
    answer = example.answers[0].trimmed
    starts, ends = context.offsets[:, 0], context.offsets[:, 1]
    touched = np.nonzero((starts < answer.end) & (ends > answer.start))[0]
    if not len(touched):
        return None
    return int(touched[0]), int(touched[-1])


def _can_be_answered(example: Question) -> bool:
    """Whether its context has one of the texts that count as right, wherever."""
    context = example.context.lower()
    return any(map(example.holds, example.answers)) or any(text.strip().lower() in context for text in example.texts)


def _misplaced(example: Question) -> str:
    """Says what is wrong with the first answer."""
    if not example.answers:
        return f"question {example.id!r} has no answer"
    answer = example.answers[0].trimmed
    place = example.context.find(answer.text) if answer.text else -1
    where = f"but at {place}" if place >= 0 else "nor anywhere in its context"
    return f"question {example.id!r}: the answer {answer.text[:40]!r} is not at {answer.start}, {where}"
