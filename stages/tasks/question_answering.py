"""Extractive question answering: windows over the context, spans of tokens, answers from character offsets.

B batch, T tokens, C kinds of logits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from upath import UPath

from stages.electra.config import ElectraConfig, HeadKind
from stages.run_warning import RunWarning, WarningKind
from stages.tasks import scores
from stages.tasks.base import Evaluation, Features, KindWork, Split, Task, TaskData, TaskOptions, entropy
from stages.tasks.files.question_files import read_questions
from stages.tasks.files.reading import find_files, with_endings
from stages.tasks.files.squad import Question
from stages.tasks.form import TaskForm
from stages.tasks.kinds import TaskKind
from stages.tasks.named import TASKS, TaskName
from stages.tasks.spans import (
    Candidate,
    Window,
    leave_out_spaces,
    owned_tokens,
    rank,
    take_in_marks,
    window_bounds,
    window_candidates,
)
from stages.tasks.thresholds import make_thresholds
from stages.tasks.tokens import WordPiece

if TYPE_CHECKING:
    import jax

    from stages.electra.joint_model import Params
    from stages.electra.network import Network
    from stages.training.state import Batch

NULL_THRESHOLD = -2.75  # log odds of 'no answer' above which none is given: google-research/electra's, tuned on SQuAD
_UNANSWERABLE_WEIGHT = 0.5  # of the loss of 'no answer in this window' beside the span's (google-research/electra)


class Context(NamedTuple):
    """The tokens of a context: their ids, and of each the first character and the one after the last [T, 2].

    The combining marks that follow a token are its own.
    """

    ids: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """Questions with an answer in their context, or perhaps none.

    Attributes:
      version: The version in the names of its files: `v1.1`.
      kind: `ANSWERABILITY` where a question may have no answer.
    """

    version: str = ""
    kind: TaskKind = TaskKind.QUESTION_ANSWERING

    @property
    def asked(self) -> tuple[str, ...]:
        return ("question", "context")

    @property
    def unanswerable(self) -> bool:
        """Whether a question may have no answer."""
        return self.kind is TaskKind.ANSWERABILITY

    def load(self, data: UPath, *, train_file: str | None = None, eval_file: str | None = None) -> TaskData:
        train_paths = find_files(data, patterns=self._patterns("train"), override=train_file, what="train_file")
        patterns = (*self._patterns("dev"), *self._patterns("validation"))
        dev_paths = find_files(data, patterns=patterns, override=eval_file, what="eval_file")
        return TaskData(
            train=read_questions(*train_paths, unanswerable=self.unanswerable),
            dev=read_questions(*dev_paths, unanswerable=self.unanswerable),
            train_file=", ".join(map(str, train_paths)),
            dev_file=", ".join(map(str, dev_paths)),
        )

    def _patterns(self, part: str) -> tuple[str, ...]:
        names = (f"{part}-{self.version}", f"{part}*{self.version}*") if self.version else ()
        endings = (".json", ".jsonl", ".ndjson", ".parquet")
        return (*with_endings(names, (".json",)), *with_endings([part], endings), f"{part}-*.parquet")

    def features(
        self, examples: Sequence[Question], tokenizer: WordPiece, *, labels: tuple[str, ...], split: Split
    ) -> Features:
        """A row for each window. In training, a window without the whole answer has its span at [CLS], position 0.

        A window that lacks its question's answer is `unanswerable`, like one whose question has none.
        """
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
                    offsets, owned = context.offsets[start:end], owned_tokens(bounds, index)
                    windows.append(Window(question=number, first=len(head), offsets=offsets, owned=owned))
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

    def evaluate(self, examples: Sequence[Question], features: Features, logits: Sequence[np.ndarray]) -> Evaluation:
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


_VERSIONS = {TaskName.SQUAD_V1: "v1.1", TaskName.SQUAD_V2: "v2.0"}  # in the names of their files


def make_questions(name: TaskName, options: TaskOptions) -> QuestionAnswering:
    """A built-in task: SQuAD, or one of MRQA's sets, which share one format.

    MRQA names its files after the set: give train_file and eval_file, or name no data.
    """
    task = TASKS[name]
    version = _VERSIONS.get(name, "")
    return QuestionAnswering(name=name, primary=task.primary, options=options, version=version, kind=task.kind)


def encode_contexts(examples: Sequence[Question], tokenizer: WordPiece) -> dict[str, Context]:
    """Encodes every different context once."""
    texts = list(dict.fromkeys(example.context for example in examples))
    contexts = {}
    for text, encoding in zip(texts, tokenizer.encode_with_offsets(texts), strict=True):
        offsets_T2 = leave_out_spaces(text, np.array(encoding.offsets, np.int32).reshape(-1, 2))
        contexts[text] = Context(np.array(encoding.ids, np.int32), take_in_marks(text, offsets_T2))
    return contexts


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
    """Whether its context contains, anywhere, one of the texts that count as right."""
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


def _make_declared(name: str, form: TaskForm, options: TaskOptions) -> QuestionAnswering:
    return QuestionAnswering(name=name, primary=form.primary, options=options, kind=form.kind)


def _make_network(config: ElectraConfig, head: HeadKind, key: "jax.Array", *, unanswerable: bool) -> "Network":
    from stages.tasks.answers import AnswerNetwork

    return AnswerNetwork(config, kind=head, unanswerable=unanswerable, key=key)


def kind_of_head(head: "Params") -> tuple[TaskKind, HeadKind]:
    """What the parameters of a head that answers say of it: whether it may answer 'none', and whose it is."""
    kind = TaskKind.ANSWERABILITY if "unanswerable" in head else TaskKind.QUESTION_ANSWERING
    return kind, HeadKind.ORIGINAL if "end" in head else HeadKind.HUGGINGFACE


def _losses(logits_BTC: "jax.Array", batch: "Batch") -> tuple["jax.Array", "jax.Array"]:
    """The mean of the cross-entropies of start and end, and the weighted one of 'no answer in this window'."""
    import jax.numpy as jnp

    from stages.electra.layout import real_tokens
    from stages.electra.losses import binary_cross_entropy, cross_entropy

    # Every real token may be chosen that the head leaves in; [CLS] stands for 'not in this window'.
    real_BT = real_tokens(batch)
    starts_BT, ends_BT = (jnp.where(real_BT, logits_BTC[..., n], -1e9) for n in (0, 1))
    losses_B = (cross_entropy(starts_BT, batch["start"]) + cross_entropy(ends_BT, batch["end"])) / 2
    if "unanswerable" in batch:
        none_B = binary_cross_entropy(logits_BTC[:, 0, -1], batch["unanswerable"])
        losses_B += _UNANSWERABLE_WEIGHT * none_B
    return losses_B, batch["weight"]


def _constant_loss(features: Features) -> float:
    """Without an answer the span is [CLS], with one [CLS] or any token after the question."""
    none_N = np.asarray(features.labels.get("unanswerable", np.zeros(features.num_rows, np.float32)))
    place = float(np.mean((1 - none_N) * np.log(features.lengths - features.first_length + 1)))
    return place + (1 + _UNANSWERABLE_WEIGHT) * entropy((none_N.mean(), 1 - none_N.mean()))


def _exported_head(task: Task, head: "Params") -> "Params | None":
    """Independent spans are transformers' own head; it has none for joint ones, nor for 'no answer'."""
    return None if "end" in head else {"prediction": head["prediction"]}


WORK: Mapping[TaskKind, KindWork] = {
    kind: KindWork(
        make_task=_make_declared,
        make_network=partial(_make_network, unanswerable=kind is TaskKind.ANSWERABILITY),
        losses=_losses,
        constant_loss=_constant_loss,
        exported_head=_exported_head,
    )
    for kind in (TaskKind.QUESTION_ANSWERING, TaskKind.ANSWERABILITY)
}
