"""Odd values in task files, each refused with its place or read as what it means, before anything is trained."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from stages.tasks.files.question_files import read_questions
from stages.tasks.files.tables import read_rows
from stages.tasks.tagging import read_columns, read_sentences

Write = Callable[[str, str], UPath]

CONTEXT = "It opened in 1931."
FORMS = ("rows", "squad", "mrqa")


def _no_check(tag: str, place: str, column: str) -> None:
    """Every tag is right."""


def _question_file(write: Write, form: str, *, text: Any = "1931", start: Any = 13, accepted: Any = "1931") -> UPath:
    """One question with one answer, in one of the forms that question files have."""
    answer = {"text": text, "answer_start": start}
    if form == "rows":
        answers = {name: [value] for name, value in answer.items()}
        return write("x.jsonl", json.dumps({"id": "a", "question": "when?", "context": CONTEXT, "answers": answers}))
    if form == "squad":
        questions = [{"id": "a", "question": "when?", "answers": [answer]}]
        return write("x.json", json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": questions}]}]}))
    span = [start, start + 3 if isinstance(start, int | float) else 16]
    question = {"qid": "a", "question": "when?", "answers": [accepted], "detected_answers": [{"char_spans": [span]}]}
    return write("x.jsonl", json.dumps({"context": CONTEXT, "qas": [question]}))


@pytest.mark.parametrize("form", FORMS)
def test_a_place_that_is_a_whole_float_is_that_number(write: Write, form: str) -> None:
    (question,) = read_questions(_question_file(write, form, start=13.0))
    (answer,) = question.answers
    assert (answer.text, answer.start, type(answer.start)) == ("1931", 13, int)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", [None, 13.5, True, "13"])
def test_a_place_that_is_no_whole_number_is_refused(write: Write, form: str, start: Any) -> None:
    path = _question_file(write, form, start=start)
    with pytest.raises(ValueError, match=rf"{path.name}.*expected a whole number, found {start!r}"):
        read_questions(path)


@pytest.mark.parametrize(
    ("form", "value"),
    [("rows", {"text": 1931}), ("squad", {"text": 1931}), ("mrqa", {"accepted": 1931}), ("rows", {"text": None})],
)
def test_an_answer_that_is_no_text_is_refused(write: Write, form: str, value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"x.json.*expected str, found (int|NoneType)"):
        read_questions(_question_file(write, form, **value))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_answers_to_an_impossible_question_are_plausible_ones_and_not_learnt(tmp_path: Path, ending: str) -> None:
    answers = {"text": ["1931"], "answer_start": [13]}
    row = {"id": "a", "question": "when did it close?", "context": CONTEXT, "answers": answers, "is_impossible": True}
    path = UPath(tmp_path / f"x.{ending}")
    if ending == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    (question,) = read_questions(path, unanswerable=True)
    assert question.answers == ()
    with pytest.raises(ValueError, match="no answers, which this task does not allow"):
        read_questions(path)


@pytest.mark.parametrize("form", FORMS)
def test_half_a_surrogate_pair_in_a_question_file_is_refused(write: Write, form: str) -> None:
    path = _question_file(write, form)
    path.write_text(path.read_text().replace("when?", r"when \ud83d?"))
    with pytest.raises(ValueError, match=r"x.json.*'\\ud83d' is half a surrogate pair"):
        read_questions(path)


def test_half_a_surrogate_pair_in_rows_is_refused_and_a_whole_one_is_a_character(write: Write) -> None:
    path = write("x.jsonl", '{"text": "\\ud83d\\ude00"}\n{"text": "a \\ude00"}\n')
    with pytest.raises(ValueError, match=r"x.jsonl:2: '\\ude00' is half a surrogate pair"):
        read_rows(path, needed=("text",))
    assert read_rows(write("y.jsonl", '{"text": "\\ud83d\\ude00"}'), needed=("text",)).rows[0].values == ("😀",)


def test_a_csv_cell_may_hold_a_whole_book(write: Write) -> None:
    book = "word " * 40_000
    (row,) = read_rows(write("x.csv", f'text,label\n"{book}",1\n'), needed=("text", "label")).rows
    assert row.values == (book, "1")


@pytest.mark.parametrize(("word", "shown"), [("null", "None"), ("true", "True"), ("2.5", "2.5"), ('["a"]', r"\['a'\]")])
def test_a_word_that_is_no_text_is_refused(write: Write, word: str, shown: str) -> None:
    path = write("x.jsonl", f'{{"tokens": ["Ada", {word}], "tags": ["O", "O"]}}')
    with pytest.raises(ValueError, match=f"x.jsonl:1: column 'tokens' holds {shown} among its words, expected text"):
        read_sentences(path, fields=("tokens", "tags"), known=(), check=_no_check)


def test_marks_of_documents_are_no_sentences_and_are_counted(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write("x.txt", "-DOCSTART- -X- O\n\nAda NNP B-PER\nsleeps VBZ O\n-DOCSTART- -X- O\nBo NNP B-PER\n")
    with caplog.at_level(logging.INFO):
        sentences = read_columns(path, columns=("word", "pos", "tag"), check=_no_check)
    assert [sentence.words for sentence in sentences] == [("Ada", "sleeps"), ("Bo",)]
    assert "x.txt: 2 lines of -DOCSTART-, which mark documents, are left out" in caplog.text
