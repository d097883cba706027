"""Builds rows from the lines of documents: one or two segments, as ELECTRA's `ExampleBuilder` does, or packed.

The rules work on the lengths of lines; ids are moved in one go a block. A block is any number of whole documents: how
text is divided into blocks changes no row.

Legend: S tokens of text, L lines, P pieces (a line, or the part of it that goes into one row), N rows, T tokens of one.
"""

import random
from bisect import bisect_right
from enum import StrEnum

import numpy as np

from stages.data.rows import Layout, Lines, Rows

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


def make_builder(
    layout: Layout, *, packing: Packing, seed: int | str, long_lines: LongLines
) -> "PairBuilder | PackedBuilder":
    """The builder of a kind of rows."""
    match packing:
        case Packing.PAIRS:
            return PairBuilder(layout, seed=seed, long_lines=long_lines)
        case Packing.PACKED:
            return PackedBuilder(layout)


class PairBuilder:
    """Collects lines until they reach a target length, then divides them into two segments.

    A line joins the first segment if that is empty, if it fits the first segment's target with room to spare, or, by
    a fair coin, if the second is still empty and the first short of its target; otherwise the second. One example in
    ten is meant to be a single segment (its first target is everything); after one example in twenty the next target
    is uniform in 5 .. `sequence_length` instead of `sequence_length`.

    With `LongLines.SPLIT` lines fill an example exactly and the rest of the last one starts the next. With
    `LongLines.TRUNCATE` an example ends with the line that reaches the target, and what is over is cut off.

    Args:
      layout: Its rows have at least 5 tokens.
      seed: Seeds all of the draws above.
    """

    def __init__(self, layout: Layout, *, seed: int | str, long_lines: LongLines = LongLines.SPLIT) -> None:
        _require_length(layout)
        self._layout = layout
        self._max_length = layout.sequence_length
        self._random = random.Random(seed)
        self._split = long_lines is LongLines.SPLIT
        self._held: list[int] = []  # lengths of the pieces of the present example
        self._length = 0
        self._target = self._max_length
        self._single = self._draw_single()
        self._pieces: list[int] = []  # of the examples that are complete
        self._is_second: list[bool] = []
        self._num_pieces: list[int] = []  # of each
        self.dropped_tokens = 0

    def add(self, lines: Lines) -> Rows:
        """The rows of some documents. None spans two."""
        add_line = self._split_line if self._split else self._add_line
        lengths, at = lines.lengths_L.tolist(), 0
        for num_lines in lines.document_lines.tolist():
            for length in lengths[at : at + num_lines]:
                add_line(length)
            at += num_lines
            if self._length:
                self._finish()
        return self._lay_out(lines.ids_S)

    def end(self) -> Rows:
        """What is left after the last document: nothing."""
        return Rows.empty(self._layout, 0)

    def _add_line(self, length: int) -> None:
        self._held.append(length)
        self._length += length
        if self._length >= self._target:
            self._finish()

    def _split_line(self, length: int) -> None:
        while length:
            # Here the special tokens count: [CLS] and a [SEP] a segment.
            room = self._target - (2 if self._single else 3) - self._length
            if length < room:
                self._held.append(length)
                self._length += length
                return
            self._held.append(room)
            self._finish()
            length -= room

    def _finish(self) -> None:
        first_target = 100_000 if self._single else (self._target - 3) // 2
        first = 0
        has_second = False
        for length in self._held:
            is_first = (
                not first
                or first + length < first_target
                or (not has_second and first < first_target and self._random.random() < 0.5)
            )
            if is_first:
                first += length
            elif length:
                has_second = True
            self._is_second.append(not is_first)
        self._pieces += self._held
        self._num_pieces.append(len(self._held))
        self._held, self._length, self._target = [], 0, self._max_length
        if self._random.random() < SHORT_TARGET_PROBABILITY:
            self._target = self._random.randint(MIN_LENGTH, self._max_length)
        self._single = self._draw_single()

    def _draw_single(self) -> bool:
        return self._random.random() < SINGLE_SEGMENT_PROBABILITY

    def _lay_out(self, ids_S: np.ndarray) -> Rows:
        """The complete examples as rows. Their pieces are `ids_S`, in order."""
        num_rows = len(self._num_pieces)
        rows = Rows.empty(self._layout, num_rows)
        length_P = np.array(self._pieces, dtype=np.int64)
        is_second_P = np.array(self._is_second, dtype=bool)
        row_P = np.repeat(np.arange(num_rows), self._num_pieces)
        self._pieces, self._is_second, self._num_pieces = [], [], []
        wanted = [_sums(row_P, length_P * mask_P, num_rows) for mask_P in (~is_second_P, is_second_P)]
        limits = self._max_length - 2, np.maximum(self._max_length - 3 - wanted[0], 0)
        first_N, second_N = (np.minimum(*pair) for pair in zip(wanted, limits, strict=True))
        offset_P = np.where(
            is_second_P, _places(row_P, length_P * is_second_P), _places(row_P, length_P * ~is_second_P)
        )
        fits_P = np.clip(np.where(is_second_P, second_N[row_P], first_N[row_P]) - offset_P, 0, length_P)
        column_P = 1 + offset_P + np.where(is_second_P, first_N[row_P] + 1, 0)
        source_P = np.cumsum(length_P) - length_P
        flat = rows.ids_NT.reshape(-1)
        _copy(ids_S, flat, source_P=source_P, target_P=row_P * self._max_length + column_P, length_P=fits_P)
        self.dropped_tokens += int(length_P.sum() - fits_P.sum())
        rows.ids_NT[:, 0] = self._layout.special_ids["cls"]
        has_second_N = second_N > 0
        rows.first_length_N[:] = first_N + 2
        rows.length_N[:] = first_N + 2 + second_N + has_second_N
        every_N = np.arange(num_rows)
        rows.ids_NT[every_N, first_N + 1] = self._layout.special_ids["sep"]
        rows.ids_NT[every_N, rows.length_N.astype(np.int64) - 1] = self._layout.special_ids["sep"]
        return rows


class PackedBuilder:
    """Fills rows with documents, one after the other; no token is lost.

    A document that goes on in the next row begins anew there, with its own [CLS]. A row ends short of its length rather
    than with less than `MIN_LENGTH` tokens of a longer line.

    Args:
      layout: Its rows have at least 5 tokens.
    """

    dropped_tokens = 0

    def __init__(self, layout: Layout) -> None:
        _require_length(layout)
        self._layout = layout
        # The lines of the row that is not full yet, and whether each begins a document.
        self._ids = np.empty(0, dtype=np.uint32)
        self._lengths = np.empty(0, dtype=np.int64)
        self._opens = np.empty(0, dtype=bool)

    def add(self, lines: Lines) -> Rows:
        """The rows that some documents complete."""
        document_L = np.repeat(np.arange(len(lines.document_lines)), lines.document_lines)
        document_L = document_L[lines.lengths_L > 0]
        self._opens = np.concatenate([self._opens, np.diff(document_L, prepend=-1) > 0])
        self._lengths = np.concatenate([self._lengths, lines.lengths_L[lines.lengths_L > 0]])
        self._ids = np.concatenate([self._ids, lines.ids_S])
        return self._fill()

    def end(self) -> Rows:
        """What is left after the last document."""
        return self._fill(is_last=True)

    def _fill(self, *, is_last: bool = False) -> Rows:
        """The full rows. They are runs of one stream, the ids with [SEP] [CLS] between documents."""
        between_L = np.where(self._opens, 2, 0)
        ends_L = np.cumsum(self._lengths + between_L)
        begins_L = ends_L - self._lengths
        spans, rest = self._spans(begins_L.tolist(), ends_L.tolist(), between_L.tolist())
        size = int(ends_L[-1]) if len(ends_L) else 0
        if is_last and rest < size:
            spans.append((rest, size))
            rest = size
        stream = np.empty(size, dtype=self._layout.dtype)
        sep, cls = (self._layout.special_ids[name] for name in ("sep", "cls"))
        opening = begins_L[self._opens] - 1  # the place of a document's [CLS]
        stream[opening - 1], stream[opening] = sep, cls
        is_text = np.ones(size, dtype=bool)
        is_text[opening - 1] = is_text[opening] = False
        stream[is_text] = self._ids
        rows = self._lay_out(stream, np.array(spans, dtype=np.int64).reshape(-1, 2), opening)
        # What is left begins in the midst of a line, or with one.
        open_line = int(np.searchsorted(ends_L, rest, side="right"))
        self._ids = self._ids[np.count_nonzero(is_text[:rest]) :].copy()
        self._opens, self._lengths = self._opens[open_line:].copy(), self._lengths[open_line:].copy()
        if len(self._lengths):
            self._lengths[0] = ends_L[open_line] - max(rest, begins_L[open_line])
        return rows

    def _spans(self, begins: list[int], ends: list[int], between: list[int]) -> tuple[list[tuple[int, int]], int]:
        """Where in the stream each full row begins and ends, and where the row begins that is not full."""
        room = self._layout.sequence_length - 2
        spans: list[tuple[int, int]] = []
        at, line = begins[0] if begins else 0, 0
        while True:
            end = at + room
            line = bisect_right(ends, end, lo=line)
            if line == len(ends):
                return spans, at
            # Whether a part of the line that does not fit goes into this row.
            if begins[line] <= at or end - begins[line] >= MIN_LENGTH:
                spans.append((at, end))
                at = end
            else:
                spans.append((at, begins[line] - between[line]))
                at = begins[line]

    def _lay_out(self, stream: np.ndarray, spans_N2: np.ndarray, opening: np.ndarray) -> Rows:
        begin_N, length_N = spans_N2[:, 0], spans_N2[:, 1] - spans_N2[:, 0]
        rows = Rows.empty(self._layout, len(spans_N2), packed=True)
        assert rows.begins_NT is not None
        every_N = np.arange(len(spans_N2))
        target_N = every_N * self._layout.sequence_length + 1
        _copy(stream, rows.ids_NT.reshape(-1), source_P=begin_N, target_P=target_N, length_P=length_N)
        rows.ids_NT[:, 0] = self._layout.special_ids["cls"]
        rows.ids_NT[every_N, length_N + 1] = self._layout.special_ids["sep"]
        rows.length_N[:] = rows.first_length_N[:] = length_N + 2
        rows.begins_NT[:, 0] = True
        row = np.searchsorted(begin_N, opening, side="right") - 1
        # A document at the very start of a row has the row's own [CLS], and lies between two spans.
        inside = (row >= 0) & (opening < spans_N2[row, 1]) if len(spans_N2) else np.zeros(len(opening), dtype=bool)
        rows.begins_NT[row[inside], opening[inside] - begin_N[row[inside]] + 1] = True
        return rows


def _require_length(layout: Layout) -> None:
    if layout.sequence_length < MIN_LENGTH:
        raise ValueError(f"sequence_length is {layout.sequence_length}, must be at least {MIN_LENGTH}")


def _sums(row_P: np.ndarray, value_P: np.ndarray, num_rows: int) -> np.ndarray:
    """The sum of the values of each row, exact."""
    ends_P = np.concatenate([[0], np.cumsum(value_P)])
    last_N = np.searchsorted(row_P, np.arange(num_rows), side="right")
    return np.diff(ends_P[last_N], prepend=0)


def _places(row_P: np.ndarray, value_P: np.ndarray) -> np.ndarray:
    """The sum of the values before each in its row."""
    before_P = np.cumsum(value_P) - value_P
    first_P = np.searchsorted(row_P, row_P, side="left")
    return before_P - before_P[first_P]


def _copy(
    source: np.ndarray, target: np.ndarray, *, source_P: np.ndarray, target_P: np.ndarray, length_P: np.ndarray
) -> None:
    """Copies runs: `length_P` values from `source_P` on to `target_P` on."""
    run_S = np.arange(int(length_P.sum()))
    begin_P = np.cumsum(length_P) - length_P
    from_S = run_S + np.repeat(source_P - begin_P, length_P)
    target[run_S + np.repeat(target_P - begin_P, length_P)] = source[from_S]
