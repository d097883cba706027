"""What a reader of a run's scores must know, as result.json holds it: a kind to tell apart, a text to read."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class WarningKind(StrEnum):
    """What a warning is about."""

    DEGENERATE = "degenerate"  # the run learnt nothing: one prediction for all, or a flat loss
    RETRIED = "retried"  # earlier attempts learnt nothing
    FEW_EXAMPLES = "few_examples"  # scored on a part of the dev split
    SKIPPED = "skipped"  # rows or examples that are not trained on or not scored
    TRUNCATED = "truncated"  # texts that are longer than `max_length`
    OUT_OF_REACH = "out_of_reach"  # gold answers or tags that the model cannot give
    EMPTY_ANSWERS = "empty_answers"
    UNSTATED = "unstated"  # what a model card should say, and nobody said
    DAMAGED = "damaged"  # checkpoints that could not be read, and were passed over


@dataclass(frozen=True)
class RunWarning:
    """One warning. As text it begins with its kind: `degenerate: all 8 predictions are one class, no`."""

    kind: WarningKind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.replace('_', ' ')}: {self.text}"


def read_warnings(entries: Iterable[Any], *, file: object) -> tuple[RunWarning, ...]:
    """The warnings of a result.json.

    Raises:
      ValueError: An entry is no such record; names the file and what to do.
    """
    found = []
    for entry in entries:
        try:
            found.append(RunWarning(WarningKind(entry["kind"]), str(entry["text"])))
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{file}: a warning is {entry!r}, expected an object with `text` and a `kind` of "
                f"{', '.join(WarningKind)}; delete its folder and run its stage again"
            ) from error
    return tuple(found)
