"""The state of a training run, and the pure functions that move it on."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cluster.mesh import ROWS, is_split

Params = dict[str, Any]  # nested, of float32 arrays
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
        self, params: Params, batch: Batch, key_B: jax.Array, *, train: bool, over_devices: Total = ...
    ) -> tuple[jax.Array, Sums]: ...


class TrainState(NamedTuple):
    """Everything that a step changes, and the key that it draws from.

    Attributes:
      step: Finished updates, int32 scalar.
      params: Nested dict of float32 arrays.
      opt_state: The optimizer's state.
      key: Random key of all steps, which stays as it is.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    key: jax.Array


class TrainStep(Protocol):
    """A step that `jax.jit` compiles, once a shape of batches: the given state is used up."""

    def __call__(self, state: TrainState, batch: Batch, /) -> tuple[TrainState, Sums]: ...

    def lower(self, state: TrainState, batch: Batch, /) -> jax.stages.Lowered: ...


def init_state(params: Params, optimizer: optax.GradientTransformation, *, key: jax.Array) -> TrainState:
    """The state before the first step."""
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params), key=key)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    shardings: TrainState | None = None,
    accumulation_steps: int = 1,
) -> TrainStep:
    """A compiled step (state, batch) -> (state, sums); the given state is used up.

    All randomness of row r in step n comes from fold_in(fold_in(state.key, n), r), so a resumed run repeats it.
    `optimizer/gradient_norm` is added to the sums: the norm before it is clipped.

    Each device computes with rows of its own. What `fsdp` splits of the parameters is gathered whole before, once a
    step, and its gradient comes back as the device's part of the sum. Only what `tensor` splits is left to XLA.

    Args:
      mesh: Devices over which the rows of a batch are split. Without one, everything is on one device.
      shardings: How the state lies on the mesh; needed where that splits it.
      accumulation_steps: Parts in which each device works through its rows, one after the other, to save memory.
        Their gradients add up to that of the whole batch.
    """
    divided = _divided(mesh, shardings)

    def gradients(params: Params, batch: Batch, key_B: jax.Array, over_devices: Total) -> tuple[Params, Sums]:
        grad_fn = jax.grad(loss_fn, has_aux=True)
        return grad_fn(params, batch, key_B, train=True, over_devices=over_devices)

    of_rows = gradients if accumulation_steps == 1 else _accumulated(loss_fn, accumulation_steps)
    spread = _over_rows(of_rows, mesh, divided and divided.params, gives_gradients=True)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        grads, sums = spread(state.params, batch, jax.random.fold_in(state.key, state.step))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = sums | {"optimizer/gradient_norm": optax.tree.norm(grads)}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state, key=state.key), sums

    if divided is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(divided, divided.step))


def make_eval_step(
    loss_fn: LossFn, *, key: jax.Array, mesh: Mesh | None = None, shardings: TrainState | None = None
) -> Callable[[Params, Batch, int], Sums]:
    """A compiled (params, batch, index of the batch) -> sums; the same index gives the same masks."""
    divided = _divided(mesh, shardings)

    def sums_of(params: Params, batch: Batch, key_B: jax.Array, over_devices: Total) -> tuple[Params, Sums]:
        return {}, loss_fn(params, batch, key_B, train=False, over_devices=over_devices)[1]

    spread = _over_rows(sums_of, mesh, divided and divided.params, gives_gradients=False)

    def step(params: Params, batch: Batch, index: jax.Array) -> Sums:
        return spread(params, batch, jax.random.fold_in(key, index))[1]

    return jax.jit(step) if divided is None else jax.jit(step, out_shardings=divided.step)


def _divided(mesh: Mesh | None, shardings: TrainState | None) -> TrainState | None:
    """The shardings where the mesh splits more than rows."""
    if mesh is None or not is_split(mesh):
        return None
    if shardings is None:
        raise ValueError(f"the mesh {dict(mesh.shape)} splits the state, and no shardings are given")
    return shardings


def _accumulated(loss_fn: LossFn, num_parts: int) -> Callable[[Params, Batch, jax.Array, Total], tuple[Params, Sums]]:
    """Makes (params, rows, keys, over_devices) -> gradients and sums, of the rows in `num_parts` equal parts.

    Each part's loss divides by the totals of the whole batch, which nothing but a first pass over all parts can
    tell. That pass costs next to nothing: no total depends on the parameters, so XLA drops the networks from it.
    """

    def gradients(params: Params, batch: Batch, key_B: jax.Array, over_devices: Total) -> tuple[Params, Sums]:
        num_rows = len(key_B)
        if num_rows % num_parts:
            raise ValueError(f"a device has {num_rows} rows, must be a multiple of accumulation_steps = {num_parts}")
        parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), (batch, key_B))

        def own_totals(part: tuple[Batch, jax.Array]) -> list[jax.Array]:
            totals: list[jax.Array] = []

            def keep(value: jax.Array) -> jax.Array:
                totals.append(value)
                return value

            loss_fn(params, *part, train=True, over_devices=keep)
            return totals

        totals = [over_devices(jnp.sum(value, axis=0)) for value in jax.lax.map(own_totals, parts)]

        def part_gradients(part: tuple[Batch, jax.Array]) -> tuple[Params, Sums]:
            given = iter(totals)
            grad_fn = jax.grad(loss_fn, has_aux=True)
            return grad_fn(params, *part, train=True, over_devices=lambda _: next(given))

        def add(total: tuple[Params, Sums], part: tuple[Batch, jax.Array]) -> tuple[tuple[Params, Sums], None]:
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
    function: Callable[[Params, Batch, jax.Array, Total], tuple[Params, Sums]],
    mesh: Mesh | None,
    shardings: Params | None,
    *,
    gives_gradients: bool,
) -> Callable[[Params, Batch, jax.Array], tuple[Params, Sums]]:
    """Makes (params, batch, key) -> sums over all devices of both results of `function` of their rows.

    The first result is {} or lies as the parameters do. All that is whole on every device travels as one vector. Left
    to XLA it would travel leaf by leaf, which between processes on CPUs costs a millisecond a leaf: with 80 leaves, six
    times what a small model's step takes to compute.

    What `fsdp` splits is gathered and scattered here by name. Told only where the gradients are to lie, XLA splits the
    activations as they do: it had gathered the rows of all devices on each, to add up the gradient of a table.

    Args:
      shardings: How the parameters lie, where the mesh splits them.
      gives_gradients: Whether the first result is that of the parameters.
    """

    def of_rows(
        params: Params, batch: Batch, key: jax.Array, *, device: jax.Array | int, over_devices: Total
    ) -> tuple[Params, Sums]:
        num_rows = len(jax.tree.leaves(batch)[0])
        row_B = device * num_rows + jnp.arange(num_rows)
        return function(params, batch, jax.vmap(jax.random.fold_in, (None, 0))(key, row_B), over_devices)

    if mesh is None or mesh.size == 1:
        return partial(of_rows, device=0, over_devices=lambda value: value)

    (axes,) = ROWS if shardings is not None else (("data",),)
    everywhere, rows = PartitionSpec(), PartitionSpec(axes)
    specs = everywhere if shardings is None else jax.tree.map(_by_fsdp, shardings)

    def gather(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        own = axes
        if "fsdp" in spec:
            x = jax.lax.all_gather(x, "fsdp", axis=spec.index("fsdp"), tiled=True)
            own = tuple(axis for axis in axes if axis != "fsdp")
        # Marked as each device's own: else JAX would add up every gradient over the devices as it arises.
        return jax.lax.pcast(x, own, to="varying")

    def total(grad: jax.Array, spec: PartitionSpec) -> jax.Array:
        if "fsdp" not in spec:
            return jax.lax.psum(grad, axes)
        grad = jax.lax.psum_scatter(grad, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True)
        return jax.lax.psum(grad, "data")

    def on_device(params: Params, batch: Batch, key: jax.Array) -> tuple[Params, Sums]:
        over_devices = partial(jax.lax.psum, axis_name=axes)
        leaves, tree = jax.tree.flatten(params)
        of_leaf = [everywhere] * len(leaves) if shardings is None else jax.tree.leaves(specs)
        splits = [False] * len(leaves) if shardings is None else [any(x.spec) for x in jax.tree.leaves(shardings)]
        params = jax.tree.unflatten(tree, [gather(x, spec) for x, spec in zip(leaves, of_leaf, strict=True)])
        grads, sums = of_rows(params, batch, key, device=jax.lax.axis_index(axes), over_devices=over_devices)
        grad_leaves, grad_tree = jax.tree.flatten(grads)
        # One vector of what lies in parts would bring the parts together.
        whole, unravel = ravel_pytree(
            ([x for x, is_split in zip(grad_leaves, splits, strict=False) if not is_split], sums)
        )
        unsplit, sums = unravel(over_devices(whole))
        left = iter(unsplit)
        grad_leaves = [
            total(grad, spec) if is_split else next(left)
            for grad, spec, is_split in zip(grad_leaves, of_leaf, splits, strict=False)
        ]
        return jax.tree.unflatten(grad_tree, grad_leaves), sums

    # Over `tensor` XLA divides the work; a mesh without it leaves it nothing.
    by_name = set(axes) if mesh.shape.get("tensor", 1) > 1 else set(mesh.axis_names)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(specs, rows, everywhere),
        out_specs=(specs if gives_gradients else {}, everywhere),
        axis_names=by_name,
    )


def _by_fsdp(sharding: NamedSharding) -> PartitionSpec:
    """The axes of a parameter's dimensions, but for `tensor`."""
    return PartitionSpec(*(axis if axis == "fsdp" else None for axis in sharding.spec))
