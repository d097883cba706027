"""The order of training examples: a pure function of (seed, epoch, step), the same for any number of processes."""

import numpy as np

_ROUNDS = 6


class ExampleOrder:
    """Which rows the global batch of each step holds.

    Batches run through one endless sequence of positions; each epoch's positions are a random permutation of all rows.
    So every row comes exactly once an epoch, also where the batch size does not divide the rows (a batch may then hold
    the end of one epoch and the start of the next), and any step is found at once: nothing is stored or replayed.

    The permutation is a Feistel network over the smallest even number of bits that holds all rows; positions that
    it sends beyond the last row are sent through it again until they fall inside (Black and Rogaway 2002, cycle
    walking).
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        if num_rows < 1:
            raise ValueError(f"there are {num_rows} examples, nothing to order")
        if not 1 <= batch_size <= num_rows:
            raise ValueError(
                f"batch_size is {batch_size} and there are {num_rows} examples; it must be from 1 to {num_rows}: "
                "lower it, shorten the sequences or add text"
            )
        self.num_rows, self.batch_size, self._seed = num_rows, batch_size, seed
        self._half_bits = np.uint64(max(1, ((num_rows - 1).bit_length() + 1) // 2))

    def indices(self, step: int) -> np.ndarray:
        """Row numbers of the global batch with which the step after `step` completed ones works: int64 [batch_size]."""
        positions = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, self.num_rows)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            rows[epochs == epoch] = self._permute(places[epochs == epoch], epoch=int(epoch))
        return rows

    def _permute(self, places: np.ndarray, *, epoch: int) -> np.ndarray:
        keys = np.random.SeedSequence((self._seed, epoch)).generate_state(_ROUNDS, np.uint64)
        values = self._feistel(places.astype(np.uint64), keys)
        while (outside := values >= self.num_rows).any():
            values[outside] = self._feistel(values[outside], keys)
        return values.astype(np.int64)

    def _feistel(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        bits = self._half_bits
        mask = (np.uint64(1) << bits) - np.uint64(1)
        left, right = values >> bits, values & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return left << bits | right


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every output bit depends on every input bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
