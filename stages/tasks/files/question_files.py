"""Questions from files of any known form: SQuAD's JSON, MRQA's JSON lines, rows as Hugging Face has them.

Reference for MRQA: Fisch et al., MRQA 2019 Shared Task (arXiv 1910.09753).
"""

from collections.abc import Iterator
from typing import Any

from upath import UPath

from stages.tasks.files.squad import Answer, Question, get, read_squad, require_different_ids, whole_number
from stages.tasks.files.tables import file_format, read_objects, read_rows

_COLUMNS = ("id", "question", "context", "answers")
_IMPOSSIBLE = "is_impossible"


def read_questions(*paths: UPath, unanswerable: bool = False) -> list[Question]:
    """Reads a file, or the parts of one, by suffix (`.json`, `.jsonl`, `.parquet`, compressed or not) and first line.

    Args:
      unanswerable: Whether a question may have no answer.

    Raises:
      ValueError: Something is missing or of a wrong type, or an id is repeated; names the place.
    """
    questions = [question for path in paths for question in _read(path, unanswerable=unanswerable)]
    require_different_ids(questions, ", ".join(map(str, paths)))
    return questions


def _read(path: UPath, *, unanswerable: bool) -> list[Question]:
    match file_format(path):
        case ".parquet":
            rows = read_rows(path, needed=_COLUMNS, optional=(_IMPOSSIBLE,)).rows
            names = (*_COLUMNS, _IMPOSSIBLE)
            questions = [_row_question(dict(zip(names, row.values, strict=True)), row.place) for row in rows]
        case ".jsonl":
            questions = list(_read_lines(path))
        case _:
            return read_squad(path, unanswerable=unanswerable)
    if not questions:
        raise ValueError(f"{path}: no questions")
    if not unanswerable and (empty := next((question for question in questions if not question.texts), None)):
        raise ValueError(
            f"{path}: question {empty.id!r} has no answers, which this task does not allow; where contexts may hold "
            "none, the kind is answerability (squad_v2)"
        )
    return questions


def _read_lines(path: UPath) -> Iterator[Question]:
    for place, value in read_objects(path):
        if "header" in value:
            continue
        if "qas" not in value:
            yield _row_question(value, place)
            continue
        context = get(value, "context", str, place)
        for number, item in enumerate(get(value, "qas", list, place)):
            yield _mrqa_question(item, context=context, place=f"{place}: qas[{number}]")


def _mrqa_question(item: Any, *, context: str, place: str) -> Question:
    """Answers lie where MRQA found them; all texts that it accepts count in scoring."""
    answers = []
    for number, detected in enumerate(get(item, "detected_answers", list, place)):
        where = f"{place}.detected_answers[{number}]"
        for span in get(detected, "char_spans", list, where):
            if not (isinstance(span, list) and len(span) == 2):
                raise ValueError(f"{where}.char_spans: expected pairs of whole numbers, found {span!r}")
            first, last = (whole_number(end, f"{where}.char_spans") for end in span)
            answers.append(Answer(text=context[first : last + 1], start=first))
    return Question(
        id=get(item, "qid", str, place),
        text=get(item, "question", str, place),
        context=context,
        answers=tuple(answers),
        accepted=_texts(item, "answers", place),
    )


def _row_question(value: dict[str, Any], place: str) -> Question:
    answers = get(value, "answers", dict, place)
    texts, starts = _texts(answers, "text", f"{place}.answers"), get(answers, "answer_start", list, f"{place}.answers")
    if len(texts) != len(starts):
        raise ValueError(f"{place}.answers: {len(texts)} texts with {len(starts)} starts")
    return Question(
        id=str(value.get("id", place)),
        text=get(value, "question", str, place),
        context=get(value, "context", str, place),
        answers=tuple(
            Answer(text=text, start=whole_number(start, f"{place}.answers.answer_start"))
            for text, start in zip(texts, starts, strict=True)
            if not value.get(_IMPOSSIBLE)  # then they are plausible ones, and wrong
        ),
    )


def _texts(value: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    texts = get(value, key, list, place)
    return tuple(get({f"{key}[{n}]": text}, f"{key}[{n}]", str, place) for n, text in enumerate(texts))
