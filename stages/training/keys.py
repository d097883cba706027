"""Random keys of a run: a stream of its own for each purpose, so that no two of them ever share random bits.

All keys come from the run's seed. A stream's key is `fold_in(key(seed), its number)`; from there it is folded or split
as the table says. Without streams two purposes can meet: in jax `split(key, n)[i]` is `fold_in(key, i)`, so weights
that split a key draw as steps that fold it. For the same reason a key is either split or folded, and never both split
and drawn from.

The order of examples needs no key: it is numpy's, from (seed, epoch).
"""

from enum import IntEnum, unique

import jax


@unique
class Stream(IntEnum):
    """What keys are for. Results depend on these numbers: a new purpose takes a new one, and none is used again."""

    PRETRAINING_WEIGHTS = 0  # split by network, layer and matrix
    PRETRAINING_WAVES = 1  # of attention that starts local
    PRETRAINING_STEPS = 2  # masks, samples and dropout: folded by step, then by row of the global batch
    HELDOUT = 3  # masks and samples of held-out text: folded by batch, then by row
    FINETUNING_WEIGHTS = 4  # of the head and, at a random start, of all else: split as for pretraining
    FINETUNING_STEPS = 5  # dropout: folded by step, then by row


def stream_key(seed: int | jax.Array, stream: Stream) -> jax.Array:
    """The key of a stream of the run with this seed."""
    return jax.random.fold_in(jax.random.key(seed), stream)
