"""SQuAD 2.0 and MRQA: questions without answers, files of other forms, answers from real offsets."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Features, Split, TaskOptions
from stages.tasks.files.question_files import read_questions
from stages.tasks.files.squad import Answer, Question
from stages.tasks.named import TaskName
from stages.tasks.question_answering import QuestionAnswering
from stages.tasks.registry import make_task
from stages.tasks.tokens import WordPiece

Write = Callable[[str, str], UPath]
CONTEXT = "the cat sat on the mat . the dog ran in the house ."
QUESTIONS = [
    Question(id="has", text="who sat ?", context=CONTEXT, answers=(Answer(text="the cat", start=0),)),
    Question(id="none", text="who jump ?", context=CONTEXT, answers=()),
]


def _task(name: TaskName = TaskName.SQUAD_V2, **options: Any) -> QuestionAnswering:
    task = make_task(name, TaskOptions(**({"max_length": 48} | options)))
    assert isinstance(task, QuestionAnswering)
    return task


def _logits(features: Features, *, none: dict[int, list[float]]) -> list[np.ndarray]:
    """The span `the cat` in every window that begins with it, and these logits of 'no answer' by question."""
    remaining = {number: list(values) for number, values in none.items()}
    rows = []
    for window, ids in zip(features.details, features.ids, strict=True):
        row = np.zeros((len(ids), 3), np.float32)
        if window.offsets[0][0] == 0:
            row[window.first, 0] = row[window.first + 1, 1] = 5.0
        row[:, 2] = remaining[window.question].pop(0)
        rows.append(row)
    return rows


def test_windows_without_the_answer_are_unanswerable(tokenizer: WordPiece) -> None:
    features = _task(max_length=12, doc_stride=4).features(QUESTIONS, tokenizer, labels=(), split=Split.TRAIN)
    found = list(zip(features.examples, features.labels["unanswerable"], features.labels["end"], strict=True))
    with_answer = [row for row in found if row[0] == 0]
    assert with_answer[0][1] == 0
    assert with_answer[0][2] > 0
    assert all(none == 1 and end == 0 for _, none, end in with_answer[1:])
    assert len(with_answer) > 2
    assert all(none == 1 for number, none, _ in found if number == 1)
    assert 1 in features.examples
    assert features.counts["answer_not_in_context"] == 0


def test_the_odds_of_no_answer_are_the_lowest_of_all_windows(tokenizer: WordPiece) -> None:
    task = _task(max_length=16, doc_stride=4)
    features = task.features(QUESTIONS, tokenizer, labels=(), split=Split.DEV)
    num_windows = Counter(features.examples.tolist())[0]
    none = {0: [4.0, -3.0, *[5.0] * (num_windows - 2)], 1: [1.0] * num_windows}
    found = task.evaluate(QUESTIONS, features, _logits(features, none=none))
    assert json.loads(found.files["null_odds.json"]) == {"has": -3.0, "none": 1.0}
    assert json.loads(found.files["predictions.json"]) == {"has": "the cat", "none": ""}
    assert json.loads(found.files["answers.json"]) == {"has": "the cat", "none": "the cat"}
    assert found.scores["exact_match"] == found.scores["has_answer/f1"] == found.scores["no_answer/f1"] == 100.0
    assert found.details["threshold"] == -2.75
    none[0][1] = -2.0  # between the fixed threshold and the best one
    late = task.evaluate(QUESTIONS, features, _logits(features, none=none))
    assert (late.scores["exact_match"], late.scores["best/exact_match"]) == (50.0, 100.0)
    assert late.details["best_thresholds"]["exact_match"] == -2.0
    assert late.warnings == (RunWarning(WarningKind.DEGENERATE, "no question is answered"),)


def test_squad_2_files_are_read_and_told_from_1(write: Write) -> None:
    def text(**item: Any) -> str:
        question = {"id": "1", "question": "q"} | item
        return json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": [question]}]}]})

    plausible = [{"text": "c", "answer_start": 0}]
    folder = write("train-v2.0.json", text(answers=[], is_impossible=True, plausible_answers=plausible)).parent
    write("dev-v2.0.json", text(answers=[]))
    data = _task().load(folder)
    assert [question.answers for question in (*data.train, *data.dev)] == [(), ()]
    with pytest.raises(FileNotFoundError, match=r"no train-v1.1.json"):
        _task(TaskName.SQUAD_V1).load(folder)
    with pytest.raises(ValueError, match=r"qas\[0\]: no answers; though is_impossible is false"):
        read_questions(write("x.json", text(answers=[], is_impossible=False)), unanswerable=True)


def test_mrqas_lines_have_a_header_spans_that_include_their_end_and_more_texts(write: Write) -> None:
    item = {
        "qid": "7",
        "question": "who ?",
        "answers": ["The Cat", "a cat"],
        "detected_answers": [{"text": "the cat", "char_spans": [[0, 6], [30, 36]]}],
    }
    lines = [json.dumps({"header": {"dataset": "x"}}), json.dumps({"context": CONTEXT, "qas": [item]})]
    question = read_questions(write("x.jsonl", "\n".join(lines)))[0]
    assert question.answers[0] == Answer(text="the cat", start=0)
    assert question.texts == ("The Cat", "a cat")
    item["detected_answers"][0]["char_spans"] = [[0]]
    with pytest.raises(ValueError, match=r"x.jsonl:1: qas\[0\].detected_answers\[0\].char_spans: expected pairs"):
        read_questions(write("x.jsonl", json.dumps({"context": CONTEXT, "qas": [item]})))


def test_hugging_faces_rows_are_read(write: Write, tmp_path: Path) -> None:
    row = {"id": "1", "question": "who ?", "context": CONTEXT, "answers": {"text": ["the cat"], "answer_start": [0]}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    expected = [Question(id="1", text="who ?", context=CONTEXT, answers=(Answer(text="the cat", start=0),))]
    assert read_questions(UPath(tmp_path / "x.parquet")) == expected
    assert read_questions(write("x.jsonl", json.dumps(row))) == expected
    empty = row | {"answers": {"text": [], "answer_start": []}}
    assert read_questions(write("x.jsonl", json.dumps(empty)), unanswerable=True)[0].answers == ()
    with pytest.raises(ValueError, match=r"question '1' has no answers, .*the kind is answerability"):
        read_questions(write("x.jsonl", json.dumps(empty)))
    uneven = row | {"answers": {"text": ["a"], "answer_start": []}}
    with pytest.raises(ValueError, match=r"x.jsonl:1.answers: 1 texts with 0 starts"):
        read_questions(write("x.jsonl", json.dumps(uneven)))
