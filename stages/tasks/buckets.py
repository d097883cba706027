"""Batches of few shapes: rows of like length together, padded to one of a few lengths, full or weighted.

B batch, T tokens.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stages.electra.config import IGNORED
from stages.tasks.base import Features

# Candidates: a longest row of 100 tokens is padded by at most a third of itself, or by 8.
_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_COMPILATION_TOKENS = 200_000  # what one more length costs to compile, in tokens of training on a CPU core


def bucket_lengths(lengths: np.ndarray, *, max_length: int, epochs: float = 1.0) -> tuple[int, ...]:
    """Few lengths to pad to: those with the least padding in all epochs, each worth its compilation.

    Args:
      lengths: Of all rows, in tokens.
      max_length: No row is longer.
      epochs: Passes over the rows.
    """
    # The longest row sets the last length, a multiple of 8 for the sake of vector units.
    last = min(max_length, -(-int(lengths.max(initial=1)) // 8) * 8)
    candidates = [*(length for length in _LENGTHS if length < last), last]
    rows_below = [0, *(int((lengths <= length).sum()) for length in candidates)]
    # best[i]: cost and choice for the rows up to candidate i - 1, which is chosen.
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for i, length in enumerate(candidates, start=1):
        best.append(
            min(
                (cost + (rows_below[i] - rows_below[j]) * length * epochs + _COMPILATION_TOKENS, (*chosen, length))
                for j, (cost, chosen) in enumerate(best)
            )
        )
    return best[-1][1]


def epoch_batches(
    lengths: np.ndarray, *, buckets: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Row numbers of an epoch's batches, each row once: a pure function of its arguments.

    Rows are shuffled, then dealt to the batch of their bucket. What is left in unfinished batches is put
    together by length, and the order of batches shuffled. Only one batch may have fewer than `batch_size`.
    """
    random = np.random.default_rng((seed, epoch))
    rows = random.permutation(len(lengths))
    bucket_of = np.searchsorted(np.asarray(buckets), lengths[rows])
    batches, rest = [], []
    for bucket in range(len(buckets)):
        members = rows[bucket_of == bucket]
        full = len(members) // batch_size * batch_size
        batches += [members[start : start + batch_size] for start in range(0, full, batch_size)]
        rest.append(members[full:])
    left = np.concatenate(rest)  # in order of buckets
    batches += [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def training_batches(
    lengths: np.ndarray, *, buckets: Sequence[int], batch_size: int, seed: int, start_step: int = 0
) -> Iterator[np.ndarray]:
    """Row numbers of the batches of all steps from one on, epoch after epoch, without end."""
    epoch, first = divmod(start_step, num_batches(len(lengths), batch_size=batch_size))
    while True:
        yield from epoch_batches(lengths, buckets=buckets, batch_size=batch_size, seed=seed, epoch=epoch)[first:]
        epoch, first = epoch + 1, 0


def sorted_batches(lengths: np.ndarray, *, batch_size: int) -> list[np.ndarray]:
    """Row numbers of batches in order of length, longest first: for inference."""
    rows = np.argsort(-lengths, kind="stable")
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def num_batches(num_rows: int, *, batch_size: int) -> int:
    """Batches of an epoch."""
    return -(-num_rows // batch_size)


def num_steps(num_rows: int, *, batch_size: int, epochs: float) -> int:
    """Updates of so many passes over the rows, at least one."""
    return max(1, round(num_batches(num_rows, batch_size=batch_size) * epochs))


def make_batch(
    features: Features, rows: np.ndarray, *, buckets: Sequence[int], batch_size: int, pad: int
) -> Mapping[str, np.ndarray]:
    """Padded arrays for these rows.

    Returns:
      ids, token labels [B, T]; length, first_length, other labels [B]; weight [B], 0 for the rows that fill
      up a batch of fewer than `batch_size`.
    """
    longest = max(len(features.ids[row]) for row in rows)
    width = next(length for length in buckets if length >= longest)
    filled = np.concatenate([rows, np.full(batch_size - len(rows), rows[0])]).astype(np.int64)
    batch = {
        "ids": np.full((batch_size, width), pad, np.int32),
        "length": np.array([len(features.ids[row]) for row in filled], np.int32),
        "first_length": features.first_length[filled].astype(np.int32),
        "weight": (np.arange(batch_size) < len(rows)).astype(np.float32),
    }
    for index, row in enumerate(filled):
        batch["ids"][index, : len(features.ids[row])] = features.ids[row]
    for name, values in features.labels.items():
        if isinstance(values, np.ndarray):
            batch[name] = values[filled]
            continue
        batch[name] = np.full((batch_size, width), IGNORED, np.int32)
        for index, row in enumerate(filled):
            batch[name][index, : len(values[row])] = values[row]
    return batch
