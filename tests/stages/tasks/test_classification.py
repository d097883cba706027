"""GLUE's files and inputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Split, TaskOptions
from stages.tasks.classification import Classification, Example, truncate
from stages.tasks.named import TaskName
from stages.tasks.registry import make_task
from stages.tasks.tokens import WordPiece

Write = Callable[[str, str], UPath]
HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def _task(name: TaskName, max_length: int = 32, **options) -> Classification:
    task = make_task(name, TaskOptions(max_length=max_length, **options))
    assert isinstance(task, Classification)
    return task


def test_cola_has_no_header_and_quotes_are_text(write: Write) -> None:
    folder = write("train.tsv", 'a\t1\t\t"He said so.\nb\t0\t*\tIt "was" so".\n').parent
    write("dev.tsv", "a\t1\t\tLast line without an end")
    data = _task(TaskName.COLA).load(folder)
    assert data.train == [Example(texts=('"He said so.',), label=1), Example(texts=('It "was" so".',), label=0)]
    assert data.dev == [Example(texts=("Last line without an end",), label=1)]
    assert data.labels == ("unacceptable", "acceptable")


def test_mrpc_with_byte_order_mark_and_windows_line_ends(write: Write) -> None:
    row = '1\t7\t8\tA " b .\tB .'
    folder = write("train.tsv", f"\ufeff{HEADER}\r\n{row}\r\n").parent
    write("dev.tsv", f"{HEADER}\n{row}\n")
    data = _task(TaskName.MRPC).load(folder)
    assert data.train == data.dev == [Example(texts=('A " b .', "B ."), label=1)]


def test_other_line_breaks_are_text(write: Write) -> None:
    folder = write("train.tsv", "a\t1\t\tone\u2028two\x0bthree\x85four\n").parent
    write("dev.tsv", "a\t1\t\tx\n")
    assert _task(TaskName.COLA).load(folder).train[0].texts == ("one\u2028two\x0bthree\x85four",)


def test_files_are_found_in_any_case_and_by_override(write: Write) -> None:
    folder = write("Train.TSV", "a\t1\t\tx\n").parent
    write("other/mine.txt", "a\t0\t\ty\n")
    data = _task(TaskName.COLA).load(folder, eval_file="other/mine.txt")
    assert (data.train[0].texts, data.dev[0].texts) == (("x",), ("y",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\t1\t\tx\nb\t1\ty\n", r"train.tsv:2: expected 4 columns \(source, label, mark, sentence\), found 3"),
        ("a\t1\t\tx\ty\n", "train.tsv:1: expected 4 columns .* found 5"),
        ("a\tgood\t\tx\n", "train.tsv:1: column 'label' holds 'good', expected one of 0, 1"),
        ("", "train.tsv: no examples"),
    ],
)
def test_a_wrong_row_is_named(write: Write, text: str, message: str) -> None:
    folder = write("train.tsv", text).parent
    write("dev.tsv", "a\t1\t\tx\n")
    with pytest.raises(ValueError, match=message):
        _task(TaskName.COLA).load(folder)


def test_a_wrong_header_names_missing_and_found_columns(write: Write) -> None:
    folder = write("train.tsv", "index\tsentence1\tsentence2\tlabel\n").parent
    write("dev.tsv", f"{HEADER}\n")
    with pytest.raises(ValueError, match=r"train.tsv:1: the header lacks '#1 String', .* found index, sentence1"):
        _task(TaskName.MRPC).load(folder)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(b"a\t1\t\tx\nb\t1\t\t\xff\n")
    (tmp_path / "dev.tsv").write_bytes(b"a\t1\t\tx\n")
    with pytest.raises(ValueError, match=r"train.tsv:2: byte 12 \(0xff\) is not UTF-8"):
        _task(TaskName.COLA).load(UPath(tmp_path))


def test_a_missing_file_says_what_is_there(write: Write) -> None:
    folder = write("training.tsv", "a\t1\t\tx\n").parent
    with pytest.raises(FileNotFoundError, match=r"no train.tsv or train.csv .*; it holds training.tsv; set train_file"):
        _task(TaskName.COLA).load(folder)


def test_inputs_of_a_pair(tokenizer: WordPiece) -> None:
    task = _task(TaskName.MRPC)
    example = Example(texts=("the cat", "a dog ran"), label=1)
    features = task.features([example], tokenizer, labels=("no", "yes"), split=Split.DEV)
    a, b = tokenizer.encode(example.texts)
    assert features.ids[0].tolist() == [tokenizer.cls, *a, tokenizer.sep, *b, tokenizer.sep]
    assert features.first_length.tolist() == [4]
    assert features.labels["label"].tolist() == [1]


def test_a_pair_is_trained_on_in_both_orders_only(tokenizer: WordPiece) -> None:
    examples = [Example(texts=("the cat", "a dog ran"), label=1), Example(texts=("cat", "dog"), label=0)]
    task = _task(TaskName.MRPC)
    train = task.features(examples, tokenizer, labels=("no", "yes"), split=Split.TRAIN)
    assert train.examples.tolist() == [0, 1, 0, 1]
    assert train.labels["label"].tolist() == [1, 0, 1, 0]
    assert train.first_length.tolist() == [4, 3, 5, 3]
    assert task.features(examples, tokenizer, labels=("no", "yes"), split=Split.DEV).num_rows == 2
    single = _task(TaskName.MRPC, double_unordered=False)
    assert single.features(examples, tokenizer, labels=("no", "yes"), split=Split.TRAIN).num_rows == 2


def test_long_pairs_lose_the_end_of_the_longer_text(tokenizer: WordPiece) -> None:
    task = _task(TaskName.MRPC, max_length=16)
    long = Example(texts=("cat " * 4, "dog " * 40), label=1)
    features = task.features([long], tokenizer, labels=("no", "yes"), split=Split.DEV)
    assert len(features.ids[0]) == 16
    assert features.first_length.tolist() == [6]
    assert features.counts == {"truncated": 1}


def test_truncation_cuts_the_second_on_a_tie() -> None:
    assert truncate([[1, 2, 3], [4, 5, 6]], max_tokens=5) == [[1, 2, 3], [4, 5]]


def test_predictions_keep_the_order_of_examples_and_one_class_is_reported(tokenizer: WordPiece) -> None:
    task = _task(TaskName.COLA)
    examples = [Example(texts=("cat",), label=label) for label in (1, 0, 1)]
    features = task.features(examples, tokenizer, labels=task.target.names, split=Split.DEV)
    right = [np.eye(2)[label] for label in (1, 0, 1)]
    found = task.evaluate(examples, features, right)
    assert found.scores == {"matthews": 100.0, "accuracy": 100.0}
    assert found.files["predictions.tsv"] == "index\tprediction\n0\t1\n1\t0\n2\t1\n"
    assert found.warnings == ()
    assert found.details["confusion"] == [[1, 0], [0, 2]]
    same = task.evaluate(examples, features, [np.eye(2)[1]] * 3)
    assert same.scores["matthews"] == 0.0
    text = "all 3 predictions are the majority class, acceptable"
    assert same.warnings == (RunWarning(WarningKind.DEGENERATE, text),)


def test_what_went_wrong_is_shown_the_surest_first(tokenizer: WordPiece) -> None:
    task = _task(TaskName.COLA)
    examples = [Example(texts=(text,), label=1) for text in ("right", "a little wrong", "x" * 1000)]
    features = task.features(examples, tokenizer, labels=task.target.names, split=Split.DEV)
    logits = [np.array(pair) for pair in ((0.0, 1.0), (0.5, 0.0), (9.0, 0.0))]
    found = task.evaluate(examples, features, logits).details["wrong"]
    assert found == [
        {"texts": ["x" * 300], "label": "acceptable", "predicted": "unacceptable", "probability": 0.9999},
        {"texts": ["a little wrong"], "label": "acceptable", "predicted": "unacceptable", "probability": 0.6225},
    ]
