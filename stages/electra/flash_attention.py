"""Attention with dropout that never writes its weights to memory: Pallas kernels for GPUs (Triton) and TPUs (Mosaic).

No library's kernel computes this: cuDNN's and JAX's own (splash attention, `pallas.ops`) have either no dropout or one
of their own random numbers, so that no other path, and no second device, could drop the same weights.

One text is compiled for both platforms. A program works out one block of tokens of one row and a few heads; it goes
through the blocks of the other side that its own meets, a block of weights at a time. The backward pass computes each
block of weights again, from the logarithm of the sum of exponentials that the forward pass keeps of each token and
head. What is dropped is decided by the keyed hash of a weight's place among [H, T, S], as `dropout` does it.

Arrays stay [B, T, H K], as the matrix products around them write and read them. A TPU's registers are 128 lanes wide,
so there a program has all heads of 128 lanes at once: products over the whole width with the lanes of other heads
zeroed cost the same as those of one head alone, and nothing is cut or moved.

Shapes: `B` batch, `T` tokens, `S` tokens looked at, `H` heads, `K` head width, `X` width of all heads, `W` of those of
one program, `G` groups of such, `I` heads of a group, `Q` blocks of tokens, `N` numbers that a program needs of a row.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton
from jax.sharding import PartitionSpec

from stages.electra.layers import first_kept, hash_place
from stages.electra.sharding import split_axes
from stages.electra.sight import BLANK, Sight, reaches

_NOTHING = -1e30  # a score that counts for nothing beside any other, and finite: two of them differ by zero
_BEYOND = -3  # the number of a place after the last token
_LANES = 128
_SMALLEST = 16  # of what Triton's products take, and rows of a bfloat16 tile of a TPU


class Platform(StrEnum):
    """What a kernel is compiled for, by JAX's names."""

    GPU = "gpu"
    TPU = "tpu"


# Tokens of a block. Powers of two; a TPU's are whole rows of lanes. Not yet measured on a device.
_BLOCK_TOKENS = {Platform.GPU: 64, Platform.TPU: 256}


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


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a kernel is compiled from."""

    platform: Platform
    interpret: bool
    num_tokens: int
    head_width: int
    is_causal: bool
    window: int | None
    dropout_rate: float

    @property
    def block(self) -> int:
        """Tokens of a block."""
        return min(_BLOCK_TOKENS[self.platform], max(_SMALLEST, pl.next_power_of_2(self.num_tokens)))

    @property
    def num_blocks(self) -> int:
        return pl.cdiv(self.num_tokens, self.block)

    @property
    def padded_tokens(self) -> int:
        return self.num_blocks * self.block

    def grouped(self, facts: _Facts) -> jax.ShapeDtypeStruct:
        """Something for each token and head, [B, G, I, T]."""
        batch, num_heads = len(facts.seeds_B2), len(facts.heads_H)
        group = self.group(num_heads)
        return jax.ShapeDtypeStruct((batch, num_heads // group, group, self.padded_tokens), jnp.float32)

    def group(self, num_heads: int) -> int:
        """Heads of a program: as many as fill the lanes of a TPU, or all, one on a GPU."""
        num = max(1, _LANES // self.head_width)
        if self.platform is Platform.GPU:
            return 1
        return num if num_heads % num == 0 and num * self.head_width % _LANES == 0 else num_heads


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
    plan = _Plan(
        platform=platform,
        interpret=interpret,
        num_tokens=num_tokens,
        head_width=max(_SMALLEST, pl.next_power_of_2(width)),
        is_causal=sight.is_causal,
        window=sight.window,
        dropout_rate=rate,
    )
    seeds_B2 = jnp.zeros((batch, 2), jnp.uint32) if key_B is None else jax.random.key_data(key_B)
    more = ((0, 0), (0, plan.padded_tokens - num_tokens))
    sees_BT, seen_BT = (jnp.pad(x_BT, more, constant_values=_BEYOND) for x_BT in sight.numbers())
    facts = _Facts(sees_BT, seen_BT, seeds_B2, jnp.arange(num_heads, dtype=jnp.uint32))
    padding = (*more, (0, 0), (0, plan.head_width - width))
    rows = ((jnp.pad(x, padding).reshape(batch, plan.padded_tokens, -1)) for x in (query_BTHK, key_BTHK, value_BTHK))
    context_BTX = _attend(plan, *rows, facts)
    return context_BTX.reshape(batch, plan.padded_tokens, num_heads, -1)[:, :num_tokens, :, :width]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Plan, query_BTX: jax.Array, key_BTX: jax.Array, value_BTX: jax.Array, facts: _Facts) -> jax.Array:
    return _attend_forward(plan, query_BTX, key_BTX, value_BTX, facts)[0]


def _attend_forward(
    plan: _Plan, query_BTX: jax.Array, key_BTX: jax.Array, value_BTX: jax.Array, facts: _Facts
) -> tuple[jax.Array, Any]:
    context_BTX, lse_BHT = _spread(partial(_forward, plan), "xxxf", "xh")(query_BTX, key_BTX, value_BTX, facts)
    context_BTX, lse_BHT = (checkpoint_name(x, "attention") for x in (context_BTX, lse_BHT))
    return context_BTX, (query_BTX, key_BTX, value_BTX, facts, context_BTX, lse_BHT)


def _attend_backward(plan: _Plan, kept: Any, grad_BTX: jax.Array) -> tuple[Any, ...]:
    grads = _spread(partial(_backward, plan), "xxxfxhx", "xxx")(*kept, grad_BTX)
    return *grads, None


_attend.defvjp(_attend_forward, _attend_backward)


def _spread(function: Any, arguments: str, results: str) -> Any:
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
            "f": _Facts(*[PartitionSpec(rows, None)] * 3, PartitionSpec(heads)),
        }
        in_specs, out_specs = (tuple(specs[letter] for letter in letters) for letters in (arguments, results))
        divided = jax.shard_map(
            function, in_specs=in_specs, out_specs=out_specs, axis_names=split.all_axes, check_vma=False
        )
        return divided(*given)

    return on_mesh


def _forward(
    plan: _Plan, query_BTX: jax.Array, key_BTX: jax.Array, value_BTX: jax.Array, facts: _Facts
) -> tuple[jax.Array, jax.Array]:
    context_BTX, lse_BGIT = _run(
        plan,
        _forward_kernel,
        facts,
        blocks=(query_BTX, facts.sees_BT[:, None]),
        wholes=(key_BTX, value_BTX, facts.seen_BT[:, None]),
        results=(query_BTX, plan.grouped(facts)),
    )
    return context_BTX, lse_BGIT.reshape(len(lse_BGIT), -1, plan.padded_tokens)


def _backward(
    plan: _Plan,
    query_BTX: jax.Array,
    key_BTX: jax.Array,
    value_BTX: jax.Array,
    facts: _Facts,
    context_BTX: jax.Array,
    lse_BHT: jax.Array,
    grad_BTX: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    looking = (query_BTX, grad_BTX, context_BTX, lse_BHT.reshape(plan.grouped(facts).shape), facts.sees_BT[:, None])
    looked_at = (key_BTX, value_BTX, facts.seen_BT[:, None])
    run = partial(_run, plan, facts=facts)
    (query_grad_BTX,) = run(_query_kernel, blocks=looking, wholes=looked_at, results=(query_BTX,))
    grads = run(_source_kernel, blocks=looked_at, wholes=looking, results=(key_BTX, value_BTX), is_source=True)
    return query_grad_BTX, *grads


def _meetings(plan: _Plan, facts: _Facts) -> jax.Array:
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


def _numbers(plan: _Plan, facts: _Facts, *, is_source: bool) -> jax.Array:
    """What `_Program` needs of each row, [B, N], int32: key, first head, and of each block the bounds of its meetings."""
    meets_BQQ = _meetings(plan, facts)
    if is_source:
        meets_BQQ = meets_BQQ.swapaxes(1, 2)
    start_BQ = jnp.argmax(meets_BQQ, axis=2)
    stop_BQ = jnp.where(meets_BQQ.any(axis=2), plan.num_blocks - jnp.argmax(meets_BQQ[:, :, ::-1], axis=2), 0)
    head_B1 = jnp.broadcast_to(facts.heads_H[None, :1], (len(start_BQ), 1))
    return jnp.concatenate([x.astype(jnp.int32) for x in (facts.seeds_B2, head_B1, start_BQ, stop_BQ)], axis=1)


def _run(
    plan: _Plan,
    kernel: Any,
    facts: _Facts,
    *,
    blocks: tuple[jax.Array, ...],
    wholes: tuple[jax.Array, ...],
    results: tuple[Any, ...],
    is_source: bool = False,
) -> list[jax.Array]:
    """Runs `kernel` for each row, group of heads and block of tokens.

    Args:
      blocks: Of these it is given its own block of tokens.
      wholes: And of these all tokens of its row.
      results: Arrays like those it writes, a block at a time.
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
        kernel(_Program(plan, group, numbers_ref, row * numbers_BN.shape[1], first_head, own), *refs)

    on_tpu = plan.platform is Platform.TPU
    manual = jax.typeof(blocks[0]).manual_axis_type
    return pl.pallas_call(
        run_program,
        grid=(len(numbers_BN), num_heads // group, plan.num_blocks),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM) if on_tpu else pl.no_block_spec,
            *(spec(x) for x in blocks),
            *(spec(x, is_whole=True) for x in wholes),
        ],
        out_specs=[spec(x) for x in results],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=manual) for x in results],
        compiler_params=_compiler_params(plan),
        interpret=plan.interpret,
        name=kernel.__name__.strip("_"),
    )(numbers_BN.reshape(-1), *blocks, *wholes)


def _compiler_params(plan: _Plan) -> Any:
    if plan.platform is Platform.GPU:
        return pltriton.CompilerParams(num_warps=4, num_stages=2)
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


@dataclass(frozen=True)
class _Program:
    """What the kernels share: where a program stands, and what it does with a block of weights.

    Attributes:
      first: Where the numbers of its row begin.
      first_head: The first of its group's heads among those of this device.
      own: Its block of tokens.
    """

    plan: _Plan
    group: int
    numbers_ref: Any
    first: jax.Array
    first_head: jax.Array
    own: jax.Array

    def number(self, place: int | jax.Array) -> jax.Array:
        return self.numbers_ref[self.first + place]

    def over_meetings(self, step: Any, initial: Any) -> Any:
        """`step(block, carried)` for each block that this program's meets."""
        place = 3 + self.own
        return jax.lax.fori_loop(self.number(place), self.number(place + self.plan.num_blocks), step, initial)

    def rows(self, block: jax.Array) -> Any:
        """The tokens of a block in an array of all."""
        return pl.ds(pl.multiple_of(block * self.plan.block, self.plan.block), self.plan.block)

    def of_head(self, x_TW: jax.Array, head: int) -> jax.Array:
        """Zero in the lanes of the group's other heads."""
        if self.group == 1:
            return x_TW
        lane_TW = jax.lax.broadcasted_iota(jnp.int32, x_TW.shape, 1)
        first = head * self.plan.head_width
        is_own_TW = (lane_TW >= first) & (lane_TW < first + self.plan.head_width)
        return jnp.where(is_own_TW, x_TW.astype(jnp.float32), 0).astype(x_TW.dtype)

    def places(self, block: jax.Array, axis: int) -> jax.Array:
        shape = (self.plan.block, 1) if axis == 0 else (1, self.plan.block)
        return block * self.plan.block + jax.lax.broadcasted_iota(jnp.int32, shape, axis)

    def score(
        self, query_TW: jax.Array, key_SW: jax.Array, sees_T: jax.Array, seen_S: jax.Array, at: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Scores [T, S], and where they depend on query and key; `at` are the numbers of the two blocks."""
        place_T1, place_1S = self.places(at[0], 0), self.places(at[1], 1)
        sees_T1, seen_1S = sees_T[:, None], seen_S[None]
        looks_TS = sees_T1 == seen_1S
        if self.plan.is_causal or self.plan.window is not None:
            looks_TS &= reaches(place_T1, place_1S, is_causal=self.plan.is_causal, window=self.plan.window)
        # As in plain attention, who may look nowhere attends evenly to everything.
        evenly_TS = (sees_T1 == BLANK) & (place_1S < self.plan.num_tokens)
        score_TS = _product(query_TW, key_SW, (1, 1))
        return jnp.where(looks_TS, score_TS, jnp.where(evenly_TS, 0.0, _NOTHING)), looks_TS

    def drop(self, x_TS: jax.Array, head: int, at: Any) -> jax.Array:
        """Zeroes what `dropout` zeroes, and leaves the rest as it is."""
        if self.plan.dropout_rate == 0:
            return x_TS
        num_tokens = np.uint32(self.plan.num_tokens)
        first_seed, second_seed, first_head = (self.number(place).astype(jnp.uint32) for place in range(3))
        place_T1, place_1S = (self.places(block, axis).astype(jnp.uint32) for axis, block in enumerate(at))
        number = first_head + (self.first_head + head).astype(jnp.uint32)
        row_T1 = (number * num_tokens + place_T1) * num_tokens
        word_TS = hash_place(row_T1 + place_1S, first_seed, second_seed)
        return jnp.where(word_TS >= first_kept(self.plan.dropout_rate), x_TS, 0.0)

    @property
    def kept_share(self) -> float:
        return 1 - self.plan.dropout_rate

    def gradients(self, head: int, query: Any, source: Any, at: Any) -> tuple[jax.Array, jax.Array]:
        """Weights [T, S] after dropout, and the gradient of the scores."""
        query_TW, grad_TW, context_TW, lse_T, sees_T = query
        key_SW, value_SW, seen_S = source
        score_TS, looks_TS = self.score(query_TW, key_SW, sees_T, seen_S, at)
        weight_TS = jnp.exp(score_TS - lse_T[:, None])
        mean_T1 = jnp.sum(grad_TW.astype(jnp.float32) * context_TW.astype(jnp.float32), axis=1, keepdims=True)
        grad_TS = self.drop(_product(grad_TW, value_SW, (1, 1)) / self.kept_share, head, at)
        grad_TS = jnp.where(looks_TS, weight_TS * (grad_TS - mean_T1), 0.0)
        return self.drop(weight_TS / self.kept_share, head, at), grad_TS


def _product(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """The sums over these axes of the two, in float32."""
    return jax.lax.dot_general(x, y, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32)


def _forward_kernel(
    program: _Program,
    query_ref: Any,
    sees_ref: Any,
    key_ref: Any,
    value_ref: Any,
    seen_ref: Any,
    context_ref: Any,
    lse_ref: Any,
) -> None:
    sees_T = sees_ref[0, :]
    sums_TW = jnp.zeros(query_ref.shape, jnp.float32)
    for head in range(program.group):
        query_TW = program.of_head(query_ref[...], head)

        def step(block: jax.Array, carried: Any, *, head: int = head, query_TW: jax.Array = query_TW) -> Any:
            sum_TW, highest_T1, total_T1 = carried
            rows, at = program.rows(block), (program.own, block)
            score_TS, _ = program.score(query_TW, key_ref[rows, :], sees_T, seen_ref[0, rows], at)
            next_T1 = jnp.maximum(highest_T1, jnp.max(score_TS, axis=1, keepdims=True))
            weight_TS, shrink_T1 = jnp.exp(score_TS - next_T1), jnp.exp(highest_T1 - next_T1)
            total_T1 = shrink_T1 * total_T1 + jnp.sum(weight_TS, axis=1, keepdims=True)
            weight_TS = program.drop(weight_TS, head, at).astype(value_ref.dtype)
            value_SW = program.of_head(value_ref[rows, :], head)
            return shrink_T1 * sum_TW + _product(weight_TS, value_SW, (1, 0)), next_T1, total_T1

        none_T1 = jnp.zeros((len(sees_T), 1), jnp.float32)
        sum_TW, highest_T1, total_T1 = program.over_meetings(
            step, (jnp.zeros_like(sums_TW), none_T1 + _NOTHING, none_T1)
        )
        sums_TW += sum_TW / (total_T1 * program.kept_share)
        lse_ref[head, :] = (highest_T1 + jnp.log(total_T1))[:, 0]
    context_ref[...] = sums_TW.astype(context_ref.dtype)


def _query_kernel(
    program: _Program,
    query_ref: Any,
    grad_ref: Any,
    context_ref: Any,
    lse_ref: Any,
    sees_ref: Any,
    key_ref: Any,
    value_ref: Any,
    seen_ref: Any,
    query_grad_ref: Any,
) -> None:
    sum_TW = jnp.zeros(query_ref.shape, jnp.float32)
    for head in range(program.group):
        wide = [program.of_head(ref[...], head) for ref in (query_ref, grad_ref)]
        query = (*wide, context_ref[...], lse_ref[head, :], sees_ref[0, :])

        def step(block: jax.Array, sum_TW: jax.Array, *, head: int = head, query: Any = query) -> jax.Array:
            rows = program.rows(block)
            key_SW = program.of_head(key_ref[rows, :], head)
            source = (key_SW, value_ref[rows, :], seen_ref[0, rows])
            _, grad_TS = program.gradients(head, query, source, (program.own, block))
            return sum_TW + _product(grad_TS.astype(key_SW.dtype), key_SW, (1, 0))

        sum_TW = program.over_meetings(step, sum_TW)
    query_grad_ref[...] = sum_TW.astype(query_grad_ref.dtype)


def _source_kernel(
    program: _Program,
    key_ref: Any,
    value_ref: Any,
    seen_ref: Any,
    query_ref: Any,
    grad_ref: Any,
    context_ref: Any,
    lse_ref: Any,
    sees_ref: Any,
    key_grad_ref: Any,
    value_grad_ref: Any,
) -> None:
    source = (key_ref[...], value_ref[...], seen_ref[0, :])
    sums = (jnp.zeros(key_ref.shape, jnp.float32), jnp.zeros(key_ref.shape, jnp.float32))
    for head in range(program.group):

        def step(block: jax.Array, sums: Any, *, head: int = head) -> Any:
            rows = program.rows(block)
            query_TW, grad_TW = (program.of_head(ref[rows, :], head) for ref in (query_ref, grad_ref))
            query = (query_TW, grad_TW, context_ref[rows, :], lse_ref[head, rows], sees_ref[0, rows])
            weight_TS, grad_TS = program.gradients(head, query, source, (block, program.own))
            return (
                sums[0] + _product(grad_TS.astype(query_TW.dtype), query_TW, (0, 0)),
                sums[1] + _product(weight_TS.astype(grad_TW.dtype), grad_TW, (0, 0)),
            )

        sums = program.over_meetings(step, sums)
    key_grad_ref[...], value_grad_ref[...] = (x.astype(key_grad_ref.dtype) for x in sums)
