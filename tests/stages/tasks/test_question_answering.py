"""SQuAD's files, windows and answers."""

import gzip
import itertools
import json
import time
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from stages.electra.tokenizer import SPECIAL_TOKENS, build_tokenizer
from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Features, Split, TaskOptions
from stages.tasks.files.question_files import read_questions
from stages.tasks.files.squad import Answer, Question, read_squad
from stages.tasks.named import TaskName
from stages.tasks.question_answering import QuestionAnswering, answer_tokens, encode_contexts
from stages.tasks.registry import make_task
from stages.tasks.spans import Window, owned_tokens, rank, window_bounds, window_candidates
from stages.tasks.tokens import WordPiece

Write = Callable[[str, str], UPath]


def _task(**options) -> QuestionAnswering:
    task = make_task(TaskName.SQUAD_V1, TaskOptions(**({"max_length": 384} | options)))
    assert isinstance(task, QuestionAnswering)
    return task


def _question(context: str, answer: str, *, start: int | None = None) -> Question:
    begin = context.index(answer) if start is None else start
    return Question(id="q", text="who ?", context=context, answers=(Answer(text=answer, start=begin),))


def _perfect_logits(features: Features, targets: list[tuple[int, int] | None]) -> list[np.ndarray]:
    """Logits that choose the token span over these characters in each row, or nothing."""
    logits = []
    for window, ids in zip(features.details, features.ids, strict=True):
        row = np.zeros((len(ids), 2), np.float32)
        target = targets[window.question]
        if target is not None:
            starts, ends = window.offsets[:, 0], window.offsets[:, 1]
            inside = np.nonzero((starts < target[1]) & (ends > target[0]))[0]
            if len(inside) and starts[inside[0]] <= target[0] and ends[inside[-1]] >= target[1]:
                row[window.first + inside[0], 0] = row[window.first + inside[-1], 1] = 10.0
        logits.append(row)
    return logits


def test_files_are_found_plain_or_compressed(tmp_path: Path, task_data: Path) -> None:
    text = (task_data / "squad_v1" / "dev-v1.1.json").read_bytes()
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "Train-v1.1.part.json.gz").write_bytes(gzip.compress(text))
    (folder / "dev-v1.1.json").write_bytes(text)
    (folder / "dev-v2.0.json").write_bytes(b"{}")
    data = _task().load(UPath(folder))
    assert [question.id for question in data.train] == [question.id for question in data.dev] == ["q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [', r"x.json: not valid JSON: Expecting value, column 11"),
        ("[]", "x.json: expected an object with 'data', found list"),
        ('{"version": 1}', "x.json: no 'data'; found 'version'"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\].paragraphs\[0\]: no 'context'; found 'qas'"),
        ('{"data": []}', "no questions"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q", "answers": []}]}]}]}',
            r"qas\[0\]: no answers; .*SQuAD 2.0",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q", '
            '"answers": [{"text": "c", "answer_start": "0"}]}]}]}]}',
            r"answers\[0\].answer_start: expected a whole number, found",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_place(write: Write, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_squad(write("x.json", text))


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 13, 14, 100])
def test_windows_cover_every_token(length: int) -> None:
    bounds = window_bounds(length, room=10, stride=4)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == length
    for (a, b), (c, d) in itertools.pairwise(bounds):
        assert a < c <= b < d
        assert d - c <= 10
    covered = {token for start, end in bounds for token in range(start, end)}
    assert covered == set(range(length))


def test_a_stride_longer_than_a_window_leaves_no_gap() -> None:
    assert window_bounds(25, room=10, stride=128) == [(0, 10), (10, 20), (20, 25)]


def test_every_token_is_owned_by_one_window() -> None:
    bounds = window_bounds(57, room=20, stride=7)
    owners = np.zeros(57, int)
    for index, (start, end) in enumerate(bounds):
        owners[start:end] += owned_tokens(bounds, index)
    assert owners.tolist() == [1] * 57


def test_spans_lie_on_the_answer_and_on_cls_where_the_window_has_it_not(tokenizer: WordPiece) -> None:
    context = "the cat sat on the mat . " * 10 + "paris is big ."
    task = _task(max_length=24, doc_stride=8)
    features = task.features([_question(context, "paris")], tokenizer, labels=(), split=Split.TRAIN)
    assert features.num_rows > 3
    paris = tokenizer.encode(["paris"])[0][0]
    hits = 0
    for ids, start, end in zip(features.ids, features.labels["start"], features.labels["end"], strict=True):
        assert len(ids) <= 24
        if paris in ids:
            assert start == end == ids.tolist().index(paris)
            hits += 1
        else:
            assert start == end == 0
    assert hits


@pytest.mark.parametrize("question", [_question("the cat", "dog", start=0), _question("the cat", "cat", start=40)])
def test_an_answer_that_is_not_in_its_context_is_skipped_and_counted(tokenizer: WordPiece, question: Question) -> None:
    features = _task().features([question], tokenizer, labels=(), split=Split.TRAIN)
    assert features.num_rows == 0
    assert features.counts["answer_not_in_context"] == 1
    scored = _task().features([question], tokenizer, labels=(), split=Split.DEV)
    assert scored.num_rows == 1
    is_elsewhere = question.answers[0].text == "cat"
    where = "not at 40, but at 4" if is_elsewhere else "not at 0, nor anywhere in its context"
    assert [fault.endswith(f"is {where}") for fault in features.faults] == [True]
    assert scored.faults == ([] if is_elsewhere else features.faults)  # by its text, it may still be answered right


def test_a_question_that_leaves_no_room_is_an_error(tokenizer: WordPiece) -> None:
    question = Question(id="q", text="cat " * 50, context="the cat", answers=(Answer(text="cat", start=4),))
    with pytest.raises(ValueError, match="max_length leaves 0 tokens for the context"):
        _task(max_length=16, max_question_length=13).features([question], tokenizer, labels=(), split=Split.DEV)


def _window(length: int) -> Window:
    offsets = np.stack([np.arange(length), np.arange(length) + 1], axis=1)
    return Window(question=0, first=3, offsets=offsets, owned=np.ones(length, bool))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_spans_are_those_of_an_exhaustive_search(seed: int) -> None:
    length, longest = 12, 4
    logits = np.random.default_rng(seed).normal(size=(length + 4, 2)).astype(np.float32)
    found = window_candidates(_window(length), logits, n_best=length, max_answer_length=longest)
    starts, ends = logits[3:, 0], logits[3:, 1]
    every = sorted(
        (-float(starts[i]) - float(ends[j]), i, j + 1)
        for i in range(length)
        for j in range(i, min(length, i + longest))
    )[:length]
    assert [(candidate.start, candidate.end) for candidate in found] == [(i, j) for _, i, j in every]


def test_equal_logits_are_broken_by_position() -> None:
    found = window_candidates(_window(40), np.zeros((60, 2)), n_best=20, max_answer_length=30)
    assert (found[0].start, found[0].end) == (0, 1)
    assert len(found) == 20


def test_question_and_special_tokens_are_never_an_answer() -> None:
    logits = np.zeros((20, 2))
    logits[:3] = logits[-1] = 100.0
    found = window_candidates(_window(10), logits, n_best=5, max_answer_length=30)
    assert all(0 <= candidate.start < candidate.end <= 10 for candidate in found)


def test_a_start_that_its_window_does_not_own_is_left_to_another() -> None:
    window = _window(10)
    window.owned[:5] = False
    logits = np.zeros((20, 2))
    logits[3, 0] = 100.0
    found = window_candidates(window, logits, n_best=20, max_answer_length=30)
    assert min(candidate.start for candidate in found) == 5


def test_answers_are_ranked_over_windows_and_no_text_twice() -> None:
    best = rank(
        [
            *window_candidates(_window(4), np.eye(8)[:, :2] * 0, n_best=3, max_answer_length=1),
            *window_candidates(_window(4), np.eye(8, k=-3)[:, :2] * 4, n_best=3, max_answer_length=1),
        ],
        "abab",
        n_best=5,
    )
    assert [answer["text"] for answer in best] == ["a", "b"]
    assert sum(float(answer["probability"]) for answer in best) == pytest.approx(1.0)


def test_an_empty_context_gives_an_empty_answer(tokenizer: WordPiece) -> None:
    question = _question("", "", start=0)
    task = _task()
    features = task.features([question], tokenizer, labels=(), split=Split.DEV)
    found = task.evaluate([question], features, _perfect_logits(features, [None]))
    assert json.loads(found.files["predictions.json"]) == {"q": ""}
    assert found.warnings[0] == RunWarning(WarningKind.EMPTY_ANSWERS, "1 of 1 predicted answers are empty")


def test_answers_come_from_the_text_as_it_was_written(tokenizer: WordPiece) -> None:
    context = "In  PARIS,\u00a0the big\nhouse (red) is."
    question = _question(context, "PARIS,\u00a0the big\nhouse")
    answer = question.answers[0]
    task = _task()
    features = task.features([question], tokenizer, labels=(), split=Split.DEV)
    logits = _perfect_logits(features, [(answer.start, answer.end)])
    found = task.evaluate([question], features, logits)
    assert json.loads(found.files["predictions.json"]) == {"q": answer.text}
    assert found.scores == {"exact_match": 100.0, "f1": 100.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "unanswerable", "num_questions", "num_answers", "num_inside_tokens"),
    [
        ("squad/dev-v1.1.json.gz", False, 10_570, 34_726, 77),
        ("squad/train-v1.1.partial-merged.json.gz", False, 14_348, 14_348, 88),
        ("squad/dev-v2.0.reconstructed.json.gz", True, 11_873, 20_302, 29),
        ("squad/train-v2.0.partial-merged.json.gz", True, 14_696, 14_348, 88),
        ("mrqa/NewsQA_sample.jsonl", False, 17, 17, 0),
    ],
)
def test_every_published_answer_is_recoverable_from_the_offsets_of_its_windows(
    real_data: Path,
    real_tokenizer: WordPiece,
    file: str,
    unanswerable: bool,
    num_questions: int,
    num_answers: int,
    num_inside_tokens: int,
) -> None:
    questions = read_questions(UPath(real_data / file), unanswerable=unanswerable)
    assert len(questions) == num_questions
    one_each = [
        replace(question, id=f"{question.id}/{number}", answers=(answer,))
        for question in questions
        for number, answer in enumerate(question.answers)
    ]
    assert len(one_each) == num_answers

    task = _task(max_length=128, doc_stride=32)
    trained, windows = (
        task.features(one_each, real_tokenizer, labels=(), split=split) for split in (Split.TRAIN, Split.DEV)
    )
    assert trained.counts["answer_not_in_context"] == 0
    found, inside_tokens = set(), set()
    for window, first, last in zip(windows.details, trained.labels["start"], trained.labels["end"], strict=True):
        question = one_each[window.question]
        answer = question.answers[0]
        begin, end = answer.start, answer.start + len(answer.text)
        if last == 0:
            # The whole answer is not in this window: some end of it is outside.
            assert window.offsets[0][0] > begin or window.offsets[-1][1] < end
            continue
        found.add(question.id)
        first_token, last_token = window.offsets[first - window.first], window.offsets[last - window.first]
        if (first_token[0], last_token[1]) != (begin, end):
            # The one kind of exception: an answer that begins or ends within a word piece ('1980' of '1980s').
            assert first_token[0] <= begin < first_token[1]
            assert last_token[0] < end <= last_token[1]
            inside_tokens.add(question.id)
    assert len(inside_tokens) == num_inside_tokens
    assert found == {question.id for question in one_each}


def test_perfect_logits_give_the_published_answers(real_data: Path, real_tokenizer: WordPiece) -> None:
    questions = read_squad(UPath(real_data / "squad" / "dev-v1.1.json.gz"))
    assert len(questions) == 10_570
    sample = questions[::11]
    task = _task(max_length=128, doc_stride=32, max_answer_length=128)
    features = task.features(sample, real_tokenizer, labels=(), split=Split.DEV)
    targets = [(q.answers[0].start, q.answers[0].end) for q in sample]
    found = task.evaluate(sample, features, _perfect_logits(features, targets))
    assert found.scores["exact_match"] > 99.5
    # What is left: tokens wider than the answer ('1980s' for '1980'): word pieces do not end where answers do.
    predictions = json.loads(found.files["predictions.json"])
    for question in sample:
        assert question.answers[0].text.strip() in predictions[question.id]


def test_scoring_is_linear_in_the_number_of_questions(tokenizer: WordPiece) -> None:
    contexts = [f"the cat {number} sat on the mat . " * 8 for number in range(400)]
    questions = [
        Question(id=str(n), text="who ?", context=context, answers=(Answer(text="the cat", start=0),))
        for n, context in enumerate(contexts)
    ]
    task = _task()
    features = task.features(questions, tokenizer, labels=(), split=Split.DEV)
    logits = [np.random.default_rng(0).normal(size=(len(ids), 2)) for ids in features.ids]
    started = time.process_time()
    task.evaluate(questions, features, logits)
    assert time.process_time() - started < 4.0


# Where an answer ends in marks, or begins with a letter that has some: NFD, Devanagari, Thai, Hebrew, Arabic, an emoji.
MARKED = [
    ("a cafe\u0301 here", "cafe\u0301"),
    ("I\u0307stanbul cafe", "I\u0307stanbul"),
    ("\u6771\u4eac\u90fd\u5e81", "\u4eac\u90fd"),
    ("\u0930\u093e\u092e \u0926\u093f\u0932\u094d\u0932\u0940 \u0939\u0948", "\u0926\u093f\u0932\u094d\u0932\u0940"),
    ("\u0e17\u0e35\u0e48 \u0e19\u0e35\u0e49 a", "\u0e19\u0e35\u0e49"),
    ("\u05e9\u05c1\u05b8 \u05dc\u05b9\u05d5\u05dd\u05bc.", "\u05dc\u05b9\u05d5\u05dd\u05bc"),
    ("\u0645\u064f\u062f\u064e \u0633\u0651\u064e.", "\u0645\u064f\u062f\u064e"),
    ("a \u2764\ufe0f b", "\u2764\ufe0f"),
    ("\u0915\u094d\u200d \u0915", "\u0915\u094d\u200d"),
    ("x \u1112\u1161\u11ab y", "\u1112\u1161\u11ab"),
]


@pytest.mark.parametrize("strip_accents", [None, False])
@pytest.mark.parametrize(("context", "answer"), MARKED)
def test_an_answer_takes_in_the_marks_that_follow_it(context: str, answer: str, strip_accents: bool | None) -> None:
    letters = sorted(set(unicodedata.normalize("NFD", context.lower()) + context.lower()) - {" "})
    tokens = [*SPECIAL_TOKENS.values(), *letters, *(f"##{letter}" for letter in letters), "who", "?"]
    tokenizer = WordPiece(build_tokenizer(tokens, lowercase=True, strip_accents=strip_accents))
    task, question = _task(), _question(context, answer)
    spans = answer_tokens(question, encode_contexts([question], tokenizer)[context])
    features = task.features([question], tokenizer, labels=(), split=Split.DEV)
    assert spans is not None
    logits = np.zeros((len(features.ids[0]), 2), np.float32)
    for column, token in enumerate(spans):
        logits[features.details[0].first + token, column] = 10
    result = task.evaluate([question], features, [logits])
    assert json.loads(result.files["predictions.json"]) == {"q": answer}
    assert result.scores["exact_match"] == 100
