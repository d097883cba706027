"""Continues prompts with a decoder, token by token.

Shapes: `B` batch, `T` tokens of the prompts, `S` tokens of the whole sequences, `V` vocabulary.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from stages.electra.attention.attention import Cache, Source
from stages.electra.config import ElectraConfig
from stages.electra.joint_model import Params
from stages.electra.models.pretrained_model import ElectraPreTrainedModel, network_of


class _Progress(NamedTuple):
    step: jax.Array  # tokens of every sequence so far
    ids_BS: jax.Array
    logits_BV: jax.Array  # of the next token
    is_done_B: jax.Array
    cache: Cache


@partial(jax.jit, static_argnames=("model", "config", "dtype", "top_k", "eos_token_id", "pad_token_id"))
def generate(
    params: Params,
    ids_BT: jax.Array,
    mask_BT: jax.Array,
    cache: Cache,
    source: Source | None,
    key: jax.Array | None,
    temperature: jax.Array,
    *,
    model: type[ElectraPreTrainedModel],
    config: ElectraConfig,
    dtype: DTypeLike,
    top_k: int | None,
    eos_token_id: int | None,
    pad_token_id: int,
) -> jax.Array:
    """Sequences [B, S] as long as `cache` has room; see `ElectraForCausalLM.generate`. Without a key the likeliest."""
    network = network_of(model, config, params)
    (batch, prompt), length = ids_BT.shape, cache.max_length
    # Positions count from the first real token, not from the padding before it.
    mask_BS = jnp.pad(mask_BT, ((0, 0), (0, length - prompt)), constant_values=1)
    places_BS = jnp.maximum(jnp.cumsum(mask_BS, axis=1) - 1, 0)

    def read(ids: jax.Array, places: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits [B, V] after these tokens."""
        encoded = network.encode(
            ids, mask_BS, jnp.zeros_like(ids), positions_BT=places, source=source, key_B=None, dtype=dtype, cache=cache
        )
        assert encoded.cache is not None
        return network.logits(encoded.last_BTD[:, -1:], mask_BS[:, -1:], key_B=None, dtype=dtype)[:, 0], encoded.cache

    def choose(step: jax.Array, logits_BV: jax.Array) -> jax.Array:
        if key is None:
            return jnp.argmax(logits_BV, axis=-1)
        if top_k is not None:
            least_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
            logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
        return jax.random.categorical(jax.random.fold_in(key, step), logits_BV / temperature)

    def goes_on(progress: _Progress) -> jax.Array:
        return (progress.step < length) & ~progress.is_done_B.all()

    def go_on(progress: _Progress) -> _Progress:
        step, is_done_B = progress.step, progress.is_done_B
        chosen_B = jnp.where(is_done_B, pad_token_id, choose(step, progress.logits_BV)).astype(ids_BT.dtype)
        if eos_token_id is not None:
            is_done_B |= chosen_B == eos_token_id
        ids_BS = jax.lax.dynamic_update_slice_in_dim(progress.ids_BS, chosen_B[:, None], step, axis=1)
        places_B1 = jax.lax.dynamic_slice_in_dim(places_BS, step, 1, axis=1)
        logits_BV, cache = read(chosen_B[:, None], places_B1, progress.cache)
        return _Progress(step + 1, ids_BS, logits_BV, is_done_B, cache)

    logits_BV, cache = read(ids_BT, places_BS[:, :prompt], cache)
    start = _Progress(
        step=jnp.int32(prompt),
        ids_BS=jnp.pad(ids_BT, ((0, 0), (0, length - prompt)), constant_values=pad_token_id),
        logits_BV=logits_BV,
        is_done_B=jnp.zeros(batch, bool),
        cache=cache,
    )
    return jax.lax.while_loop(goes_on, go_on, start).ids_BS
