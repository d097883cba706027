"""Tasks on one text or two: a class, several classes, or a number. They are read from tables with an example a row.

C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from upath import UPath

from stages.electra.config import ElectraConfig, HeadKind
from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Evaluation, Features, KindWork, Split, Task, TaskData, TaskOptions
from stages.tasks.files.reading import find_files, with_endings
from stages.tasks.files.tables import file_format, read_rows
from stages.tasks.form import TaskForm
from stages.tasks.kinds import TaskKind
from stages.tasks.targets import Classes, LabelSet, Number, Target, Verdict
from stages.tasks.tokens import WordPiece

if TYPE_CHECKING:
    import jax

    from stages.electra.joint_model import Params
    from stages.electra.network import Network

_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Example:
    """One or two texts and their label, as the task's target has it.

    Attributes:
      part: Name of the part of dev that it belongs to, where the parts are scored separately.
    """

    texts: tuple[str, ...]
    label: Any
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where texts and label are in a file.

    Attributes:
      texts: Columns of the texts.
      label: Column of the label.
      labels: The classes as the file writes them, with their numbers.
      header: Names of all columns of a file that does not begin with them.
      max_broken: How many rows are known to be broken; they are left out.
    """

    texts: tuple[str, ...]
    label: str
    labels: Mapping[str, int] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    max_broken: int = 0


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """A task on whole texts.

    Attributes:
      tsv: Layout of tab-separated files.
      tables: Layout of JSON lines, Parquet and CSV.
      target: What is predicted.
      unordered: The order of the two texts means nothing.
      dev_tsv: Layout of a tab-separated dev file, where it differs.
      dev_parts: Parts of dev that are scored separately; () scores dev as a whole.
      dev_files: Names of the dev file, where it is not called dev or validation.
    """

    tsv: Layout
    tables: Layout
    target: Target
    unordered: bool = False
    dev_tsv: Layout | None = None
    dev_parts: tuple[str, ...] = ()
    dev_files: tuple[str, ...] = ()

    @property
    def kind(self) -> TaskKind:
        return self.target.kind

    @property
    def asked(self) -> tuple[str, ...]:
        return ("text", "text_pair")[: len(self.tables.texts)]

    def load(self, data: UPath, *, train_file: str | None = None, eval_file: str | None = None) -> TaskData:
        """Reads train.tsv and dev.tsv, or train and validation as Hugging Face names them."""
        train_paths = find_files(data, patterns=_patterns("train"), override=train_file, what="train_file")
        train, broken = self._read(train_paths, split=Split.TRAIN)
        dev, dev_paths = [], []
        for part in self.dev_parts[: 1 if eval_file else None] or ("",):
            ending = f"_{part}" if part else ""
            patterns = self.dev_files or (*_patterns(f"dev{ending}"), *_patterns(f"validation{ending}"))
            paths = find_files(data, patterns=patterns, override=eval_file, what="eval_file")
            examples, more_broken = self._read(paths, split=Split.DEV)
            dev += [replace(example, part=part) for example in examples]
            broken += more_broken
            dev_paths += paths
        return TaskData(
            train=train,
            dev=dev,
            labels=self.target.names,
            train_file=", ".join(map(str, train_paths)),
            dev_file=", ".join(map(str, dev_paths)),
            warnings=tuple(RunWarning(WarningKind.SKIPPED, f"{place}: a broken row was left out") for place in broken),
        )

    def _read(self, paths: Sequence[UPath], *, split: Split) -> tuple[list[Example], tuple[str, ...]]:
        examples: list[Example] = []
        broken: tuple[str, ...] = ()
        for path in paths:
            layout = self.tables
            if file_format(path) == ".tsv":
                layout = self.dev_tsv if split is Split.DEV and self.dev_tsv else self.tsv
            found = read_rows(
                path, needed=(*layout.texts, layout.label), header=layout.header, max_broken=layout.max_broken
            )
            broken += found.broken
            examples += [
                Example(
                    texts=_texts(row.values[:-1], place=row.place, columns=layout.texts),
                    label=self.target.parse(row.values[-1], place=row.place, column=layout.label, labels=layout.labels),
                )
                for row in found.rows
            ]
        return examples, broken

    def load_unlabelled(self, path: UPath) -> list[Example]:
        """Reads the texts of a test file, which always begins with a header. `label` is None."""
        layout = self.tsv if file_format(path) == ".tsv" else self.tables
        rows = read_rows(path, needed=layout.texts).rows
        return [Example(texts=_texts(row.values, place=row.place, columns=layout.texts), label=None) for row in rows]

    def features(
        self, examples: Sequence[Example], tokenizer: WordPiece, *, labels: tuple[str, ...], split: Split
    ) -> Features:
        columns = [tokenizer.encode(texts) for texts in zip(*(example.texts for example in examples), strict=True)]
        rows = list(enumerate(zip(*columns, strict=True)))
        if split is Split.TRAIN and self.unordered and self.options.double_unordered:
            rows += [(number, texts[::-1]) for number, texts in rows]
        numbers = np.array([number for number, _ in rows], np.int32)
        gold = {} if split is Split.TEST else self.target.arrays([example.label for example in examples])
        joined = join_texts([texts for _, texts in rows], tokenizer, max_length=self.options.max_length)
        return replace(joined, examples=numbers, labels={name: values[numbers] for name, values in gold.items()})

    def evaluate(self, examples: Sequence[Example], features: Features, logits: Sequence[np.ndarray]) -> Evaluation:
        logits_NC = _by_example(features, logits)
        parts = {
            part: [number for number, example in enumerate(examples) if example.part == part]
            for part in dict.fromkeys(example.part for example in examples)
        }
        verdicts = {
            part: self.target.evaluate([examples[number].label for number in numbers], logits_NC[numbers])
            for part, numbers in parts.items()
        }
        files = {}
        for part, verdict in verdicts.items():
            rows = "".join(f"{index}\t{written}\n" for index, written in enumerate(verdict.written))
            files[f"predictions{part and '_'}{part}.tsv"] = "index\tprediction\n" + rows
        details = {
            part: {
                **verdict.details,
                "wrong": _wrong([examples[number] for number in parts[part]], verdict, self.target),
            }
            for part, verdict in verdicts.items()
        }
        return Evaluation(
            scores={
                f"{part}{part and '/'}{name}": score
                for part, verdict in verdicts.items()
                for name, score in verdict.scores.items()
            },
            files=files,
            warnings=tuple(dict.fromkeys(chain.from_iterable(verdict.warnings for verdict in verdicts.values()))),
            details=details if len(details) > 1 else next(iter(details.values())),
        )

    def predict(self, features: Features, logits: Sequence[np.ndarray]) -> list[str]:
        """What the prediction file holds for each example."""
        return self.target.write(_by_example(features, logits))


def _wrong(examples: Sequence[Example], verdict: Verdict, target: Target) -> list[dict[str, Any]]:
    """Wrong examples, as the report shows them."""
    return [
        {
            "texts": [text[:_SHOWN_CHARACTERS] for text in examples[number].texts],
            "label": target.names[label] if isinstance(label := examples[number].label, int) else label,
            "predicted": (verdict.named or verdict.written)[number],
            **({"probability": round(verdict.probabilities[number], 4)} if verdict.probabilities else {}),
        }
        for number in verdict.wrong
    ]


def _patterns(split: str) -> tuple[str, ...]:
    endings = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
    return (*with_endings([split], endings), f"{split}-*.parquet")


def _texts(values: Sequence[Any], *, place: str, columns: Sequence[str]) -> tuple[str, ...]:
    for value, column in zip(values, columns, strict=True):
        if not isinstance(value, str):
            raise ValueError(f"{place}: column {column!r} holds {value!r}, expected text")
    return tuple(values)


def _by_example(features: Features, logits: Sequence[np.ndarray]) -> np.ndarray:
    rows_NC = np.stack(list(logits))
    logits_NC = np.zeros_like(rows_NC)
    logits_NC[features.examples] = rows_NC
    return logits_NC


def join_texts(rows: Sequence[Sequence[Sequence[int]]], tokenizer: WordPiece, *, max_length: int) -> Features:
    """Inputs of rows of one text or two: [CLS] text [SEP], or [CLS] text [SEP] text [SEP], cut to `max_length`."""
    ids, first_length, truncated = [], [], 0
    for texts in rows:
        kept = truncate(texts, max_tokens=max_length - 1 - len(texts))
        truncated += sum(map(len, kept)) < sum(map(len, texts))
        row = [tokenizer.cls, *kept[0], tokenizer.sep]
        first_length.append(len(row))
        for text in kept[1:]:
            row += [*text, tokenizer.sep]
        ids.append(np.array(row, np.int32))
    return Features(
        ids=ids,
        first_length=np.array(first_length, np.int32),
        examples=np.arange(len(ids), dtype=np.int32),
        labels={},
        counts={"truncated": truncated},
    )


def truncate(texts: Sequence[Sequence[int]], *, max_tokens: int) -> list[Sequence[int]]:
    """Cuts the ends of texts until all fit together: always of the longest, the later one on a tie (BERT)."""
    lengths = [len(text) for text in texts]
    while sum(lengths) > max_tokens:
        longest = max(range(len(lengths)), key=lambda index: (lengths[index], index))
        lengths[longest] -= 1
    return [text[:length] for text, length in zip(texts, lengths, strict=True)]


def make_text_task(name: str, form: TaskForm, options: TaskOptions, *, target: type[Target]) -> Classification:
    """The task that a form describes: all its files have the same columns."""
    layout = Layout(
        texts=form.texts,
        label=form.label or "",
        labels={label: number for number, label in enumerate(form.labels)},
        header=form.columns,
    )
    return Classification(
        name=name, tsv=layout, tables=layout, target=target.from_form(form), primary=form.primary, options=options
    )


def make_text_network(config: ElectraConfig, head: HeadKind, key: "jax.Array") -> "Network":
    """Logits of a whole text."""
    from stages.electra.network import SequenceClassifier

    return SequenceClassifier(config, key=key, head=head)


def _exported_head(task: Task, head: "Params") -> "Params":
    assert isinstance(task, Classification)
    return task.target.exported_head(head)


WORK: Mapping[TaskKind, KindWork] = {
    target.kind: KindWork(
        make_task=partial(make_text_task, target=target),
        make_network=make_text_network,
        losses=target.losses,
        constant_loss=target.constant_loss,
        exported_head=_exported_head,
    )
    for target in (Classes, LabelSet, Number)
}
