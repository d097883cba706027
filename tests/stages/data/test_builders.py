"""The building rule against an independent transcription of it, and what it must never do: lose text."""

import random
from collections import Counter

import pytest

from stages.data.builders import MIN_LENGTH, Example, LongLines, PackedBuilder, PairBuilder


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
    built = []
    for document in documents:
        examples: list[Example] = []
        for line in document:
            examples.extend(builder.add_line(line))
        examples.extend(builder.end_document())
        built.append(examples)
    return built


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
    builder = PairBuilder(max_length=32, seed=seed, long_lines=LongLines.TRUNCATE)
    ours = [(one.first, one.second) for examples in _build(documents, builder) for one in examples]
    assert ours == _naive(documents, max_length=32, seed=seed)


def test_truncating_counts_what_it_drops() -> None:
    documents = _corpus(0, longest=60)
    builder = PairBuilder(max_length=32, seed=0, long_lines=LongLines.TRUNCATE)
    kept = sum(len(one.first) + len(one.second) for examples in _build(documents, builder) for one in examples)
    assert kept + builder.dropped_tokens == sum(len(line) for document in documents for line in document)
    assert builder.dropped_tokens > 0


@pytest.mark.parametrize("max_length", [5, 6, 16, 128])
@pytest.mark.parametrize("longest", [3, 40, 500])
def test_splitting_loses_no_token_and_spans_no_two_documents(max_length: int, longest: int) -> None:
    documents = _corpus(max_length, longest=longest)
    builder = PairBuilder(max_length=max_length, seed=1)
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
    builder = PairBuilder(max_length=max_length, seed=1)
    for examples in _build(_corpus(3, longest=200), builder):
        for example in examples:
            assert example.first
            assert _length(example) <= max_length


def test_a_long_paragraph_fills_its_examples() -> None:
    builder = PairBuilder(max_length=128, seed=0)
    examples = [*builder.add_line(list(range(100_000))), *builder.end_document()]
    full = sum(_length(example) >= 127 for example in examples)
    assert full / len(examples) > 0.9  # one in twenty is short on purpose


def test_shares_of_single_segments_and_short_targets_are_the_published_ones() -> None:
    builder = PairBuilder(max_length=128, seed=0)
    examples: list[Example] = []
    for number in range(60_000):
        examples.extend(builder.add_line([number] * 10))
    single = sum(not example.second for example in examples) / len(examples)
    short = sum(_length(example) < 120 for example in examples) / len(examples)
    assert 0.09 < single < 0.13
    assert 0.03 < short < 0.06


def test_a_line_joins_the_segment_that_the_rule_names() -> None:
    """Lines of 10 for a first target of 62: six fit (60 < 62); then a coin, while the second is empty."""
    builder = PairBuilder(max_length=128, seed=0, long_lines=LongLines.TRUNCATE)
    lengths: Counter[int] = Counter()
    for number in range(20_000):
        for example in builder.add_line([number] * 10):
            if example.second and _length(example) == 128:
                lengths[len(example.first)] += 1
    assert lengths[60] + lengths[70] > 0.97 * sum(lengths.values())  # the rest had a short target
    assert 0.4 < lengths[70] / sum(lengths.values()) < 0.6


def test_the_seed_decides_the_draws() -> None:
    documents = _corpus(0, longest=30)
    built = [
        _build(documents, PairBuilder(max_length=32, seed=seed)) for seed in ("0/train/1", "0/train/1", "0/train/2")
    ]
    assert built[0] == built[1] != built[2]


def test_a_length_with_no_room_for_two_segments_is_refused() -> None:
    with pytest.raises(ValueError, match="max_length is 4, must be at least 5"):
        PairBuilder(max_length=4, seed=0)


CLS, SEP = 101, 102


def packed(documents: list[list[list[int]]], *, max_length: int) -> list[list[int]]:
    """Rows of documents' lines, with all special tokens."""
    builder = PackedBuilder(max_length=max_length, special_ids={"cls": CLS, "sep": SEP})
    examples = []
    for document in documents:
        for line in document:
            examples.extend(builder.add_line(line))
        examples.extend(builder.end_document())
    examples.extend(builder.end())
    return [[CLS, *example.first, SEP] for example in examples]


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
