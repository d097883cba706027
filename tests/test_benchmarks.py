"""What the benchmarks read off programs, and that the one for accelerators runs."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # they import one another by name, as scripts of one folder do

import hlo  # noqa: E402
from topologies import CASES, Case  # noqa: E402

PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[8]{0} get-tuple-element(%carry), index=1
  %whole = f32[32]{0} all-gather(%x), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  %part = f32[8]{0} reduce-scatter(%whole), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
  ROOT %out = (s32[], f32[8]{0}) tuple(%i, %part)
}

%condition (carry.1: (s32[], f32[8])) -> pred[] {
  %carry.1 = (s32[], f32[8]{0}) parameter(0)
  %at = s32[] get-tuple-element(%carry.1), index=0
  %turns = s32[] constant(12)
  ROOT %goes-on = pred[] compare(%at, %turns), direction=LT
}

ENTRY %main (first: f32[8]) -> f32[8] {
  %first = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]{0}) tuple(%zero, %first)
  %loop = (s32[], f32[8]{0}) while(%start), condition=%condition, body=%body
  %last = f32[8]{0} get-tuple-element(%loop), index=1
  %square = bf16[2,5,5]{2,1,0:T(8,128)} custom-call(%last), custom_call_target="x"
  ROOT %all = f32[8]{0:T(128)S(1)} all-reduce(%last), channel_id=3, replica_groups={{0,1},{2,3}}, to_apply=%add
}
"""


def test_what_a_loop_runs_counts_as_often_as_it_turns():
    found = hlo.measure(PROGRAM, num_devices=4, square=5)
    assert found.collectives == {"all-gather": 12, "reduce-scatter": 12, "all-reduce": 1}
    assert found.collective_bytes == {"all-gather": 12 * 128, "reduce-scatter": 12 * 128, "all-reduce": 32}
    # A ring of four sends three quarters of an array; of two, an all-reduce sends half of it twice.
    assert found.link_bytes == 24 * 0.75 * 128 + 32
    assert found.squares == {"bf16[2,5,5]"}


def test_memory_traffic_leaves_out_what_stays_on_the_chip():
    assert hlo.size_of("(f32[8]{0:T(128)S(1)}, bf16[4,2]{1,0})") == 48
    assert hlo.size_of("(f32[8]{0:T(128)S(1)}, bf16[4,2]{1,0})", in_memory=True) == 16


def test_a_text_of_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.measure("it failed", num_devices=4)


def test_flops_of_products_in_a_loop_count_for_each_turn():
    def run(x):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(lambda x: x @ x)(x), None), x, length=5)[0]

    assert hlo.traced_flops(jax.make_jaxpr(run)(jnp.ones((4, 4))).jaxpr) == 5 * 2 * 4**3


def test_a_compiled_program_of_this_jax_is_read():
    compiled = jax.jit(lambda x: jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, length=7)[0]).lower(np.ones(1000))
    found = hlo.measure(compiled.compile().as_text(), num_devices=1)
    assert not found.collectives
    assert found.memory_bytes >= 7 * 2 * 4000


@pytest.mark.parametrize(
    "text", ["base", "base/256/v5e:4x4/data", "base/256x512/v5e:4x4/fsdb=4", "base/1x2/v5e/fsdp=a"]
)
def test_a_wrong_case_is_told_how_one_is_written(text):
    with pytest.raises(ValueError, match=f"{text} is no case .* write it as base/256x512/v5e:4x4/fsdp=16,layers"):
        Case.parse(text)


def test_the_listed_cases_are_cases():
    assert len({Case.parse(text) for text in CASES}) == len(CASES)
    assert Case.parse("base/256x512/v5e:4x4/fsdp=4,tensor=4,dots").rematerialize == "dots"


@pytest.mark.slow
def test_the_benchmark_of_accelerators_runs_on_a_cpu():
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--self-test"]
    done = subprocess.run(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "All numbers are as they should be." in done.stdout
