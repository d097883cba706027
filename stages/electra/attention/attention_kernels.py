"""The kernels of `flash_attention`: what a program does with its block of tokens, forward and backward.

Shapes: `T` tokens of a block that look, `S` tokens of one looked at, `W` width of the heads of a program.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from stages.electra.attention.sight import BLANK, reaches
from stages.electra.layers import first_kept, hash_place

_NOTHING = -1e30  # a score that counts for nothing beside any other, and finite: two of them differ by zero
_LANES = 128
SMALLEST = 16  # of what Triton's products take, and rows of a bfloat16 tile of a TPU


class Platform(StrEnum):
    """What a kernel is compiled for, by JAX's names."""

    GPU = "gpu"
    TPU = "tpu"


# Tokens of a block at most, powers of two; a TPU's are whole rows of lanes. Not yet measured on a device.
BLOCK_TOKENS = {Platform.GPU: 64, Platform.TPU: 256}
# Of a block of one head's keys on a GPU: 64 tokens of width 64 in bfloat16. Compiled for an H100 the kernels then take
# at most 58 kB of shared memory, which every card has, and at width 64 nothing spills from the registers.
_BLOCK_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a kernel is compiled from."""

    platform: Platform
    interpret: bool
    num_tokens: int
    head_width: int
    item_bytes: int
    is_causal: bool
    window: int | None
    dropout_rate: float

    @property
    def block(self) -> int:
        """Tokens of a block."""
        most = BLOCK_TOKENS[self.platform]
        if self.platform is Platform.GPU:
            most = min(most, _BLOCK_BYTES // (self.head_width * self.item_bytes))
        return max(SMALLEST, min(most, pl.next_power_of_2(self.num_tokens)))

    @property
    def num_blocks(self) -> int:
        return pl.cdiv(self.num_tokens, self.block)

    @property
    def padded_tokens(self) -> int:
        return self.num_blocks * self.block

    def group(self, num_heads: int) -> int:
        """Heads of a program: as many as fill the lanes of a TPU, or all, one on a GPU."""
        num = max(1, _LANES // self.head_width)
        if self.platform is Platform.GPU:
            return 1
        return num if num_heads % num == 0 and num * self.head_width % _LANES == 0 else num_heads


@dataclass(frozen=True)
class Program:
    """What the kernels share: where a program stands, and what it does with a block of weights.

    Attributes:
      first: Where the numbers of its row begin.
      first_head: The first of its group's heads among those of this device.
      own: Its block of tokens.
    """

    plan: Plan
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

    def keeps(self, head: int, at: Any) -> jax.Array | bool:
        """Where `dropout` keeps a weight."""
        if self.plan.dropout_rate == 0:
            return True
        num_tokens = np.uint32(self.plan.num_tokens)
        first_seed, second_seed, first_head = (self.number(place).astype(jnp.uint32) for place in range(3))
        place_T1, place_1S = (self.places(block, axis).astype(jnp.uint32) for axis, block in enumerate(at))
        number = first_head + (self.first_head + head).astype(jnp.uint32)
        row_T1 = (number * num_tokens + place_T1) * num_tokens
        return hash_place(row_T1 + place_1S, first_seed, second_seed) >= first_kept(self.plan.dropout_rate)

    @property
    def kept_share(self) -> float:
        return 1 - self.plan.dropout_rate

    def gradients(self, head: int, query: Any, source: Any, at: Any) -> tuple[jax.Array, jax.Array]:
        """Weights [T, S] after dropout, and the gradient of the scores."""
        query_TW, grad_TW, context_TW, lse_T, sees_T = query
        key_SW, value_SW, seen_S = source
        score_TS, looks_TS = self.score(query_TW, key_SW, sees_T, seen_S, at)
        weight_TS, keeps_TS = jnp.exp(score_TS - lse_T[:, None]), self.keeps(head, at)
        mean_T1 = jnp.sum(grad_TW.astype(jnp.float32) * context_TW.astype(jnp.float32), axis=1, keepdims=True)
        grad_TS = jnp.where(keeps_TS, _product(grad_TW, value_SW, (1, 1)) / self.kept_share, 0.0)
        grad_TS = jnp.where(looks_TS, weight_TS * (grad_TS - mean_T1), 0.0)
        return jnp.where(keeps_TS, weight_TS / self.kept_share, 0.0), grad_TS


def _product(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """The sums over these axes of the two, in float32."""
    return jax.lax.dot_general(x, y, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32)


def forward_kernel(
    program: Program,
    query_ref: Any,
    sees_ref: Any,
    key_ref: Any,
    value_ref: Any,
    seen_ref: Any,
    context_ref: Any,
    lse_ref: Any,
) -> None:
    """Sums of values, and the logarithms of the sums of exponentials."""
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
            weight_TS = jnp.where(program.keeps(head, at), weight_TS, 0.0).astype(value_ref.dtype)
            value_SW = program.of_head(value_ref[rows, :], head)
            return shrink_T1 * sum_TW + _product(weight_TS, value_SW, (1, 0)), next_T1, total_T1

        none_T1 = jnp.zeros((len(sees_T), 1), jnp.float32)
        sum_TW, highest_T1, total_T1 = program.over_meetings(
            step, (jnp.zeros_like(sums_TW), none_T1 + _NOTHING, none_T1)
        )
        sums_TW += sum_TW / (total_T1 * program.kept_share)
        lse_ref[head, :] = (highest_T1 + jnp.log(total_T1))[:, 0]
    context_ref[...] = sums_TW.astype(context_ref.dtype)


def query_kernel(
    program: Program,
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
    """Gradients of the queries."""
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


def gradients_kernel(program: Program, *refs: Any) -> None:
    """What `source_kernel` does, and the gradients of the queries, added up over the programs of a row."""
    query_grad_ref, sum_ref = refs[-2:]

    @pl.when(program.own == 0)
    def _() -> None:
        sum_ref[...] = jnp.zeros(sum_ref.shape, jnp.float32)

    source_kernel(program, *(*refs[:-2], sum_ref))

    @pl.when(program.own == program.plan.num_blocks - 1)
    def _() -> None:
        query_grad_ref[...] = sum_ref[...].astype(query_grad_ref.dtype)


def source_kernel(
    program: Program,
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
    query_sum_ref: Any = None,
) -> None:
    """Gradients of keys and values and, where they are added up, what these keys add to those of the queries."""
    source = (key_ref[...], value_ref[...], seen_ref[0, :])
    sums = (jnp.zeros(key_ref.shape, jnp.float32), jnp.zeros(key_ref.shape, jnp.float32))
    for head in range(program.group):

        def step(block: jax.Array, sums: Any, *, head: int = head) -> Any:
            rows = program.rows(block)
            query_TW, grad_TW = (program.of_head(ref[rows, :], head) for ref in (query_ref, grad_ref))
            query = (query_TW, grad_TW, context_ref[rows, :], lse_ref[head, rows], sees_ref[0, rows])
            weight_TS, grad_TS = program.gradients(head, query, source, (block, program.own))
            if query_sum_ref is not None:
                key_SW = program.of_head(source[0], head)
                query_sum_ref[rows, :] += _product(grad_TS.astype(key_SW.dtype), key_SW, (1, 0))
            return (
                sums[0] + _product(grad_TS.astype(query_TW.dtype), query_TW, (0, 0)),
                sums[1] + _product(weight_TS.astype(grad_TW.dtype), grad_TW, (0, 0)),
            )

        sums = program.over_meetings(step, sums)
    key_grad_ref[...], value_grad_ref[...] = (x.astype(key_grad_ref.dtype) for x in sums)
