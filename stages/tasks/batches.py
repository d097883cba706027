"""Batches of few shapes: rows of like length together, padded to one of a few lengths, full or weighted.

B batch, T tokens.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stages.tasks.base import IGNORED, Features

_SHORTEST = 32
_FEWEST = 0.05  # share of the rows that a length must serve to be worth its compilation


def bucket_lengths(lengths: np.ndarray, *, max_length: int) -> tuple[int, ...]:
    """Lengths to pad to: doublings of 32 and the longest, without those that serve few rows."""
    longest = int(lengths.max(initial=1))
    candidates = []
    length = _SHORTEST
    while length < min(longest, max_length):
        candidates.append(length)
        length *= 2
    chosen: list[int] = []
    served = 0
    for candidate in candidates:
        count = int((lengths <= candidate).sum())
        if count - served >= _FEWEST * len(lengths):
            chosen.append(candidate)
            served = count
    # The last length is a multiple of 8 for the sake of vector units.
    return (*chosen, min(max_length, -(-min(length, longest) // 8) * 8))


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


def sorted_batches(lengths: np.ndarray, *, batch_size: int) -> list[np.ndarray]:
    """Row numbers of batches in order of length, longest first: for inference."""
    rows = np.argsort(-lengths, kind="stable")
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def num_batches(num_rows: int, *, batch_size: int) -> int:
    """Batches of an epoch."""
    return -(-num_rows // batch_size)


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
