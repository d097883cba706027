"""Attention with dropout that never writes its weights to memory: Pallas kernels for GPUs (Triton) and TPUs (Mosaic).

No library's kernel computes this: cuDNN's and JAX's own (splash attention, `pallas.ops`) have either no dropout or one
of their own random numbers, so that no other path, and no second device, could drop the same weights.

One text is compiled for both platforms. A program works out one block of tokens of one row and a few heads; it goes
through the blocks of the other side that its own meets, a block of weights at a time. The backward pass computes each
block of weights again, from the logarithm of the sum of exponentials that the forward pass keeps of each token and
head: once on a TPU, whose programs run one after the other and add up what they have in common; on a GPU once for the
gradients of keys and values and once for those of queries, so that no sum depends on who comes first. What is dropped
is decided by the keyed hash of a weight's place among [H, T, S], as `dropout` does it.

Arrays stay [B, T, H K], as the matrix products around them write and read them. A TPU's registers are 128 lanes wide,
so there a program has all heads of 128 lanes at once: products over the whole width with the lanes of other heads
zeroed cost the same as those of one head alone, and nothing is cut or moved.

Shapes: `B` batch, `T` tokens, `S` tokens looked at, `H` heads, `K` head width, `X` width of all heads, `W` of those of
one program, `G` groups of such, `I` heads of a group, `Q` blocks of tokens, `N` numbers that a program needs of a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton
from jax.sharding import PartitionSpec

from stages.electra.attention.attention_kernels import (
    SMALLEST,
    Plan,
    Platform,
    Program,
    forward_kernel,
    gradients_kernel,
    query_kernel,
    source_kernel,
)
from stages.electra.attention.sight import BLANK, Sight
from stages.electra.layers import PRODUCT
from stages.electra.sharding import split_axes

_BEYOND = -3  # the number of a place after the last token


class _Facts(NamedTuple):
    """Beside queries, keys and values.

    Attributes:
      sees_BT: Numbers of `Sight.numbers`, of tokens that look.
      seen_BT: Of tokens looked at.
      seeds_B2: The words of each row's key.
      heads_H: Numbers of the heads, which are not all where a mesh splits them.
    """

    sees_BT: jax.Array
    seen_BT: jax.Array
    seeds_B2: jax.Array
    heads_H: jax.Array


def flash_attention(
    query_BTHK: jax.Array,
    key_BTHK: jax.Array,
    value_BTHK: jax.Array,
    sight: Sight,
    *,
    platform: Platform,
    dropout_rate: float = 0.0,
    key_B: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Sums of the values [B, T, H, K], weighted by softmax(query key), in the type of the three; sums are float32.

    Under a mesh of the context (`jax.sharding.use_abstract_mesh`) rows and heads are computed where they lie.

    Args:
      query_BTHK: Scaled already.
      dropout_rate: Of the weights, drawn from `key_B`, without which there is none.
      interpret: Run the kernels step by step, on any platform.
    """
    batch, num_tokens, num_heads, width = query_BTHK.shape
    rate = 0.0 if key_B is None else dropout_rate
    plan = Plan(
        platform=platform,
        interpret=interpret,
        num_tokens=num_tokens,
        head_width=max(SMALLEST, pl.next_power_of_2(width)),
        item_bytes=query_BTHK.dtype.itemsize,
        is_causal=sight.is_causal,
        window=sight.window,
        dropout_rate=rate,
    )
    seeds_B2 = jnp.zeros((batch, 2), jnp.uint32) if key_B is None else jax.random.key_data(key_B)
    more = ((0, 0), (0, plan.padded_tokens - num_tokens))
    sees_BT, seen_BT = (jnp.pad(x_BT, more, constant_values=_BEYOND) for x_BT in sight.numbers())
    facts = _Facts(sees_BT, seen_BT, seeds_B2, jnp.arange(num_heads, dtype=jnp.uint32))
    padding = (*more, (0, 0), (0, plan.head_width - width))
    rows = (jnp.pad(x, padding).reshape(batch, plan.padded_tokens, -1) for x in (query_BTHK, key_BTHK, value_BTHK))
    # Kept for the backward pass as the kernels take them in: in bfloat16 half of what they were in float32.
    context_BTX = _attend(plan, *(checkpoint_name(x, PRODUCT) for x in rows), facts)
    return context_BTX.reshape(batch, plan.padded_tokens, num_heads, -1)[:, :num_tokens, :, :width]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, query_BTX: jax.Array, key_BTX: jax.Array, value_BTX: jax.Array, facts: _Facts) -> jax.Array:
    return _attend_forward(plan, query_BTX, key_BTX, value_BTX, facts)[0]


def _attend_forward(
    plan: Plan, query_BTX: jax.Array, key_BTX: jax.Array, value_BTX: jax.Array, facts: _Facts
) -> tuple[jax.Array, Any]:
    context_BTX, lse_BHT = _spread(partial(_forward, plan), "xxxf", "xh")(query_BTX, key_BTX, value_BTX, facts)
    context_BTX, lse_BHT = (checkpoint_name(x, PRODUCT) for x in (context_BTX, lse_BHT))
    return context_BTX, (query_BTX, key_BTX, value_BTX, facts, context_BTX, lse_BHT)


def _attend_backward(plan: Plan, kept: Any, grad_BTX: jax.Array) -> tuple[Any, ...]:
    grads = _spread(partial(_backward, plan), "xxxfxhx", "xxx")(*kept, grad_BTX)
    return *grads, None


_attend.defvjp(_attend_forward, _attend_backward)


def _spread(function: Callable[..., Any], arguments: str, results: str) -> Callable[..., Any]:
    """`function` of the rows and heads that each device of the context's mesh has: XLA cannot divide a kernel.

    `arguments` and `results` are a letter each: `x` for [B, T, X], `h` for [B, H, T], `f` for `_Facts`.
    """

    def on_mesh(*given: Any) -> Any:
        facts = next(x for x in given if isinstance(x, _Facts))
        split = split_axes(num_rows=len(facts.seeds_B2), num_heads=len(facts.heads_H))
        if split is None:
            return function(*given)
        rows, heads = split.rows, split.heads
        specs = {
            "x": PartitionSpec(rows, None, heads),
            "h": PartitionSpec(rows, heads, None),
            "f": _Facts._make([*[PartitionSpec(rows, None)] * 3, PartitionSpec(heads)]),
        }
        in_specs, out_specs = (tuple(specs[letter] for letter in letters) for letters in (arguments, results))
        divided = jax.shard_map(
            function, in_specs=in_specs, out_specs=out_specs, axis_names=split.all_axes, check_vma=False
        )
        return divided(*given)

    return on_mesh


def _forward(
    plan: Plan, query_BTX: jax.Array, key_BTX: jax.Array, value_BTX: jax.Array, facts: _Facts
) -> tuple[jax.Array, jax.Array]:
    context_BTX, lse_BGIT = _run(
        plan,
        forward_kernel,
        facts,
        blocks=(query_BTX, facts.sees_BT[:, None]),
        wholes=(key_BTX, value_BTX, facts.seen_BT[:, None]),
        results=(query_BTX, _grouped(plan, facts)),
    )
    return context_BTX, lse_BGIT.reshape(len(lse_BGIT), -1, plan.padded_tokens)


def _backward(
    plan: Plan,
    query_BTX: jax.Array,
    key_BTX: jax.Array,
    value_BTX: jax.Array,
    facts: _Facts,
    context_BTX: jax.Array,
    lse_BHT: jax.Array,
    grad_BTX: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    looking = (query_BTX, grad_BTX, context_BTX, lse_BHT.reshape(_grouped(plan, facts).shape), facts.sees_BT[:, None])
    looked_at = (key_BTX, value_BTX, facts.seen_BT[:, None])
    of_sources = partial(
        _run, plan, facts=facts, blocks=looked_at, wholes=looking, results=(key_BTX, value_BTX), is_source=True
    )
    if plan.platform is Platform.TPU:
        key_grad_BTX, value_grad_BTX, query_grad_BTX = of_sources(gradients_kernel, common=query_BTX)
    else:
        key_grad_BTX, value_grad_BTX = of_sources(source_kernel)
        (query_grad_BTX,) = _run(plan, query_kernel, facts, blocks=looking, wholes=looked_at, results=(query_BTX,))
    return query_grad_BTX, key_grad_BTX, value_grad_BTX


def _grouped(plan: Plan, facts: _Facts) -> jax.ShapeDtypeStruct:
    """Something for each token and head, [B, G, I, T]."""
    batch, num_heads = len(facts.seeds_B2), len(facts.heads_H)
    group = plan.group(num_heads)
    return jax.ShapeDtypeStruct((batch, num_heads // group, group, plan.padded_tokens), jnp.float32)


def _meetings(plan: Plan, facts: _Facts) -> jax.Array:
    """True where a token of one block may look at one of another, [B, Q, Q], and perhaps at some more."""

    def spans(number_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        number_BQT = number_BT.reshape(len(number_BT), plan.num_blocks, plan.block)
        is_text_BQT = number_BQT >= 0
        last = jnp.iinfo(jnp.int32).max
        return jnp.min(jnp.where(is_text_BQT, number_BQT, last), axis=2), jnp.max(number_BQT, axis=2)

    (first_BQ, last_BQ), (first_seen_BQ, last_seen_BQ) = spans(facts.sees_BT), spans(facts.seen_BT)
    meets_BQQ = (first_BQ[:, :, None] <= last_seen_BQ[:, None]) & (first_seen_BQ[:, None] <= last_BQ[:, :, None])
    start_Q = plan.block * jnp.arange(plan.num_blocks)
    away_QQ = start_Q[:, None] - start_Q[None]
    if plan.is_causal:
        meets_BQQ &= (away_QQ >= 0)[None]
    if plan.window is not None:
        meets_BQQ &= (jnp.abs(away_QQ) - (plan.block - 1) <= plan.window)[None]
    is_blank_BT = facts.sees_BT == BLANK
    return meets_BQQ | is_blank_BT.reshape(len(is_blank_BT), plan.num_blocks, -1).any(axis=2)[:, :, None]


def _numbers(plan: Plan, facts: _Facts, *, is_source: bool) -> jax.Array:
    """What `Program` needs of each row, [B, N], int32: the key, the first head, and where each block's meetings end."""
    meets_BQQ = _meetings(plan, facts)
    if is_source:
        meets_BQQ = meets_BQQ.swapaxes(1, 2)
    start_BQ = jnp.argmax(meets_BQQ, axis=2)
    stop_BQ = jnp.where(meets_BQQ.any(axis=2), plan.num_blocks - jnp.argmax(meets_BQQ[:, :, ::-1], axis=2), 0)
    head_B1 = jnp.broadcast_to(facts.heads_H[None, :1], (len(start_BQ), 1))
    seeds_B2 = jax.lax.bitcast_convert_type(facts.seeds_B2, jnp.int32)
    return jnp.concatenate([seeds_B2, *(x.astype(jnp.int32) for x in (head_B1, start_BQ, stop_BQ))], axis=1)


def _run(
    plan: Plan,
    kernel: Any,
    facts: _Facts,
    *,
    blocks: tuple[jax.Array, ...],
    wholes: tuple[jax.Array, ...],
    results: tuple[Any, ...],
    common: jax.Array | None = None,
    is_source: bool = False,
) -> list[jax.Array]:
    """Runs `kernel` for each row, group of heads and block of tokens.

    Args:
      blocks: Of these it is given its own block of tokens.
      wholes: And of these all tokens of its row.
      results: Arrays like those it writes, a block at a time.
      common: And like what all blocks of a row write together, one after the other; they add up in float32.
      is_source: Whether blocks are of tokens looked at, rather than of those that look.
    """
    num_heads = len(facts.heads_H)
    group = plan.group(num_heads)
    numbers_BN = _numbers(plan, facts, is_source=is_source)

    def spec(x: Any, *, is_whole: bool = False) -> pl.BlockSpec:
        tokens = plan.padded_tokens if is_whole else plan.block
        if x.ndim == 4:  # [B, G, I, T]
            return pl.BlockSpec((None, None, group, tokens), lambda b, g, q: (b, g, 0, 0 if is_whole else q))
        if x.shape[1] == 1:  # [B, 1, T]
            return pl.BlockSpec((None, 1, tokens), lambda b, g, q: (b, 0, 0 if is_whole else q))
        shape = (None, tokens, group * plan.head_width)
        return pl.BlockSpec(shape, lambda b, g, q: (b, 0 if is_whole else q, g))

    def run_program(numbers_ref: Any, *refs: Any) -> None:
        row, first_head, own = pl.program_id(0), pl.program_id(1) * group, pl.program_id(2)
        kernel(Program(plan, group, numbers_ref, row * numbers_BN.shape[1], first_head, own), *refs)

    run_program.__name__ = kernel.__name__.strip("_")  # Triton's name of it, which profiles show
    on_tpu = plan.platform is Platform.TPU
    out_specs, scratch = [spec(x) for x in results], []
    if common is not None:
        out_specs.append(spec(common, is_whole=True))
        scratch.append(pltpu.VMEM((plan.padded_tokens, group * plan.head_width), jnp.float32))
        results = (*results, common)
    manual = jax.typeof(blocks[0]).manual_axis_type
    return pl.pallas_call(
        run_program,
        grid=(len(numbers_BN), num_heads // group, plan.num_blocks),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM) if on_tpu else pl.no_block_spec,
            *(spec(x) for x in blocks),
            *(spec(x, is_whole=True) for x in wholes),
        ],
        out_specs=out_specs,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=manual) for x in results],
        scratch_shapes=scratch,
        compiler_params=_compiler_params(plan),
        interpret=plan.interpret,
        name=run_program.__name__,
    )(numbers_BN.reshape(-1), *blocks, *wholes)


def _compiler_params(plan: Plan) -> Any:
    if plan.platform is Platform.GPU:
        return pltriton.CompilerParams(num_warps=4, num_stages=2)
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
