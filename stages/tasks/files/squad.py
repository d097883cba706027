"""SQuAD's files: questions about paragraphs, with answers at positions in them, in 2.0 some without.

References: Rajpurkar et al., SQuAD, 2016 (arXiv 1606.05250) and 2018 (arXiv 1806.03822).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from upath import UPath

from cluster.storage import parse_json
from stages.tasks.files.reading import read_text, require_characters


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text and where it begins in its context, in characters."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def trimmed(self) -> "Answer":
        """Without white space around it."""
        left = len(self.text) - len(self.text.lstrip())
        return Answer(text=self.text.strip(), start=self.start + left)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a context. Contexts are shared between questions, so that each is encoded once.

    Attributes:
      answers: Where the answers lie; none for a question that has none.
      accepted: Texts that count as right, where they differ from those of `answers`.
    """

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...]
    accepted: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What a prediction is compared with."""
        return self.accepted or tuple(answer.text for answer in self.answers)

    def holds(self, answer: Answer) -> bool:
        """Whether the context has this answer where it says."""
        answer = answer.trimmed
        return bool(answer.text) and self.context[answer.start : answer.end] == answer.text


def read_squad(path: UPath, *, unanswerable: bool = False) -> list[Question]:
    """Reads a SQuAD JSON file. A missing part is named with its place in the file.

    Args:
      unanswerable: Whether a question may have no answer (2.0).
    """
    content = parse_json(read_text(path), str(path))
    questions: list[Question] = []
    where = str(path)
    for a, article in enumerate(get(content, "data", list, where)):
        paragraphs = get(article, "paragraphs", list, f"{where}: data[{a}]")
        for p, paragraph in enumerate(paragraphs):
            place = f"{where}: data[{a}].paragraphs[{p}]"
            context = get(paragraph, "context", str, place)
            for q, item in enumerate(get(paragraph, "qas", list, place)):
                questions.append(_question(item, context=context, place=f"{place}.qas[{q}]", unanswerable=unanswerable))
    if not questions:
        raise ValueError(f"{path}: no questions; expected data[].paragraphs[].qas[]")
    return questions


def require_different_ids(questions: Sequence[Question], path: object) -> None:
    """Raises a ValueError where an id is repeated: predictions are written by id."""
    counts = Counter(question.id for question in questions)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        shown = ", ".join(map(repr, repeated[:3])) + (" …" if len(repeated) > 3 else "")
        raise ValueError(
            f"{path}: {len(questions)} questions have {len(counts)} different ids, which must differ; repeated: {shown}"
        )


def _question(item: Any, *, context: str, place: str, unanswerable: bool) -> Question:
    answers = []
    for number, answer in enumerate(get(item, "answers", list, place)):
        where = f"{place}.answers[{number}]"
        start = whole_number(get(answer, "answer_start", object, where), f"{where}.answer_start")
        answers.append(Answer(text=get(answer, "text", str, where), start=start))
    if unanswerable and item.get("is_impossible"):
        answers = []  # some files repeat plausible ones here
    elif not answers and not (unanswerable and "is_impossible" not in item):
        of_other = "a question without one belongs to SQuAD 2.0, not 1.1"
        raise ValueError(f"{place}: no answers; {'though is_impossible is false' if unanswerable else of_other}")
    return Question(
        id=get(item, "id", str, place), text=get(item, "question", str, place), context=context, answers=tuple(answers)
    )


def get(value: Any, key: str, kind: type, place: str) -> Any:
    """A value of an object that a file holds.

    Raises:
      ValueError: It is missing or of another type; names the place.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object with {key!r}, found {type(value).__name__}")
    if key not in value:
        raise ValueError(f"{place}: no {key!r}; found {', '.join(map(repr, value)) or 'nothing'}")
    if not isinstance(value[key], kind):
        raise ValueError(f"{place}.{key}: expected {kind.__name__}, found {type(value[key]).__name__}")
    if kind is str:
        require_characters(value[key], f"{place}.{key}")
    return value[key]


def whole_number(value: Any, place: str) -> int:
    """A whole number, which some writers of JSON write as 7.0.

    Raises:
      ValueError: It is none; names the place.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{place}: expected a whole number, found {value!r}")
    return int(value)
