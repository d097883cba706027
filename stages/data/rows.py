"""What a shard holds and a builder makes: rows of token ids; and the lines of text, as ids, that they are made of.

Legend: S tokens of text, L lines, N rows, T tokens of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines of whole documents.

    Attributes:
      ids_S: Token ids of all lines, one after the other, without special ones.
      lengths_L: Tokens of each line.
      document_lines: Lines of each document, in order.
    """

    ids_S: np.ndarray
    lengths_L: np.ndarray
    document_lines: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[Sequence[Sequence[int]]]) -> Self:
        """Documents of lines of ids."""
        lines = [line for document in documents for line in document]
        return cls(
            ids_S=np.array([token for line in lines for token in line], dtype=np.uint32),
            lengths_L=np.array([len(line) for line in lines], dtype=np.int64),
            document_lines=np.array([len(document) for document in documents], dtype=np.int64),
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is the same for every row.

    Attributes:
      sequence_length: Tokens of a row, [CLS], [SEP] and padding included.
      special_ids: Ids of `pad`, `cls` and `sep`.
      dtype: Type of the ids.
    """

    sequence_length: int
    special_ids: Mapping[str, int]
    dtype: np.dtype


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows: [CLS] first [SEP], second [SEP] where there is a second segment, padding.

    Attributes:
      ids_NT: Their ids.
      length_N: Tokens without padding, uint16.
      first_length_N: Tokens of [CLS] first [SEP], uint16.
      begins_NT: Where a document begins, bool; None where a row holds no more than one.
    """

    ids_NT: np.ndarray
    length_N: np.ndarray
    first_length_N: np.ndarray
    begins_NT: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.length_N)

    def __getitem__(self, at: slice) -> "Rows":
        return Rows(
            ids_NT=self.ids_NT[at],
            length_N=self.length_N[at],
            first_length_N=self.first_length_N[at],
            begins_NT=None if self.begins_NT is None else self.begins_NT[at],
        )

    @classmethod
    def concatenate(cls, blocks: "Sequence[Rows]") -> Self:
        """Rows of one layout, one block after the other."""
        begins = [block.begins_NT for block in blocks if block.begins_NT is not None]
        return cls(
            ids_NT=np.concatenate([block.ids_NT for block in blocks]),
            length_N=np.concatenate([block.length_N for block in blocks]),
            first_length_N=np.concatenate([block.first_length_N for block in blocks]),
            begins_NT=np.concatenate(begins) if begins else None,
        )

    @classmethod
    def empty(cls, layout: Layout, num_rows: int, *, packed: bool = False) -> Self:
        """Rows of padding, whose lengths are not set."""
        shape = num_rows, layout.sequence_length
        return cls(
            ids_NT=np.full(shape, layout.special_ids["pad"], dtype=layout.dtype),
            length_N=np.empty(num_rows, dtype=np.uint16),
            first_length_N=np.empty(num_rows, dtype=np.uint16),
            begins_NT=np.zeros(shape, dtype=bool) if packed else None,
        )

    @classmethod
    def of(
        cls,
        segments: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        layout: Layout,
        begins: Sequence[Sequence[int]] | None = None,
    ) -> Self:
        """Rows of first and second segments, and of the places, [CLS] included, at which their documents begin."""
        rows = cls.empty(layout, len(segments), packed=begins is not None)
        cls_id, sep_id = layout.special_ids["cls"], layout.special_ids["sep"]
        for row, (first, second) in enumerate(segments):
            ids = [cls_id, *first, sep_id, *second, *([sep_id] if second else [])]
            rows.ids_NT[row, : len(ids)] = ids
            rows.length_N[row], rows.first_length_N[row] = len(ids), len(first) + 2
            if rows.begins_NT is not None and begins is not None:
                rows.begins_NT[row, list(begins[row])] = True
        return rows
