"""Tasks that a configuration alone describes."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from upath import UPath

from stages.finetune.config import DeclaredConfig, FinetuneSection, TaskSection
from stages.finetune.runs import expand
from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Split, Task, TaskOptions
from stages.tasks.form import ClassWeights
from stages.tasks.kinds import TaskKind
from stages.tasks.registry import make_task
from stages.tasks.tokens import WordPiece

Write = Callable[[str, str], UPath]
ENUMS = {"kind": TaskKind, "class_weights": ClassWeights}


def _section(said: dict[str, Any]) -> TaskSection:
    """As the pipeline makes it of YAML."""
    enums = {name: enum(said[name]) for name, enum in ENUMS.items() if isinstance(said.get(name), str)}
    return TaskSection(data="d", **said | enums)


def _task(**said: Any) -> Task:
    form = _section(said).form
    assert form is not None
    return make_task("mine", TaskOptions(max_length=32), form=form)


TICKETS: dict[str, Any] = {"kind": TaskKind.CLASSIFICATION, "texts": ("subject", "body"), "label": "queue"}
TICKETS |= {"labels": ("billing", "technical", "other")}
CSV = 'subject,body,queue\nhi,"a, cat",billing\nyo,a dog,technical\nyo,a fox,billing\nyo,a fox,billing\n'


def _question(name: str) -> str:
    answers = {"text": ["1931"], "answer_start": [13]}
    return json.dumps({"id": name, "question": "when?", "context": "It opened in 1931.", "answers": answers})


@pytest.mark.parametrize(
    ("said", "ending", "texts"),
    [
        (TICKETS, ".csv", (CSV, CSV)),
        ({"kind": TaskKind.TAGGING, "columns": ("word", "tag")}, ".conll", ("a B-X\n\nb O\n", "c B-X\n")),
        ({"kind": TaskKind.QUESTION_ANSWERING}, ".jsonl", (_question("a"), _question("b"))),
    ],
    ids=["texts", "tags", "questions"],
)
def test_a_task_of_any_kind_is_trained_on_all_parts_of_its_split(
    write: Write, said: dict[str, Any], ending: str, texts: tuple[str, str]
) -> None:
    folder = write(f"dev{ending}", texts[0]).parent
    for number, text in enumerate(texts):
        write(f"train-{number:05d}-of-00002{ending}", text)
    data = _task(**said).load(folder)
    singly = []
    for text in texts:
        write(f"one/train{ending}", text)
        write(f"one/dev{ending}", text)
        singly += _task(**said).load(folder / "one").train
    assert [*data.train] == singly
    assert f"train-00000-of-00002{ending}, " in data.train_file


def test_an_id_that_two_parts_have_is_refused(write: Write) -> None:
    folder = write("dev.jsonl", _question("a")).parent
    for number in range(2):
        write(f"train-{number:05d}-of-00002.jsonl", _question("a"))
    with pytest.raises(ValueError, match=r"00000-of-00002\.jsonl, .*00001-of-00002\.jsonl: .*repeated: 'a'"):
        _task(kind=TaskKind.QUESTION_ANSWERING).load(folder)


def test_two_texts_from_csv_with_balanced_classes(write: Write, tokenizer: WordPiece) -> None:
    folder = write("train.csv", CSV).parent
    write("dev.csv", CSV)
    task = _task(**TICKETS, class_weights="balanced", metric="macro_f1")
    data = task.load(folder)
    assert data.train[0].texts == ("hi", "a, cat")
    features = task.features(data.train, tokenizer, labels=data.labels, split=Split.TRAIN)
    assert features.labels["label"].tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(features.labels["label_weight"], [4 / 9, 4 / 3, 4 / 9, 4 / 9], rtol=1e-6)
    assert task.primary == "macro_f1"
    logits = [np.eye(3)[number] for number in (0, 1, 2, 0)]
    found = task.evaluate(data.dev, features, logits)
    gold, predicted = [0, 1, 0, 0], [0, 1, 2, 0]
    assert found.scores["macro_f1"] == pytest.approx(
        100 * sklearn.metrics.f1_score(gold, predicted, average="macro", zero_division=0)
    )
    assert "f1" not in found.scores  # of which of three classes?
    assert found.files["predictions.tsv"].splitlines()[3] == "2\tother"


def test_weights_by_class_are_those_that_were_given(write: Write, tokenizer: WordPiece) -> None:
    folder = write("train.csv", CSV).parent
    write("dev.csv", CSV)
    task = _task(**TICKETS, class_weights={"technical": 5.0})
    data = task.load(folder)
    features = task.features(data.train, tokenizer, labels=data.labels, split=Split.TRAIN)
    assert features.labels["label_weight"].tolist() == [1.0, 5.0, 1.0, 1.0]


def test_a_label_outside_the_list_is_named_with_file_line_value_and_list(write: Write) -> None:
    folder = write("train.csv", CSV + "a,b,biling\n").parent
    with pytest.raises(ValueError, match=r"train.csv:6: column 'queue' holds 'biling', expected one of billing, tech"):
        _task(**TICKETS).load(folder)


@pytest.mark.parametrize("written", ['["a", "c"]', '"a|c"'])
def test_several_labels_of_a_text(written: str, write: Write, tokenizer: WordPiece) -> None:
    lines = f'{{"text": "the cat", "tags": {written}}}\n{{"text": "a dog", "tags": []}}\n'
    folder = write("train.jsonl", lines).parent
    write("dev.jsonl", lines)
    task = _task(
        kind="multi_label",
        texts=("text",),
        label="tags",
        labels=("a", "b", "c"),
        separator="|",
        class_weights="balanced",
    )
    data = task.load(folder)
    features = task.features(data.dev, tokenizer, labels=data.labels, split=Split.DEV)
    assert features.labels["label"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert features.labels["label_weight"].tolist() == [[1, 1, 1], [1, 1, 1]]
    logits = [np.array([1.0, 2.0, -1.0]), np.array([-1.0, -1.0, -1.0])]
    found = task.evaluate(data.dev, features, logits)
    gold, predicted = [[1, 0, 1], [0, 0, 0]], [[1, 1, 0], [0, 0, 0]]
    for metric, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        expected = 100 * sklearn.metrics.f1_score(gold, predicted, average=average, zero_division=0)
        assert found.scores[metric] == pytest.approx(expected)
    assert found.scores["exact_match"] == 50.0
    assert found.files["predictions.tsv"] == "index\tprediction\n0\ta|b\n1\t\n"
    assert found.warnings == ()
    same = task.evaluate(data.dev, features, [logits[1]] * 2)
    assert same.warnings == (RunWarning(WarningKind.DEGENERATE, "all 2 predictions are the same, no class"),)
    assert same.scores["micro_f1"] == 0.0


def test_a_number_in_its_range(write: Write, tokenizer: WordPiece) -> None:
    text = "text\tstars\nthe cat\t-1\na dog\t3\n"
    folder = write("train.tsv", text).parent
    write("dev.tsv", text)
    task = _task(kind="regression", texts=("text",), label="stars", range=(-1.0, 3.0), metric="pearson")
    data = task.load(folder)
    features = task.features(data.dev, tokenizer, labels=data.labels, split=Split.DEV)
    assert features.labels["label"].tolist() == [0.0, 1.0]
    found = task.evaluate(data.dev, features, [np.array([0.25]), np.array([2.0])])
    assert found.scores["pearson"] == pytest.approx(100)
    assert found.files["predictions.tsv"] == "index\tprediction\n0\t0.000\n1\t3.000\n"


def test_parts_of_speech_are_scored_word_by_word_from_columns_and_from_lists(write: Write) -> None:
    folder = write("train.txt", "the DT\ncat NN\n\nran VBD\n").parent
    write("dev.jsonl", json.dumps({"words": ["the", "cat"], "tags": [0, 1]}) + "\n")
    said = {"kind": "tagging", "texts": ("words",), "label": "tags", "columns": ("word", "tag"), "metric": "accuracy"}
    task = _task(**said, labels=("DT", "NN", "VBD"))
    data = task.load(folder)
    assert data.dev[0].tags == ("DT", "NN")
    assert data.train[1].tags == ("VBD",)
    assert data.labels == ("DT", "NN", "VBD")
    assert _task(**said).load(folder, eval_file="train.txt").labels == ("DT", "NN", "VBD")
    with pytest.raises(ValueError, match=r"train.txt:4: column 'tag' holds 'VBD', expected one of DT, NN"):
        _task(**said, labels=("DT", "NN")).load(folder)
    write("dev.jsonl", json.dumps({"words": ["the", "cat"], "tags": ["DT"]}) + "\n")
    with pytest.raises(ValueError, match=r"dev.jsonl:1: 2 words have 1 tags"):
        task.load(folder)
    write("dev.jsonl", json.dumps({"words": "the cat", "tags": ["DT"]}) + "\n")
    with pytest.raises(ValueError, match=r"dev.jsonl:1: column 'words' holds 'the cat', expected a list"):
        task.load(folder)


def test_questions_of_ones_own_may_lack_answers(write: Write) -> None:
    row = {"id": "1", "question": "q", "context": "c", "answers": {"text": [], "answer_start": []}}
    folder = write("train.jsonl", json.dumps(row)).parent
    write("validation.jsonl", json.dumps(row))
    assert _task(kind="answerability").load(folder).dev[0].texts == ()
    with pytest.raises(ValueError, match="has no answers, which this task does not allow"):
        _task(kind="question_answering").load(folder)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"kind": "classification", "texts": ("a",)}, "classification needs texts .* and label"),
        ({"texts": ("a",), "label": "b"}, "texts, label describe a task of your own, which needs kind"),
        (TICKETS | {"labels": ("x",)}, "labels are x, must be two different classes or more"),
        (TICKETS | {"labels": (1, "1")}, "labels are 1, 1, must be two different classes"),
        (TICKETS | {"metric": "f1"}, "metric is f1, must be one of accuracy, macro_f1, matthews$"),
        (TICKETS | {"class_weights": {"bills": 1.0}}, "class_weights.bills: must be one of the labels billing"),
        (TICKETS | {"class_weights": {"billing": 0.0}}, "class_weights.billing is 0.0, must be above 0"),
        (TICKETS | {"range": (0.0, 1.0)}, "range belongs to regression, not to classification"),
        ({"kind": "regression", "texts": ("a",), "label": "b"}, "regression needs texts .* and range"),
        (
            {"kind": "regression", "texts": ("a",), "label": "b", "range": (1.0, 1.0)},
            r"range is \[1.0, 1.0\], must be a smaller and a larger number",
        ),
        ({"kind": "tagging"}, "tagging needs columns"),
        (
            {"kind": "question_answering", "label": "x"},
            "label belongs to classification, multi_label, regression, tagging, not",
        ),
        (
            {"kind": "tagging", "columns": ("w", "t"), "class_weights": "balanced"},
            "class_weights belongs to classification, multi_",
        ),
        (TICKETS | {"texts": ("a", "b", "c")}, "texts are a, b, c, must be at most 2 for classification"),
        ({"kind": "tagging", "texts": ("a", "b"), "label": "c"}, "texts are a, b, must be at most 1 for tagging"),
        ({"kind": "tagging", "texts": ("a",)}, "tagging needs columns .*, or texts .* and label"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_told(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _section(said)


def test_names_of_known_tasks_and_of_ones_own_do_not_mix() -> None:
    with pytest.raises(ValueError, match=r"tasks.cola: cola is a built-in task"):
        FinetuneSection(tasks={"cola": TaskSection(data="d", **TICKETS)})
    with pytest.raises(ValueError, match=r"(?s)tasks.sst: no built-in task has this name. Did you mean `sst2`.*kind"):
        FinetuneSection(tasks={"sst": TaskSection(data="d")})
    with pytest.raises(ValueError, match=r"tasks.a/b: a name has letters"):
        FinetuneSection(tasks={"a/b": TaskSection(data="d", **TICKETS)})


def test_a_task_of_ones_own_unfolds_like_any_other() -> None:
    tasks = {"tickets": TaskSection(data="d", seeds=(1, 2), **TICKETS), "rte": TaskSection(data="e", model="m")}
    runs = expand(FinetuneSection(tasks=tasks, model="base"))
    assert list(runs) == ["finetune/tickets/seed-1", "finetune/tickets/seed-2", "finetune/rte/seed-0"]
    tickets, rte = runs["finetune/tickets/seed-1"], runs["finetune/rte/seed-0"]
    assert isinstance(tickets, DeclaredConfig)
    assert (tickets.form.labels, tickets.epochs, tickets.max_length) == (TICKETS["labels"], 3, 128)
    assert (tickets.model, rte.model) == ("base", "m")
