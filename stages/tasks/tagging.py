"""Tagging of words in CoNLL's column files, scored by chunks.

B batch, T tokens, C classes.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TYPE_CHECKING

import numpy as np
from upath import UPath

from stages.electra.config import IGNORED, ElectraConfig, HeadKind
from stages.run_warning import RunWarning, WarningKind
from stages.tasks import scores
from stages.tasks.base import Evaluation, Features, KindWork, Split, Task, TaskData, TaskOptions, entropy
from stages.tasks.files.reading import find_files, read_lines, with_endings
from stages.tasks.files.tables import file_format, read_rows
from stages.tasks.form import TaskForm
from stages.tasks.kinds import TaskKind
from stages.tasks.named import TASKS, TaskName
from stages.tasks.tokens import WordPiece

if TYPE_CHECKING:
    import jax

    from stages.electra.network import Network
    from stages.training.state import Batch

logger = logging.getLogger(__name__)

_DOCUMENT = "-DOCSTART-"  # CoNLL 2003 begins each document with it
_SEPARATOR = re.compile(r"[ \t]+")  # no other white space: a non-breaking space is part of a word
_ENDINGS = (".txt", ".tsv", ".conll", ".jsonl", ".ndjson", ".json", ".parquet")
_TAG = re.compile(r"O|[BIES]-\S+")

Check = Callable[[str, str, str], None]  # of a tag, its place and its column: raises where it is wrong


def _patterns(split: str) -> tuple[str, ...]:
    return (*with_endings([split], _ENDINGS), f"{split}-*.parquet")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Words with their tags.

    Attributes:
      lines: The lines they were read from, to be written beside the predictions.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tagging(Task):
    """A tagging task.

    Attributes:
      columns: Names of the columns of a file with a word a line, word first, tag last.
      fields: Columns of the words and of the tags in JSON lines or Parquet, where a sentence is a row of lists.
      known: All allowed tags, to which numbers in JSON lines or Parquet point; () allows any.
      chunked: Whether tags mark chunks (B-NP, I-NP); else each word is scored on its own.
    """

    kind = TaskKind.TAGGING
    columns: tuple[str, ...]
    fields: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    chunked: bool = True

    def load(self, data: UPath, *, train_file: str | None = None, eval_file: str | None = None) -> TaskData:
        """Reads both files. The labels are the tags of training: a tag that only dev has can only be missed."""
        train_paths = find_files(data, patterns=_patterns("train"), override=train_file, what="train_file")
        patterns = tuple(chain.from_iterable(map(_patterns, ("dev", "valid", "validation", "test"))))
        dev_paths = find_files(data, patterns=patterns, override=eval_file, what="eval_file")
        train, dev = ([one for path in paths for one in self._read(path)] for paths in (train_paths, dev_paths))
        tags = {*self.known} or {tag for sentence in train for tag in sentence.tags}
        outside = ("O",) if self.chunked else ()
        labels = self.known or (*outside, *sorted(tags - {*outside}, key=lambda tag: (tag[2:], tag)))
        if self._recoded:
            train, dev = ([_recode(sentence) for sentence in sentences] for sentences in (train, dev))
            kinds = sorted({tag[2:] for tag in tags - {"O"}})
            labels = ("O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BIES"))
        train_names, dev_names = (", ".join(map(str, paths)) for paths in (train_paths, dev_paths))
        return TaskData(train=train, dev=dev, labels=labels, train_file=train_names, dev_file=dev_names)

    @property
    def _recoded(self) -> bool:
        """Whether the model learns other tags than the files have."""
        return self.chunked and self.options.bioes

    def _read(self, path: UPath) -> list[Sentence]:
        if file_format(path) in (".jsonl", ".json", ".parquet"):
            if not self.fields:
                raise ValueError(f"{path}: {self.name} does not say which columns of it hold the words and the tags")
            return read_sentences(path, fields=self.fields, known=self.known, check=self._check)
        if not self.columns:
            raise ValueError(f"{path}: {self.name} does not say what columns it has")
        return read_columns(path, columns=self.columns, check=self._check)

    def _check(self, tag: str, place: str, column: str) -> None:
        """Raises a ValueError that names the place of a wrong tag."""
        if self.known and tag not in self.known:
            raise ValueError(f"{place}: column {column!r} holds {tag!r}, expected one of {', '.join(self.known)}")
        if self.chunked and not _TAG.fullmatch(tag):
            raise ValueError(f"{place}: column {column!r} holds {tag!r}, expected O, B-TYPE, I-TYPE, E-TYPE or S-TYPE")

    def features(
        self, examples: Sequence[Sentence], tokenizer: WordPiece, *, labels: tuple[str, ...], split: Split
    ) -> Features:
        """A row for each sentence, several for one that is longer than a row: every word gets a prediction."""
        numbers = {tag: number for number, tag in enumerate(labels)}
        vocabulary = sorted({word for sentence in examples for word in sentence.words})
        pieces = dict(zip(vocabulary, tokenizer.encode_words(vocabulary), strict=True))
        room = self.options.max_length - 2
        ids, tags, owners, num_split = [], [], [], 0
        for owner, sentence in enumerate(examples):
            words = [pieces[word][:room] for word in sentence.words]
            rows = pack([len(word) for word in words], room=room)
            num_split += len(rows) > 1
            for first, last in rows:
                row, row_tags = [tokenizer.cls], [IGNORED]
                for word, tag in zip(words[first:last], sentence.tags[first:last], strict=True):
                    row += word
                    row_tags += [numbers.get(tag, IGNORED), *[IGNORED] * (len(word) - 1)]
                ids.append(np.array([*row, tokenizer.sep], np.int32))
                tags.append(np.array([*row_tags, IGNORED], np.int32))
                owners.append(owner)
        # Where each word starts is kept apart from the labels: a word whose tag training never saw is IGNORED.
        starts = [np.cumsum([0, *(len(pieces[word][:room]) for word in sentence.words)])[:-1] for sentence in examples]
        return Features(
            ids=ids,
            first_length=np.array([len(row) for row in ids], np.int32),
            examples=np.array(owners, np.int32),
            labels={"labels": tags},
            counts={"split": num_split},
            details={"starts": starts, "labels": labels},
        )

    def predict(self, features: Features, logits: Sequence[np.ndarray]) -> list[Sequence[str]]:
        """The tags of each sentence, of those that the model knows."""
        starts, labels = features.details["starts"], features.details["labels"]
        classes: list[list[np.ndarray]] = [[] for _ in starts]
        for owner, logits_TC in zip(features.examples, logits, strict=True):
            classes[owner].append(np.argmax(logits_TC, axis=-1)[1:-1])  # without [CLS] and [SEP]
        return [
            [labels[number] for number in np.concatenate(parts)[places]]
            for parts, places in zip(classes, starts, strict=True)
        ]

    def evaluate(self, examples: Sequence[Sentence], features: Features, logits: Sequence[np.ndarray]) -> Evaluation:
        predicted = self.predict(features, logits)
        gold: list[Sequence[str]] = [sentence.tags for sentence in examples]
        unseen = sorted({tag for tags in gold for tag in tags}.difference(features.details["labels"]))
        num_unseen = sum(tag in unseen for tags in gold for tag in tags)
        if self._recoded:
            gold, predicted = _plain(gold), _plain(predicted)
        flat_gold = [tag for tags in gold for tag in tags]
        flat_predicted = [tag for tags in predicted for tag in tags]
        matches = sum(a == b for a, b in zip(flat_gold, flat_predicted, strict=True))
        warnings = []
        if len(set(flat_predicted)) == 1:
            text = f"all {len(flat_predicted)} words are tagged {flat_predicted[0]}"
            warnings.append(RunWarning(WarningKind.DEGENERATE, text))
        if unseen:
            text = f"{num_unseen} scored words have tags that training has not: {', '.join(unseen)}"
            warnings.append(RunWarning(WarningKind.OUT_OF_REACH, text))
        lines = (
            "".join(f"{line} {tag}\n" for line, tag in zip(sentence.lines, tags, strict=True))
            for sentence, tags in zip(examples, predicted, strict=True)
        )
        return Evaluation(
            scores=(scores.chunk_scores(gold, predicted) if self.chunked else {})
            | {"accuracy": 100.0 * matches / len(flat_gold)},
            files={"predictions.txt": "\n".join(lines) + "\n"},
            warnings=tuple(warnings),
            details={"by_type": scores.chunk_scores_by_type(gold, predicted)} if self.chunked else {},
        )


def make_conll2000(options: TaskOptions) -> Tagging:
    """Text chunking; Tjong Kim Sang and Buchholz 2000. Published results are on test: it has no dev part."""
    return Tagging(
        name=TaskName.CONLL2000,
        columns=("word", "part of speech", "chunk tag"),
        primary=TASKS[TaskName.CONLL2000].primary,
        options=options,
    )


def _plain(tags: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The same chunks as B- and I- tags."""
    return [scores.tag_words(scores.chunks(each), num_words=len(each)) for each in tags]


def _recode(sentence: Sentence) -> Sentence:
    """The sentence with BIOES tags."""
    tags = scores.tag_words(scores.chunks(sentence.tags), num_words=len(sentence.words), bioes=True)
    return replace(sentence, tags=tuple(tags))


def pack(lengths: Sequence[int], *, room: int) -> list[tuple[int, int]]:
    """Cuts words of these lengths, in order, into as few rows as fit: (first, after the last) of each."""
    rows, first, used = [], 0, 0
    for index, length in enumerate(lengths):
        if used + length > room:
            rows.append((first, index))
            first, used = index, 0
        used += length
    return [*rows, (first, len(lengths))]


def read_columns(path: UPath, *, columns: tuple[str, ...], check: Check) -> list[Sentence]:
    """Reads sentences, a word a line, an empty line between them. Marks of a document's start are left out."""
    rows: list[list[str]] = []
    num_marks = 0
    for number, line in read_lines(path):
        line = line.strip(" \t")
        fields = _SEPARATOR.split(line) if line else []
        if fields and fields[0] == _DOCUMENT:
            num_marks += 1
            fields = []
        if fields and len(fields) != len(columns):
            raise ValueError(
                f"{path}:{number}: expected {len(columns)} columns ({', '.join(columns)}), "
                f"found {len(fields)}: {line[:80]!r}"
            )
        if fields:
            check(fields[-1], f"{path}:{number}", columns[-1])
        rows.append(fields)
    sentences = []
    for has_words, found in groupby(rows, key=bool):
        if has_words:
            lines = list(found)
            words, tags = (tuple(fields[place] for fields in lines) for place in (0, -1))
            sentences.append(Sentence(words=words, tags=tags, lines=tuple(map(" ".join, lines))))
    if not sentences:
        raise ValueError(f"{path}: no sentences; expected lines of {', '.join(columns)}")
    if num_marks:
        logger.info("%s: %d lines of %s, which mark documents, are left out", path, num_marks, _DOCUMENT)
    return sentences


def read_sentences(path: UPath, *, fields: tuple[str, ...], known: tuple[str, ...], check: Check) -> list[Sentence]:
    """Reads sentences, each a row with a list of words and one of tags, or of their numbers in `known`."""
    sentences = []
    for row in read_rows(path, needed=fields).rows:
        for column, value in zip(fields, row.values, strict=True):
            if not isinstance(value, list):
                raise ValueError(f"{row.place}: column {column!r} holds {value!r}, expected a list")
        words, values = row.values
        if wrong := [word for word in words if not isinstance(word, str) and type(word) is not int]:
            raise ValueError(f"{row.place}: column {fields[0]!r} holds {wrong[0]!r} among its words, expected text")
        if len(words) != len(values):
            raise ValueError(f"{row.place}: {len(words)} words have {len(values)} tags")
        tags = [known[tag] if isinstance(tag, int) and 0 <= tag < len(known) else str(tag) for tag in values]
        for tag in tags:
            check(tag, row.place, fields[-1])
        lines = tuple(f"{word} {tag}" for word, tag in zip(words, tags, strict=True))
        if words:
            sentences.append(Sentence(words=tuple(map(str, words)), tags=tuple(tags), lines=lines))
    return sentences


def _make_declared(name: str, form: TaskForm, options: TaskOptions) -> Tagging:
    return Tagging(
        name=name,
        columns=form.columns,
        fields=(*form.texts, form.label) if form.label else (),
        known=form.labels,
        chunked=form.primary != "accuracy",
        primary=form.primary,
        options=options,
    )


def _make_network(config: ElectraConfig, head: HeadKind, key: "jax.Array") -> "Network":
    del head  # both are one dense layer
    from stages.electra.network import TokenClassifier

    return TokenClassifier(config, key=key)


def _losses(logits_BTC: "jax.Array", batch: "Batch") -> tuple["jax.Array", "jax.Array"]:
    """Cross-entropies of the first token of each word."""
    import jax.numpy as jnp

    from stages.electra.losses import cross_entropy

    labels_BT = batch["labels"]
    weights_BT = (labels_BT != IGNORED) * batch["weight"][:, None]
    return cross_entropy(logits_BTC, jnp.maximum(labels_BT, 0)), weights_BT


def _constant_loss(features: Features) -> float:
    numbers = np.concatenate(features.labels["labels"])
    counts_C = np.bincount(numbers[numbers != IGNORED])
    return entropy(counts_C / max(1, counts_C.sum()))


WORK: Mapping[TaskKind, KindWork] = {
    TaskKind.TAGGING: KindWork(
        make_task=_make_declared, make_network=_make_network, losses=_losses, constant_loss=_constant_loss
    )
}
