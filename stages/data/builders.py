"""Builds examples from the lines of documents: one or two segments, as ELECTRA's `ExampleBuilder` does, or packed."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SINGLE_SEGMENT_PROBABILITY = 0.1
SHORT_TARGET_PROBABILITY = 0.05
MIN_LENGTH = 5


class Packing(StrEnum):
    """What a row holds.

    PAIRS: One or two segments of one document, by the original's rule, and padding.
    PACKED: Documents one after the other, each with its own [CLS] and [SEP], until the row is full; what does not fit
      goes on in the next one.
    """

    PAIRS = "pairs"
    PACKED = "packed"


class LongLines(StrEnum):
    """What happens to the part of a line that does not fit an example.

    SPLIT: It begins the next example; no token is lost.
    TRUNCATE: It is dropped, as the original does.
    """

    SPLIT = "split"
    TRUNCATE = "truncate"


@dataclass(frozen=True, kw_only=True)
class Example:
    """Token ids without the special ones: [CLS] first [SEP], and second [SEP] where there is a second segment.

    Where a row may hold several documents, `begins` are the places in it, [CLS] included, at which they begin.
    """

    first: list[int]
    second: list[int] = field(default_factory=list)
    begins: list[int] | None = None


class PairBuilder:
    """Collects lines until they reach a target length, then divides them into two segments.

    A line joins the first segment if that is empty, if it fits the first segment's target with room to spare, or, by
    a fair coin, if the second is still empty and the first short of its target; otherwise the second. One example in
    ten is meant to be a single segment (its first target is everything); after one example in twenty the next target
    is uniform in 5 .. `max_length` instead of `max_length`.

    With `LongLines.SPLIT` lines fill an example exactly and the rest of the last one starts the next. With
    `LongLines.TRUNCATE` an example ends with the line that reaches the target, and what is over is cut off.

    Args:
      max_length: Tokens of an example, [CLS] and [SEP] included; at least 5.
      seed: Seeds all of the draws above.
    """

    def __init__(self, *, max_length: int, seed: int | str, long_lines: LongLines = LongLines.SPLIT) -> None:
        if max_length < MIN_LENGTH:
            raise ValueError(f"max_length is {max_length}, must be at least {MIN_LENGTH}")
        self._max_length = max_length
        self._random = random.Random(seed)
        self._split = long_lines is LongLines.SPLIT
        self._lines: list[list[int]] = []
        self._length = 0
        self._target = max_length
        self._single = self._draw_single()
        self.dropped_tokens = 0

    def add_line(self, ids: list[int]) -> Iterator[Example]:
        """Takes a line; yields the examples that it completes."""
        if not self._split:
            self._take(ids)
            if self._length >= self._target:
                yield self._finish()
            return
        while ids:
            # Here the special tokens count: [CLS] and a [SEP] a segment.
            room = self._target - (2 if self._single else 3) - self._length
            self._take(ids[:room])
            if len(ids) < room:
                return
            yield self._finish()
            ids = ids[room:]

    def end_document(self) -> list[Example]:
        """What is left, so that no example spans two documents."""
        return [self._finish()] if self._length else []

    def end(self) -> list[Example]:
        """What is left after the last document: nothing."""
        return []

    def _take(self, ids: list[int]) -> None:
        self._lines.append(ids)
        self._length += len(ids)

    def _finish(self) -> Example:
        first_target = 100_000 if self._single else (self._target - 3) // 2
        first: list[int] = []
        second: list[int] = []
        for line in self._lines:
            if (
                not first
                or len(first) + len(line) < first_target
                or (not second and len(first) < first_target and self._random.random() < 0.5)
            ):
                first += line
            else:
                second += line
        example = Example(
            first=first[: self._max_length - 2], second=second[: max(0, self._max_length - len(first) - 3)]
        )
        self.dropped_tokens += self._length - len(example.first) - len(example.second)
        self._lines, self._length, self._target = [], 0, self._max_length
        if self._random.random() < SHORT_TARGET_PROBABILITY:
            self._target = self._random.randint(MIN_LENGTH, self._max_length)
        self._single = self._draw_single()
        return example

    def _draw_single(self) -> bool:
        return self._random.random() < SINGLE_SEGMENT_PROBABILITY


class PackedBuilder:
    """Fills examples with documents, one after the other; no token is lost.

    A document that goes on in the next example begins anew there, with its own [CLS]. An example ends short of
    `max_length` rather than with less than `MIN_LENGTH` tokens of a longer line.

    Args:
      max_length: Tokens of an example, all [CLS] and [SEP] included; at least 5.
      special_ids: Ids of `cls` and `sep`.
    """

    dropped_tokens = 0

    def __init__(self, *, max_length: int, special_ids: Mapping[str, int]) -> None:
        if max_length < MIN_LENGTH:
            raise ValueError(f"max_length is {max_length}, must be at least {MIN_LENGTH}")
        self._room = max_length - 2
        self._between = [special_ids["sep"], special_ids["cls"]]
        self._row: list[int] = []
        self._begins = [0]
        self._is_begun = False  # whether the row holds a part of the present document

    def add_line(self, ids: list[int]) -> Iterator[Example]:
        """Takes a line; yields the examples that it completes."""
        while ids:
            between = self._between if self._row and not self._is_begun else []
            room = self._room - len(self._row) - len(between)
            if room < min(len(ids), MIN_LENGTH) and self._row:
                yield self._finish()
                continue
            if between:
                self._begins.append(len(self._row) + 2)  # after the row's own [CLS] and the [SEP] between
            self._row += between + ids[:room]
            self._is_begun = True
            ids = ids[room:]

    def end_document(self) -> list[Example]:
        """The next line is another document's. Returns nothing."""
        self._is_begun = False
        return []

    def end(self) -> list[Example]:
        """What is left after the last document."""
        return [self._finish()] if self._row else []

    def _finish(self) -> Example:
        example = Example(first=self._row, begins=self._begins)
        self._row, self._begins, self._is_begun = [], [0], False
        return example
