"""GLUE's layouts, row by row as they are published, and the scores of its tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import sklearn.metrics
from upath import UPath

from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Split, TaskOptions
from stages.tasks.classification import Classification, Example
from stages.tasks.glue import GLUE
from stages.tasks.named import TASKS, TaskName
from stages.tasks.tokens import WordPiece

Write = Callable[[str, str], UPath]

MNLI_TRAIN = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"]
MNLI_TRAIN += ["sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label"]
MNLI_DEV = [*MNLI_TRAIN[:-2], "label1", "label2", "label3", "label4", "label5", "gold_label"]
STSB = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]
# Columns of train and dev as published, two texts, the written label, and the label as it must be read.
LAYOUTS: dict[TaskName, tuple[list[str], tuple[str, ...], str, str, Any]] = {
    TaskName.SST2: (["sentence", "label"], ("sentence",), "label", "1", 1),
    TaskName.MRPC: (
        ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ("#1 String", "#2 String"), "Quality", "1", 1
    ),
    TaskName.STSB: (STSB, ("sentence1", "sentence2"), "score", "3.800", 3.8),
    TaskName.QQP: (
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
        ("question1", "question2"), "is_duplicate", "0", 0,
    ),
    TaskName.QNLI: (["index", "question", "sentence", "label"], ("question", "sentence"), "label", "not_entailment", 1),
    TaskName.RTE: (["index", "sentence1", "sentence2", "label"], ("sentence1", "sentence2"), "label", "entailment", 0),
    TaskName.WNLI: (["index", "sentence1", "sentence2", "label"], ("sentence1", "sentence2"), "label", "1", 1),
}  # fmt: skip


def _task(name: TaskName, **options: Any) -> Classification:
    return GLUE[name](TaskOptions(max_length=32, **options))


def _tsv(columns: list[str], values: dict[str, str]) -> str:
    return "\t".join(columns) + "\n" + "\t".join(values.get(column, "?") for column in columns) + "\n"


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_the_published_columns_are_read(name: TaskName, write: Write) -> None:
    columns, texts, label, written, expected = LAYOUTS[name]
    text = _tsv(columns, {column: f'"{column}' for column in texts} | {label: written})
    folder = write("train.tsv", text).parent
    write("dev.tsv", text)
    data = _task(name).load(folder)
    assert data.train == data.dev == [Example(texts=tuple(f'"{column}' for column in texts), label=expected)]
    assert data.warnings == ()


@pytest.mark.parametrize("name", [*LAYOUTS, TaskName.COLA])
def test_test_files_have_a_header_and_no_label(name: TaskName, write: Write) -> None:
    texts = LAYOUTS[name][1] if name in LAYOUTS else ("sentence",)
    path = write("test.tsv", _tsv(["index", *texts], {column: column for column in texts}))
    assert _task(name).load_unlabelled(path) == [Example(texts=texts, label=None)]


def test_mnli_is_scored_on_both_dev_sets_apart(write: Write, tokenizer: WordPiece) -> None:
    def row(columns: list[str], label: str) -> str:
        return _tsv(columns, {"sentence1": "the cat", "sentence2": "a dog", "gold_label": label})

    folder = write("train.tsv", row(MNLI_TRAIN, "neutral")).parent
    write("dev_matched.tsv", row(MNLI_DEV, "entailment"))
    write("dev_mismatched.tsv", row(MNLI_DEV, "contradiction"))
    task = _task(TaskName.MNLI)
    data = task.load(folder)
    assert [example.label for example in (*data.train, *data.dev)] == [1, 0, 2]
    assert data.labels == ("entailment", "neutral", "contradiction")
    features = task.features(data.dev, tokenizer, labels=data.labels, split=Split.DEV)
    found = task.evaluate(data.dev, features, [np.eye(3)[0], np.eye(3)[0]])
    assert found.scores == {"matched/accuracy": 100.0, "mismatched/accuracy": 0.0}
    assert found.files["predictions_mismatched.tsv"] == "index\tprediction\n0\tentailment\n"
    one = task.load(folder, eval_file="dev_mismatched.tsv")
    assert [example.label for example in one.dev] == [2]


def test_two_rows_of_qqp_may_be_broken_and_are_reported(write: Write) -> None:
    columns = LAYOUTS[TaskName.QQP][0]
    good = "\t".join(["1", "2", "3", "a", "b", "1"])
    folder = write("train.tsv", "\n".join(["\t".join(columns), good, "4\t5\t6\tcut", "off\t0", good])).parent
    write("dev.tsv", "\n".join(["\t".join(columns), good]))
    data = _task(TaskName.QQP).load(folder)
    assert len(data.train) == 2
    assert [warning.text.split("train.tsv")[1] for warning in data.warnings] == [
        ":3: a broken row was left out",
        ":4: a broken row was left out",
    ]
    write("train.tsv", "\n".join(["\t".join(columns), good, "x", "y", "z"]))
    with pytest.raises(ValueError, match=r"train.tsv:5: expected 6 columns"):
        _task(TaskName.QQP).load(folder)


def test_the_diagnostics_have_labels_in_the_full_file_only(write: Write) -> None:
    mnli = write("MNLI/train.tsv", _tsv(MNLI_TRAIN, {"gold_label": "neutral"}))
    full = _tsv(["Logic", "Premise", "Hypothesis", "Label"], {"Premise": "p", "Hypothesis": "h", "Label": "entailment"})
    folder = write("diagnostic/diagnostic-full.tsv", full).parent
    data = _task(TaskName.AX).load(folder, train_file=str(mnli))
    assert data.dev == [Example(texts=("p", "h"), label=0)]
    write("diagnostic/diagnostic.tsv", _tsv(["index", "sentence1", "sentence2"], {}))
    with pytest.raises(ValueError, match=r"lacks 'Premise', 'Hypothesis', 'Label'.*found index, sentence1"):
        _task(TaskName.AX).load(folder, train_file=str(mnli), eval_file="diagnostic.tsv")


HUB: dict[TaskName, tuple[tuple[str, ...], Any, Any]] = {
    TaskName.COLA: (("sentence",), 1, 1),
    TaskName.SST2: (("sentence",), 0, 0),
    TaskName.MRPC: (("sentence1", "sentence2"), 1, 1),
    TaskName.STSB: (("sentence1", "sentence2"), 4.25, 4.25),
    TaskName.QQP: (("question1", "question2"), 1, 1),
    TaskName.MNLI: (("premise", "hypothesis"), 2, 2),
    TaskName.QNLI: (("question", "sentence"), 0, 0),
    TaskName.RTE: (("sentence1", "sentence2"), 1, 1),
    TaskName.WNLI: (("sentence1", "sentence2"), 0, 0),
}


@pytest.mark.parametrize("name", list(HUB))
def test_hugging_faces_tables_are_read_with_their_numbers(name: TaskName, tmp_path: Path) -> None:
    texts, label, expected = HUB[name]
    row = {column: column for column in texts} | {"label": label, "idx": 0}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    parts = ("_matched", "_mismatched") if name is TaskName.MNLI else ("",)
    for part in parts:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"validation{part}-00000-of-00001.parquet")
    data = _task(name).load(UPath(tmp_path))
    assert {(example.texts, example.label) for example in (*data.train, *data.dev)} == {(texts, expected)}
    row["label"] = -1  # a test set of Hugging Face's
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"train.jsonl:1: column 'label' holds '?-1'?, expected"):
        _task(name).load(UPath(tmp_path))


def test_words_and_numbers_of_a_class_are_not_mixed_up_in_tsvs(write: Write) -> None:
    columns = LAYOUTS[TaskName.RTE][0]
    folder = write("train.tsv", _tsv(columns, {"label": "1"})).parent
    with pytest.raises(ValueError, match="column 'label' holds '1', expected one of entailment, not_entailment"):
        _task(TaskName.RTE).load(folder)


@pytest.mark.parametrize("value", ["5.1", "-0.1", "nan", "good", ""])
def test_a_similarity_outside_its_range_is_named(value: str, write: Write) -> None:
    folder = write("train.tsv", _tsv(STSB, {"score": value})).parent
    with pytest.raises(ValueError, match=f"train.tsv:2: column 'score' holds '{value}', expected a number from 0 to 5"):
        _task(TaskName.STSB).load(folder)


def _evaluate(name: TaskName, labels: list[Any], logits: np.ndarray, tokenizer: WordPiece) -> Any:
    task = _task(name)
    texts = ("cat",) if name in (TaskName.COLA, TaskName.SST2) else ("cat", "dog")
    examples = [Example(texts=texts, label=label) for label in labels]
    features = task.features(examples, tokenizer, labels=task.target.names, split=Split.DEV)
    return task.evaluate(examples, features, list(logits))


@pytest.mark.parametrize("case", ["random", "one class predicted", "one class in gold", "all wrong", "ties"])
@pytest.mark.parametrize("name", [name for name in GLUE if name is not TaskName.STSB])
def test_scores_are_scikit_learns(name: TaskName, case: str, tokenizer: WordPiece) -> None:
    random = np.random.default_rng(len(case))
    num_classes = 3 if name in (TaskName.MNLI, TaskName.AX) else 2
    gold = random.integers(0, num_classes, 50)
    logits = random.normal(size=(50, num_classes)).astype(np.float32)
    match case:
        case "one class predicted":
            logits[:, 0] = 9.0
        case "one class in gold":
            gold[:] = 1
        case "all wrong":
            logits = np.eye(num_classes, dtype=np.float32)[(gold + 1) % num_classes]
        case "ties":
            logits[:25] = 0.0
    found = _evaluate(name, gold.tolist(), logits, tokenizer).scores
    predicted = logits.argmax(-1)  # the first of equal ones
    independent = {
        "accuracy": sklearn.metrics.accuracy_score(gold, predicted),
        "f1": sklearn.metrics.f1_score(gold, predicted, zero_division=0) if num_classes == 2 else 0,
        "matthews": sklearn.metrics.matthews_corrcoef(gold, predicted),
    }
    assert TASKS[name].primary.replace("matched/", "") in found
    for metric, value in found.items():
        assert value == pytest.approx(100 * independent[metric], abs=1e-9), metric


@pytest.mark.parametrize("case", ["random", "ties", "constant", "outside the range", "reversed"])
def test_similarity_scores_are_scipys(case: str, tokenizer: WordPiece) -> None:
    random = np.random.default_rng(1)
    gold = random.integers(0, 6, 60).astype(float)
    logits = random.normal(size=(60, 1)).astype(np.float32)
    match case:
        case "ties":
            logits = np.round(logits)
        case "constant":
            logits[:] = 0.5
        case "outside the range":
            logits = logits * 100
        case "reversed":
            logits = (1 - gold[:, None] / 5).astype(np.float32)
    evaluation = _evaluate(TaskName.STSB, gold.tolist(), logits, tokenizer)
    if case == "constant":
        assert evaluation.scores == {"spearman": 0.0, "pearson": 0.0}
        assert evaluation.warnings == (RunWarning(WarningKind.DEGENERATE, "all 60 predictions are 2.500"),)
        return
    predicted = logits[:, 0].astype(float)
    assert evaluation.scores["pearson"] == pytest.approx(100 * scipy.stats.pearsonr(gold, predicted).statistic)
    assert evaluation.scores["spearman"] == pytest.approx(100 * scipy.stats.spearmanr(gold, predicted).statistic)
    written = [float(line.split("\t")[1]) for line in evaluation.files["predictions.tsv"].splitlines()[1:]]
    assert min(written) >= 0
    assert max(written) <= 5
    assert evaluation.warnings == ()


@pytest.mark.parametrize(
    ("name", "folder", "num_train", "num_dev", "num_test"),
    [
        (TaskName.COLA, "CoLA", 8551, 1043, 1063),
        (TaskName.SST2, "SST-2", 67_349, 872, 1821),
        (TaskName.MRPC, "MRPC", 3668, 408, 1725),
        (TaskName.RTE, "RTE", 2490, 277, 3000),
    ],
)
def test_published_files_have_the_published_number_of_rows(
    real_data: Path, name: TaskName, folder: str, num_train: int, num_dev: int, num_test: int
) -> None:
    data = _task(name).load(UPath(real_data / "glue" / folder))
    test = _task(name).load_unlabelled(UPath(real_data / "glue" / folder / "test.tsv"))
    assert (len(data.train), len(data.dev), len(test)) == (num_train, num_dev, num_test)
    assert data.warnings == ()


def test_the_published_diagnostics_have_their_number_of_rows(real_data: Path) -> None:
    path = UPath(real_data / "glue" / "diagnostic" / "diagnostic.tsv")
    assert len(_task(TaskName.MNLI).load_unlabelled(path)) == 1104
