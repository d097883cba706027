"""Classification of one text or two, from tables with a row an example.

B batch, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from upath import UPath

from stages.tasks.base import Evaluation, Features, Split, TaskData, TaskOptions
from stages.tasks.config import TaskKind
from stages.tasks.files import find_file, read_lines
from stages.tasks.tokens import WordPiece

Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One or two texts and the number of their class."""

    texts: tuple[str, ...]
    label: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """How a file of tab-separated columns is read. There is no quoting: a quote is text.

    Attributes:
      columns: Names of all columns, in order.
      texts: Columns of the texts.
      label: Column of the label.
      header: Whether the first line names the columns.
    """

    columns: tuple[str, ...]
    texts: tuple[str, ...]
    label: str
    header: bool


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A classification task.

    Attributes:
      name: As in the configuration.
      table: Form of its files.
      labels: Each label as it is written in the files, with the name of its class; class 0 first.
      scores: The task's scores by name, of (gold, predicted).
      primary: One of them.
      unordered: The order of the two texts means nothing.
      options: How examples become inputs.
    """

    name: str
    table: Table
    labels: Mapping[str, str]
    scores: Mapping[str, Score]
    primary: str
    options: TaskOptions
    unordered: bool = False
    kind: TaskKind = TaskKind.CLASSIFICATION

    def load(self, data: UPath, *, train_file: str | None = None, eval_file: str | None = None) -> TaskData:
        train = find_file(data, patterns=("train.tsv",), override=train_file, what="train_file")
        dev = find_file(data, patterns=("dev.tsv",), override=eval_file, what="eval_file")
        return TaskData(
            train=read_table(train, table=self.table, labels=tuple(self.labels)),
            dev=read_table(dev, table=self.table, labels=tuple(self.labels)),
            labels=tuple(self.labels.values()),
            train_file=str(train),
            dev_file=str(dev),
        )

    def features(
        self, examples: Sequence[Example], tokenizer: WordPiece, *, labels: tuple[str, ...], split: Split
    ) -> Features:
        del labels
        columns = [tokenizer.encode(texts) for texts in zip(*(example.texts for example in examples), strict=True)]
        both_orders = split is Split.TRAIN and self.unordered and self.options.double_unordered
        rows = list(enumerate(zip(*columns, strict=True)))
        if both_orders:
            rows += [(number, texts[::-1]) for number, texts in rows]
        ids, first_length, truncated = [], [], 0
        for _, texts in rows:
            kept = truncate(texts, max_tokens=self.options.max_length - 1 - len(texts))
            truncated += sum(map(len, kept)) < sum(map(len, texts))
            row = [tokenizer.cls, *kept[0], tokenizer.sep]
            first_length.append(len(row))
            for text in kept[1:]:
                row += [*text, tokenizer.sep]
            ids.append(np.array(row, np.int32))
        numbers = np.array([number for number, _ in rows], np.int32)
        gold = np.array([example.label for example in examples], np.int32)
        return Features(
            ids=ids,
            first_length=np.array(first_length, np.int32),
            examples=numbers,
            labels={"label": gold[numbers]},
            counts={"truncated": truncated},
        )

    def evaluate(
        self,
        examples: Sequence[Example],
        features: Features,
        logits: Sequence[np.ndarray],
        *,
        labels: tuple[str, ...],
    ) -> Evaluation:
        gold = np.array([example.label for example in examples])
        predicted = np.zeros(len(examples), int)
        predicted[features.examples] = np.argmax(np.stack(list(logits)), axis=-1)
        scores = {name: score(gold, predicted) for name, score in self.scores.items()}
        confusion = np.zeros((len(labels), len(labels)), int)
        np.add.at(confusion, (gold, predicted), 1)
        written = list(self.labels)
        rows = "".join(f"{index}\t{written[label]}\n" for index, label in enumerate(predicted))
        return Evaluation(
            scores=scores,
            files={"predictions.tsv": "index\tprediction\n" + rows},
            warnings=_one_class(gold, predicted, labels),
            details={"confusion": confusion.tolist(), "labels": list(labels)},
        )


def _one_class(gold: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(predicted.tolist())) > 1 or len(set(gold.tolist())) < 2:
        return ()
    label = int(predicted[0])
    majority = int(np.bincount(gold).argmax())
    name = "the majority class" if label == majority else "one class"
    return (f"degenerate: all {len(predicted)} predictions are {name}, {labels[label]}",)


def truncate(texts: Sequence[Sequence[int]], *, max_tokens: int) -> list[Sequence[int]]:
    """Cuts the ends of texts until all fit together: always of the longest, the later one on a tie (BERT)."""
    lengths = [len(text) for text in texts]
    while sum(lengths) > max_tokens:
        longest = max(range(len(lengths)), key=lambda index: (lengths[index], index))
        lengths[longest] -= 1
    return [text[:length] for text, length in zip(texts, lengths, strict=True)]


def read_table(path: UPath, *, table: Table, labels: tuple[str, ...]) -> list[Example]:
    """Reads every row; a wrong one is named with its line, what was expected and what was found."""
    lines = read_lines(path)
    columns = table.columns
    if table.header:
        _, header = next(lines, (1, ""))
        columns = tuple(header.split("\t"))
        missing = [name for name in (*table.texts, table.label) if name not in columns]
        if missing:
            raise ValueError(
                f"{path}:1: the header lacks {', '.join(map(repr, missing))}; "
                f"expected the columns {', '.join(table.columns)}; found {', '.join(columns)}"
            )
    numbers = {label: number for number, label in enumerate(labels)}
    text_columns = [columns.index(name) for name in table.texts]
    label_column = columns.index(table.label)
    examples = []
    for line, row in lines:
        fields = row.split("\t")
        if len(fields) != len(columns):
            raise ValueError(
                f"{path}:{line}: expected {len(columns)} columns ({', '.join(columns)}), "
                f"found {len(fields)}: {row[:80]!r}"
            )
        if fields[label_column] not in numbers:
            raise ValueError(
                f"{path}:{line}: column {table.label!r} holds {fields[label_column]!r}, "
                f"expected one of {', '.join(labels)}"
            )
        examples.append(
            Example(texts=tuple(fields[column] for column in text_columns), label=numbers[fields[label_column]])
        )
    if not examples:
        raise ValueError(f"{path}: no examples; expected rows of {', '.join(columns)}")
    return examples
