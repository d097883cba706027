"""The kernels of attention against the plain path: step by step on a CPU, and lowered for GPUs and TPUs."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from stages.electra.attention import attention_kernels
from stages.electra.attention.attention import AttentionPath, attend, choose_path
from stages.electra.attention.attention_kernels import Platform
from stages.electra.attention.flash_attention import flash_attention
from stages.electra.attention.sight import Sight

ROOT = Path(__file__).parents[4]
RATE = 0.3
DEVICES = {"cuda": AbstractDevice("NVIDIA H100", None, "gpu"), "tpu": AbstractDevice("TPU v5 lite", 1, "tpu")}

KERNELS = {"cuda": ["forward_kernel", "source_kernel", "query_kernel"], "tpu": ["forward_kernel", "gradients_kernel"]}


def _real(num_tokens: int, *lengths: int) -> jax.Array:
    return jnp.arange(num_tokens)[None] < jnp.array(lengths)[:, None]


def _packed(num_tokens: int, *lengths: int) -> jax.Array:
    """Numbers of texts of these lengths, in rows turned by a few tokens."""
    text_T = np.minimum(np.searchsorted(np.cumsum(lengths), np.arange(num_tokens), side="right"), len(lengths) - 1)
    return jnp.array([text_T, np.searchsorted(np.cumsum(lengths[::-1]), np.arange(num_tokens), side="right")])


# Heads, their width, type and tolerance, tokens of a block, and what tokens may look at. Lengths are odd, rows without
# a real token or with holes among them, and all but the third have several blocks.
CASES = {
    "gpu, padding": (Platform.GPU, 3, 16, "float32", 1e-5, 16, Sight(real_BS=_real(37, 37, 0))),
    "tpu, packed, window": (
        Platform.TPU,
        4,
        64,
        "float32",
        1e-5,
        32,
        Sight(real_BS=_real(75, 75, 70), text_BT=_packed(75, 9, 40, 26), window=11),
    ),
    "tpu, causal": (
        Platform.TPU,
        2,
        20,
        "bfloat16",
        2e-2,
        32,
        Sight(real_BS=_real(21, 21, 21).at[1, :5].set(False), is_causal=True),
    ),
    "gpu, packed": (
        Platform.GPU,
        2,
        64,
        "bfloat16",
        2e-2,
        32,
        Sight(real_BS=_real(100, 100, 93).at[0, 12].set(False), text_BT=_packed(100, 64, 5, 31)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_give_and_drop_what_plain_attention_does_forward_and_backward(case, monkeypatch):
    platform, num_heads, width, dtype, tolerance, block, sight = CASES[case]
    monkeypatch.setitem(attention_kernels.BLOCK_TOKENS, platform, block)
    batch, num_tokens = sight.real_BS.shape
    key_B = jax.random.split(jax.random.key(5), batch)

    def kernel(query: jax.Array, *others: jax.Array) -> jax.Array:
        operands = [x.astype(dtype) for x in (query * width**-0.5, *others)]
        options = {"platform": platform, "dropout_rate": RATE, "key_B": key_B, "interpret": True}
        return flash_attention(*operands, sight, **options).astype(jnp.float32)

    def plain(*operands: jax.Array) -> jax.Array:
        options = {"dropout_rate": RATE, "key_B": key_B, "path": AttentionPath.PLAIN}
        return attend(*operands, sight, dtype=dtype, **options)[0]

    def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
        def run(grad: jax.Array, *operands: jax.Array) -> tuple[jax.Array, ...]:
            result, backward = jax.vjp(function, *operands)
            return result, *backward(grad)

        return jax.jit(run)

    runs = [with_gradients(function) for function in (kernel, plain)]
    grad, query, key, value = (
        jax.random.normal(one, (batch, num_tokens, num_heads, width)) for one in jax.random.split(jax.random.key(1), 4)
    )
    for found, expected in zip(*(run(grad, query, key, value) for run in runs), strict=True):
        assert np.isfinite(expected).all()
        scale = max(1.0, np.abs(expected).max()) if dtype == "bfloat16" else 1.0
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)

    # Of one-hot values the sums are the weights, of one-hot gradients those of the values are.
    num_dropped = num_seen = 0
    for first in range(0, num_tokens, width):
        hot_TK = jnp.eye(num_tokens, width, -first)[None, :, None]
        hot = jnp.broadcast_to(hot_TK, query.shape)
        (weights, *_, transposed), (plain_weights, *_, plain_transposed) = (run(hot, query, key, hot) for run in runs)
        np.testing.assert_array_equal(weights == 0, plain_weights == 0)
        np.testing.assert_array_equal(transposed == 0, plain_transposed == 0)
        num_columns = min(width, num_tokens - first)
        num_dropped += (plain_weights[..., :num_columns] == 0).sum()
        num_seen += plain_weights[..., :num_columns].size
    looks = sight.table(num_tokens)
    looks = jnp.broadcast_to(looks | ~looks.any(axis=-1, keepdims=True), (batch, 1, num_tokens, num_tokens))
    dropped_share = 1 - (num_seen - num_dropped) / (num_heads * looks.sum())
    assert abs(dropped_share - RATE) < 0.05


@pytest.mark.parametrize("target", DEVICES)
def test_what_is_compiled_for_a_gpu_or_a_tpu_never_holds_the_weights(target):
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=DEVICES[target])

    def lowered(*, with_weights: bool) -> str:
        def loss(query: jax.Array, key: jax.Array, value: jax.Array, seeds_B2: jax.Array) -> jax.Array:
            real, text = jnp.ones(query.shape[:2], bool), jnp.zeros(query.shape[:2], jnp.int32)
            sight = Sight(real_BS=real, text_BT=text, is_causal=True, window=100)
            context, weights = attend(
                query,
                key,
                value,
                sight,
                dtype=jnp.bfloat16,
                dropout_rate=RATE,
                key_B=jax.random.wrap_key_data(seeds_B2),
                with_weights=with_weights,
            )
            return jnp.sum(context) + (0 if weights is None else weights[0, 0, 0, 0])

        rows = PartitionSpec("data")
        step = jax.shard_map(jax.grad(loss, argnums=(0, 1, 2)), mesh=mesh, in_specs=rows, out_specs=rows)
        row = jax.ShapeDtypeStruct((2, 333, 4, 64), jnp.float32)
        traced = jax.jit(step).trace(row, row, row, jax.ShapeDtypeStruct((2, 2), jnp.uint32))
        return traced.lower(lowering_platforms=(target,)).as_text()

    whole = r"tensor<(\d+x)*3\d\dx3\d\dx"  # 333, or as much as whole blocks
    assert re.search(whole, lowered(with_weights=True))
    text = lowered(with_weights=False)
    assert not re.search(whole, text)
    kernels = {
        "cuda": ["forward_kernel", "source_kernel", "query_kernel"],
        "tpu": ["forward_kernel", "gradients_kernel"],
    }
    for kernel in kernels[target]:
        assert kernel in text


_ON_A_MESH = """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from cluster.mesh import in_context
    from stages.electra.attention.attention import AttentionPath, attend
    from stages.electra.attention.sight import Sight

    query, key, value, grad = (
        jax.random.normal(one, (8, 20, 4, 16)) for one in jax.random.split(jax.random.key(1), 4)
    )
    keys = jax.random.key_data(jax.random.split(jax.random.key(2), 8))
    real = jnp.arange(20)[None] < jnp.array([20, 3, 0, 7, 20, 20, 11, 1])[:, None]

    def run(query, key, value, grad, keys, real):
        def context(*operands):
            sight, options = Sight(real_BS=real), {"dtype": jnp.float32, "path": AttentionPath.KERNEL}
            return attend(*operands, sight, dropout_rate=0.3, key_B=jax.random.wrap_key_data(keys), **options)[0]

        result, backward = jax.vjp(context, query, key, value)
        return result, *backward(grad)

    given = (query, key, value, grad, keys, real)
    expected = jax.jit(run)(*given)

    def compare(found):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=3e-7, rtol=3e-7)

    # XLA divides the program, and leaves rows and heads where they are.
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    wide = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor", None))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    lies = (wide,) * 4 + (rows, rows)
    divided = jax.jit(in_context(run, mesh), in_shardings=lies, out_shardings=(wide,) * 4).lower(*given).compile()
    assert "all-gather" not in divided.as_text()
    compare(divided(*jax.device_put(given, lies)))

    # A program a device, as a mesh that splits only rows has it. The interpreter cannot tell what varies over them.
    mesh = jax.make_mesh((8, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    rows = PartitionSpec("data")
    by_rows = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    compare(jax.jit(by_rows)(*given))
"""


def test_rows_and_heads_that_a_mesh_splits_give_what_they_give_together():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(_ON_A_MESH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_kernel_is_chosen_on_accelerators_for_a_sequence_that_looks_at_itself(monkeypatch):
    sight = Sight(real_BS=jnp.ones((2, 16), bool))
    fitting = {"num_tokens": 16, "head_width": 64, "dtype": "float32", "with_weights": False}
    assert choose_path(sight, **fitting) is AttentionPath.PLAIN  # on a CPU
    for device in DEVICES.values():
        mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            assert choose_path(sight, **fitting) is AttentionPath.KERNEL
            for change in ({"with_weights": True}, {"num_tokens": 1}, {"head_width": 256}, {"dtype": "float64"}):
                assert choose_path(sight, **fitting | change) is AttentionPath.PLAIN, change
            with monkeypatch.context() as old:
                old.setattr(jax, "local_devices", lambda: [SimpleNamespace(compute_capability="7.5")])
                assert choose_path(sight, **fitting) is AttentionPath.PLAIN
            with_memory = Sight(real_BS=sight.real_BS, place=jnp.int32(0))
            assert choose_path(with_memory, **fitting) is AttentionPath.PLAIN


def test_the_kernel_refuses_what_it_cannot_do():
    row = jnp.zeros((1, 4, 2, 8))
    for change, sources in (({"with_weights": True}, 4), ({}, 5)):
        sight = Sight(real_BS=jnp.ones((1, sources), bool))
        with pytest.raises(ValueError, match="has no weights to return, and no tokens but those that look"):
            attend(row, row, row, sight, dtype="float32", path=AttentionPath.KERNEL, **change)
