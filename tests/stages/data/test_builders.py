"""The building rule against an independent transcription of it, and what it must never do: lose text."""

import hashlib
import random
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from stages.data.builders import MIN_LENGTH, LongLines, PackedBuilder, Packing, PairBuilder, make_builder
from stages.data.rows import Layout, Lines, Rows

PAD, CLS, SEP = 1_000_000, 1_000_001, 1_000_002


class Example(NamedTuple):
    """The segments of a row."""

    first: list[int]
    second: list[int]


def _layout(max_length: int) -> Layout:
    special_ids = {"pad": PAD, "cls": CLS, "sep": SEP}
    return Layout(sequence_length=max_length, special_ids=special_ids, dtype=np.dtype(np.uint32))


def _pairs(max_length: int, seed: int | str, long_lines: LongLines = LongLines.SPLIT) -> PairBuilder:
    return PairBuilder(_layout(max_length), seed=seed, long_lines=long_lines)


def _examples(rows: Rows) -> list[Example]:
    """The segments of rows of pairs, whose special tokens and padding must be where they belong."""
    examples = []
    for ids, length, first_length in zip(rows.ids_NT.tolist(), rows.length_N, rows.first_length_N, strict=True):
        example = Example(ids[1 : first_length - 1], ids[first_length : max(first_length, length - 1)])
        padding = [PAD] * (len(ids) - length)
        assert ids == [CLS, *example.first, SEP, *example.second, *([SEP] if example.second else []), *padding]
        examples.append(example)
    return examples


def _corpus(seed: int, *, longest: int) -> list[list[list[int]]]:
    """Documents of lines of distinct numbers, so that every token can be told from every other."""
    draw = random.Random(seed)
    number = 0
    documents = []
    for _ in range(60):
        document = []
        for _ in range(draw.randint(0, 12)):
            length = draw.randint(0, longest)
            document.append(list(range(number, number + length)))
            number += length
        documents.append(document)
    return documents


def _build(documents: list[list[list[int]]], builder: PairBuilder) -> list[list[Example]]:
    """Each document's examples."""
    return [_examples(builder.add(Lines.of([document]))) for document in documents]


def _length(example: Example) -> int:
    """Tokens with [CLS] and [SEP]."""
    return len(example.first) + 2 + (len(example.second) + 1 if example.second else 0)


def _naive(documents: list[list[list[int]]], *, max_length: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """The published rule word for word, truncating, with the same draws in the same order."""
    draw = random.Random(seed)
    single = draw.random() < 0.1
    target = max_length
    examples = []
    for document in documents:
        lines: list[list[int]] = []
        for position, line in enumerate([*document, None]):
            if line is not None:
                lines.append(line)
            total = sum(len(one) for one in lines)
            ended = line is None and position == len(document)
            if total >= target or (ended and total > 0):
                first_target = 100000 if single else (target - 3) // 2
                first: list[int] = []
                second: list[int] = []
                for one in lines:
                    if (
                        len(first) == 0
                        or len(first) + len(one) < first_target
                        or (len(second) == 0 and len(first) < first_target and draw.random() < 0.5)
                    ):
                        first = first + one
                    else:
                        second = second + one
                first = first[0 : max_length - 2]
                second = second[0 : max(0, max_length - len(first) - 3)]
                examples.append((first, second))
                lines = []
                target = draw.randint(5, max_length) if draw.random() < 0.05 else max_length
                single = draw.random() < 0.1
    return examples


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("longest", [8, 60])
def test_truncating_builder_follows_the_published_rule(seed: int, longest: int) -> None:
    documents = _corpus(seed, longest=longest)
    builder = _pairs(32, seed, LongLines.TRUNCATE)
    ours = [(one.first, one.second) for examples in _build(documents, builder) for one in examples]
    assert ours == _naive(documents, max_length=32, seed=seed)


def test_truncating_counts_what_it_drops() -> None:
    documents = _corpus(0, longest=60)
    builder = _pairs(32, 0, LongLines.TRUNCATE)
    kept = sum(len(one.first) + len(one.second) for examples in _build(documents, builder) for one in examples)
    assert kept + builder.dropped_tokens == sum(len(line) for document in documents for line in document)
    assert builder.dropped_tokens > 0


@pytest.mark.parametrize("max_length", [5, 6, 16, 128])
@pytest.mark.parametrize("longest", [3, 40, 500])
def test_splitting_loses_no_token_and_spans_no_two_documents(max_length: int, longest: int) -> None:
    documents = _corpus(max_length, longest=longest)
    builder = _pairs(max_length, 1)
    for document, examples in zip(documents, _build(documents, builder), strict=True):
        tokens = [token for line in document for token in line]
        at = 0
        for example in examples:
            held = example.first + example.second
            # Segments may take later lines before earlier ones; the example as a whole is a run of the text.
            assert sorted(held) == tokens[at : at + len(held)]
            at += len(held)
        assert at == len(tokens)
    assert builder.dropped_tokens == 0


@pytest.mark.parametrize("max_length", [5, 16, 128])
def test_no_example_is_longer_than_asked_or_empty(max_length: int) -> None:
    builder = _pairs(max_length, 1)
    for examples in _build(_corpus(3, longest=200), builder):
        for example in examples:
            assert example.first
            assert _length(example) <= max_length


def test_a_long_paragraph_fills_its_examples() -> None:
    builder = _pairs(128, 0)
    examples = _examples(builder.add(Lines.of([[list(range(100_000))]])))
    full = sum(_length(example) >= 127 for example in examples)
    assert full / len(examples) > 0.9  # one in twenty is short on purpose


def test_shares_of_single_segments_and_short_targets_are_the_published_ones() -> None:
    builder = _pairs(128, 0)
    examples = _examples(builder.add(Lines.of([[[number] * 10 for number in range(60_000)]])))
    single = sum(not example.second for example in examples) / len(examples)
    short = sum(_length(example) < 120 for example in examples) / len(examples)
    assert 0.09 < single < 0.13
    assert 0.03 < short < 0.06


def test_a_line_joins_the_segment_that_the_rule_names() -> None:
    """Lines of 10 for a first target of 62: six fit (60 < 62); then a coin, while the second is empty."""
    builder = _pairs(128, 0, LongLines.TRUNCATE)
    lengths: Counter[int] = Counter()
    for example in _examples(builder.add(Lines.of([[[number] * 10 for number in range(20_000)]]))):
        if example.second and _length(example) == 128:
            lengths[len(example.first)] += 1
    assert lengths[60] + lengths[70] > 0.97 * sum(lengths.values())  # the rest had a short target
    assert 0.4 < lengths[70] / sum(lengths.values()) < 0.6


def test_the_seed_decides_the_draws() -> None:
    documents = _corpus(0, longest=30)
    built = [_build(documents, _pairs(32, seed)) for seed in ("0/train/1", "0/train/1", "0/train/2")]
    assert built[0] == built[1] != built[2]


def test_a_length_with_no_room_for_two_segments_is_refused() -> None:
    with pytest.raises(ValueError, match="sequence_length is 4, must be at least 5"):
        _pairs(4, 0)


def packed(documents: list[list[list[int]]], *, max_length: int, blocks: int = 1) -> list[list[int]]:
    """Rows of documents' lines, with all special tokens. Documents begin at [CLS], which no text holds here."""
    builder = PackedBuilder(_layout(max_length))
    size = -(-len(documents) // blocks)
    rows = [builder.add(Lines.of(documents[at : at + size])) for at in range(0, len(documents), size)]
    whole = Rows.concatenate([*rows, builder.end()])
    assert whole.begins_NT is not None
    assert np.array_equal(whole.begins_NT, whole.ids_NT == CLS)
    assert np.array_equal(whole.length_N, (whole.ids_NT != PAD).sum(axis=1))
    assert np.array_equal(whole.length_N, whole.first_length_N)
    return [row[:length] for row, length in zip(whole.ids_NT.tolist(), whole.length_N, strict=True)]


def test_packed_documents_follow_one_another_each_with_its_own_ends():
    rows = packed([[[1, 2], [3]], [[4, 5]], [[6, 7, 8, 9, 10, 11, 12, 13, 14]]], max_length=16)
    assert rows == [[CLS, 1, 2, 3, SEP, CLS, 4, 5, SEP, CLS, 6, 7, 8, 9, 10, SEP], [CLS, 11, 12, 13, 14, SEP]]


@pytest.mark.parametrize("max_length", [5, 16, 128])
def test_packing_keeps_every_token_in_order_and_fills_its_rows(max_length):
    draw = random.Random(0)
    documents = [
        [[draw.randint(1, 100) for _ in range(draw.randint(1, 40))] for _ in range(draw.randint(1, 6))]
        for _ in range(200)
    ]
    rows = packed(documents, max_length=max_length)
    text = [token for row in rows for token in row if token not in (CLS, SEP)]
    assert text == [token for document in documents for line in document for token in line]
    assert all(len(row) <= max_length for row in rows)
    # A row ends short of its end only where there was no room for another document's beginning.
    assert all(len(row) > max_length - 2 - MIN_LENGTH for row in rows[:-1])
    assert all(row.count(CLS) == row.count(SEP) for row in rows)


def _naive_packed(documents: list[list[list[int]]], *, max_length: int) -> list[list[int]]:
    """The rule a token at a time."""
    rows: list[list[int]] = []
    row: list[int] = []

    def finish() -> None:
        rows.append([*row, SEP])
        row.clear()

    for document in documents:
        is_begun = False
        for line in document:
            rest = list(line)
            while rest:
                ends = [SEP, CLS] if row and not is_begun else [] if row else [CLS]
                room = max_length - 1 - len(row) - len(ends)
                if row and room < min(len(rest), MIN_LENGTH):
                    finish()
                    is_begun = False
                    continue
                row += ends + rest[:room]
                rest = rest[room:]
                is_begun = True
    if row:
        finish()
    return rows


@pytest.mark.parametrize("blocks", [1, 3, 1000])
@pytest.mark.parametrize("max_length", [5, 6, 7, 8, 13, 64])
def test_packed_rows_follow_the_rule_however_the_text_comes(max_length: int, blocks: int) -> None:
    for seed, longest in enumerate([2, 5, 40, 300]):
        documents = _corpus(seed, longest=longest)
        assert packed(documents, max_length=max_length, blocks=blocks) == _naive_packed(
            documents, max_length=max_length
        )


# SHA-256 of the rows as they were made a token at a time, before they were made by offsets.
ROWS_OF_OLD = {
    (Packing.PAIRS, LongLines.SPLIT): "8e0572d80e3ff4738517e204b91b3841e0f619679f94fc9d27ed6cee83e782e7",
    (Packing.PAIRS, LongLines.TRUNCATE): "b29c0fe76ce51a5e20ecf0f8e1e31573517239842dd471be25961cf156746df8",
    (Packing.PACKED, LongLines.SPLIT): "5f93cb6c7dfcc746deea1e4d8c17a98cbb01d08d44fa837d5b0b181b38bd795b",
}


@pytest.mark.parametrize("blocks", [1, 7])
@pytest.mark.parametrize(("packing", "long_lines"), ROWS_OF_OLD)
def test_rows_have_the_bytes_of_old(packing: Packing, long_lines: LongLines, blocks: int) -> None:
    builder = make_builder(_layout(48), packing=packing, seed="0/train/3", long_lines=long_lines)
    documents = [document for seed, longest in enumerate([7, 60, 400]) for document in _corpus(seed, longest=longest)]
    size = -(-len(documents) // blocks)
    rows = [builder.add(Lines.of(documents[at : at + size])) for at in range(0, len(documents), size)]
    whole = Rows.concatenate([*rows, builder.end()])
    found = hashlib.sha256()
    for column in (whole.ids_NT, whole.length_N, whole.first_length_N, whole.begins_NT):
        found.update(b"" if column is None else column.tobytes())
    assert found.hexdigest() == ROWS_OF_OLD[packing, long_lines]
