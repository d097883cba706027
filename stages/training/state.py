"""The state of a training run, and the pure functions that move it on."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]


class LossFn(Protocol):
    """A loss with what it measured.

    Returns the loss to differentiate, a float32 scalar, and sums that may be added over batches.
    `train=False` leaves dropout out; what is random in the task itself still follows `key`.
    """

    def __call__(self, params: Any, batch: Any, key: jax.Array, *, train: bool) -> tuple[jax.Array, Sums]: ...


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      step: Finished updates, int32 scalar.
      params: Nested dict of float32 arrays.
      opt_state: The optimizer's state.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))


def make_train_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, seed: int, out_shardings: Any = None
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """A compiled step (state, batch) -> (state, sums); the given state is used up.

    All randomness of step n comes from fold_in(key(seed), n), so a resumed run repeats it.
    `optimizer/gradient_norm` is added to the sums: the norm before it is clipped.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, key, train=True)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = sums | {"optimizer/gradient_norm": optax.tree.norm(grads)}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), sums

    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def make_eval_step(loss_fn: LossFn, *, seed: int, out_shardings: Any = None) -> Callable[[Any, Batch, int], Sums]:
    """A compiled (params, batch, index of the batch) -> sums; the same index gives the same masks."""

    def step(params: Any, batch: Batch, index: jax.Array) -> Sums:
        key = jax.random.fold_in(jax.random.key(seed), index)
        _, sums = loss_fn(params, batch, key, train=False)
        return sums

    return jax.jit(step, out_shardings=out_shardings)
