"""SQuAD's files: questions about paragraphs, with answers at positions in them.

Reference: Rajpurkar et al., SQuAD, 2016 (arXiv 1606.05250).
"""

import json
from dataclasses import dataclass
from typing import Any

from upath import UPath

from stages.tasks.files import read_text


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text and where it begins in its context, in characters."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a context. Contexts are shared between questions, so that each is encoded once."""

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...]


def read_squad(path: UPath) -> list[Question]:
    """Reads a SQuAD JSON file. A missing part is named with its place in the file."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    questions: list[Question] = []
    where = str(path)
    for a, article in enumerate(_get(content, "data", list, where)):
        paragraphs = _get(article, "paragraphs", list, f"{where}: data[{a}]")
        for p, paragraph in enumerate(paragraphs):
            place = f"{where}: data[{a}].paragraphs[{p}]"
            context = _get(paragraph, "context", str, place)
            for q, item in enumerate(_get(paragraph, "qas", list, place)):
                questions.append(_question(item, context=context, place=f"{place}.qas[{q}]"))
    if not questions:
        raise ValueError(f"{path}: no questions; expected data[].paragraphs[].qas[]")
    ids = {question.id for question in questions}
    if len(ids) < len(questions):
        raise ValueError(f"{path}: {len(questions)} questions have {len(ids)} different ids; they must differ")
    return questions


def _question(item: Any, *, context: str, place: str) -> Question:
    answers = [
        Answer(
            text=_get(answer, "text", str, f"{place}.answers[{n}]"),
            start=_get(answer, "answer_start", int, f"{place}.answers[{n}]"),
        )
        for n, answer in enumerate(_get(item, "answers", list, place))
    ]
    if not answers:
        raise ValueError(f"{place}: no answers; a question without one belongs to SQuAD 2.0, not 1.1")
    return Question(
        id=_get(item, "id", str, place),
        text=_get(item, "question", str, place),
        context=context,
        answers=tuple(answers),
    )


def _get(value: Any, key: str, kind: type, place: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object with {key!r}, found {type(value).__name__}")
    if key not in value:
        raise ValueError(f"{place}: no {key!r}; found {', '.join(map(repr, value)) or 'nothing'}")
    if not isinstance(value[key], kind):
        raise ValueError(f"{place}.{key}: expected {kind.__name__}, found {type(value[key]).__name__}")
    return value[key]
