"""What a loss adds up over predictions: sums of several batches can be added, so that metrics are ratios of sums."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]
Totals = Mapping[str, np.ndarray]


def count(condition: jax.Array) -> jax.Array:
    """How often the condition is true."""
    return jnp.sum(condition, dtype=jnp.float32)


def ratio(total: Totals, numerator: str, denominator: str) -> float:
    """One total over another; 0 where there is nothing to divide by."""
    below = float(total[denominator])
    return float(total[numerator]) / below if below else 0.0
