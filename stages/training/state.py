"""The state of a training run, and the pure functions that move it on."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cluster.mesh import ROWS

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]


Total = Callable[[jax.Array], jax.Array]


class LossFn(Protocol):
    """A loss with what it measured, of the rows of a global batch that lie on one device.

    All randomness of a row comes from its own key, so that the loss does not depend on how rows are spread over
    devices. `train=False` leaves dropout out; what is random in the task itself still follows the keys.
    `over_devices` adds a value up over all devices: what a mean divides by must be that of the global batch. It is
    called for all that the loss divides by and for nothing else, and its argument may not depend on `params`.

    Returns the device's share of the loss to differentiate, a float32 scalar, and sums, float32, which may be
    added over devices and batches.
    """

    def __call__(
        self, params: Any, batch: Any, key_B: jax.Array, *, train: bool, over_devices: Total = ...
    ) -> tuple[jax.Array, Sums]: ...


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
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh | None = None,
    shardings: TrainState | None = None,
    accumulation_steps: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """A compiled step (state, batch) -> (state, sums); the given state is used up.

    All randomness of row r in step n comes from fold_in(fold_in(key(seed), n), r), so a resumed run repeats it.
    `optimizer/gradient_norm` is added to the sums: the norm before it is clipped.

    Args:
      mesh: Devices over whose axis `data` the rows of a batch are split; the state is whole on each of them.
        Without one, everything is on one device.
      shardings: How the state lies on a mesh that splits it as well. The step is then one program on global arrays,
        which XLA divides.
      accumulation_steps: Parts in which each device works through its rows, one after the other, to save memory.
        Their gradients add up to that of the whole batch.
    """
    if shardings is not None:
        loss_fn, mesh = _gathering(loss_fn, shardings.params), None

    def gradients(params: Any, batch: Batch, key_B: jax.Array, over_devices: Total) -> tuple[Any, Sums]:
        grad_fn = jax.grad(loss_fn, has_aux=True)
        return grad_fn(params, batch, key_B, train=True, over_devices=over_devices)

    of_rows = gradients if accumulation_steps == 1 else _accumulated(loss_fn, accumulation_steps, shardings)
    spread = _over_rows(of_rows, mesh)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, sums = spread(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = sums | {"optimizer/gradient_norm": optax.tree.norm(grads)}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), sums

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, shardings.step))


def make_eval_step(
    loss_fn: LossFn, *, seed: int, mesh: Mesh | None = None, shardings: TrainState | None = None
) -> Callable[[Any, Batch, int], Sums]:
    """A compiled (params, batch, index of the batch) -> sums; the same index gives the same masks."""
    if shardings is not None:
        loss_fn, mesh = _gathering(loss_fn, shardings.params), None

    def sums_of(params: Any, batch: Batch, key_B: jax.Array, over_devices: Total) -> Sums:
        return loss_fn(params, batch, key_B, train=False, over_devices=over_devices)[1]

    spread = _over_rows(sums_of, mesh)

    def step(params: Any, batch: Batch, index: jax.Array) -> Sums:
        return spread(params, batch, jax.random.fold_in(jax.random.key(seed), index))

    return jax.jit(step) if shardings is None else jax.jit(step, out_shardings=shardings.step)


def _gathering(loss_fn: LossFn, shardings: Any) -> LossFn:
    """`loss_fn` of parameters that lie so: each device gathers what `fsdp` splits, and keeps its part of the gradient.

    Left to itself, XLA would rather split the activations as the parameters are, and move those.
    """

    def whole(sharding: NamedSharding) -> NamedSharding:
        axes = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return NamedSharding(sharding.mesh, PartitionSpec(*axes))

    @jax.custom_vjp
    def gather(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, jax.tree.map(whole, shardings))

    gather.defvjp(
        lambda params: (gather(params), None),
        lambda _, grads: (jax.lax.with_sharding_constraint(grads, shardings),),
    )
    return lambda params, *rows, **options: loss_fn(gather(params), *rows, **options)


def _accumulated(
    loss_fn: LossFn, num_parts: int, shardings: Any
) -> Callable[[Any, Batch, jax.Array, Total], tuple[Any, Sums]]:
    """Makes (params, rows, keys, over_devices) -> gradients and sums, of the rows in `num_parts` equal parts.

    Each part's loss divides by the totals of the whole batch, which nothing but a first pass over all parts can
    tell. That pass costs next to nothing: no total depends on the parameters, so XLA drops the networks from it.
    """

    def gradients(params: Any, batch: Batch, key_B: jax.Array, over_devices: Total) -> tuple[Any, Sums]:
        num_rows = len(key_B)
        if num_rows % num_parts:
            raise ValueError(f"a device has {num_rows} rows, must be a multiple of accumulation_steps = {num_parts}")
        parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), (batch, key_B))
        if shardings is not None:  # each part's rows are of all devices
            rows = NamedSharding(shardings.step.mesh, PartitionSpec(None, *ROWS))
            parts = jax.lax.with_sharding_constraint(parts, rows)

        def own_totals(part: tuple[Batch, jax.Array]) -> list[jax.Array]:
            totals: list[jax.Array] = []

            def keep(value: jax.Array) -> jax.Array:
                totals.append(value)
                return value

            loss_fn(params, *part, train=True, over_devices=keep)
            return totals

        totals = [over_devices(jnp.sum(value, axis=0)) for value in jax.lax.map(own_totals, parts)]

        def part_gradients(part: tuple[Batch, jax.Array]) -> tuple[Any, Sums]:
            given = iter(totals)
            grad_fn = jax.grad(loss_fn, has_aux=True)
            return grad_fn(params, *part, train=True, over_devices=lambda _: next(given))

        def add(total: tuple[Any, Sums], part: tuple[Batch, jax.Array]) -> tuple[tuple[Any, Sums], None]:
            return jax.tree.map(jnp.add, total, part_gradients(part)), None

        first = jax.tree.map(lambda x: x[0], parts)
        nothing = jax.tree.map(_zeros, jax.eval_shape(part_gradients, first))
        return jax.lax.scan(add, nothing, parts)[0]

    return gradients


def _zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Zeros of this shape and type; each device's own where `like` is."""
    zeros, manual = jnp.zeros(like.shape, like.dtype), like.manual_axis_type
    return jax.lax.pcast(zeros, tuple(manual.varying), to="varying") if manual and manual.varying else zeros


def _over_rows(
    function: Callable[[Any, Batch, jax.Array, Total], Any], mesh: Mesh | None
) -> Callable[[Any, Batch, jax.Array], Any]:
    """Makes (params, batch, key) -> sum over all devices of `function` of their rows.

    The result travels as one vector. Left to XLA it would travel leaf by leaf, which between processes on CPUs
    costs a millisecond a leaf: with 80 leaves, six times what a small model's step takes to compute.
    """

    def of_rows(params: Any, batch: Batch, key: jax.Array, *, device: jax.Array | int, over_devices: Total) -> Any:
        num_rows = len(jax.tree.leaves(batch)[0])
        row_B = device * num_rows + jnp.arange(num_rows)
        return function(params, batch, jax.vmap(jax.random.fold_in, (None, 0))(key, row_B), over_devices)

    if mesh is None or mesh.size == 1:
        return partial(of_rows, device=0, over_devices=lambda value: value)

    def on_device(params: Any, batch: Batch, key: jax.Array) -> Any:
        over_devices = partial(jax.lax.psum, axis_name="data")
        # Marked as each device's own: else JAX would add up every gradient over the devices as it arises.
        params = jax.lax.pcast(params, "data", to="varying")
        result = of_rows(params, batch, key, device=jax.lax.axis_index("data"), over_devices=over_devices)
        vector, unravel = ravel_pytree(result)
        return unravel(over_devices(vector))

    everywhere, rows = PartitionSpec(), PartitionSpec("data")
    return jax.shard_map(on_device, mesh=mesh, in_specs=(everywhere, rows, everywhere), out_specs=everywhere)
