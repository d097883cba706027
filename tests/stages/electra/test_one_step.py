"""One training step of each objective as text: its loss, its metrics, the norms of its gradients.

`python tests/stages/electra/test_one_step.py` writes the files anew; their diff shows what a change does.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from electra_miniature import SPECIAL_IDS, VOCAB_SIZE, make_batch, row_keys, tiny

from stages.electra.joint_model import Electra, split
from stages.electra.objectives.objective import Masking, ObjectiveConfig, ObjectiveKind
from stages.electra.objectives.pretraining_loss import make_pretraining_loss, summarize
from stages.electra.sizes import EmbeddingSharing

GOLDEN = Path(__file__).parents[2] / "golden"
LENGTHS = [24, 17, 9, 0]
# Another type of CPU adds up in another order: with XLA held to SSE4.2 or AVX2 on a machine with AVX512, and with its
# optimizations on and off, no number moved by more than 4e-7 of itself.
TOLERANCE = 1e-5

# What differs from the default of an objective: fields of it, of the model, or rows that hold several texts.
VARIANTS: dict[str, dict[str, Any]] = {
    "packed": {"packed": True, "masking": Masking.ORIGINAL},
    "uniform-generator": {"uniform_generator": True, "disallow_correct": True},
    "disentangled": {"embedding_sharing": EmbeddingSharing.DISENTANGLED, "temperature": 0.7},
    "untied": {"embedding_sharing": EmbeddingSharing.UNTIED, "disallow_correct": True},
    "shared-encoder": {"shared_encoder": True, "generator_multiplier": None},
}
CASES = {kind.replace("_", "-"): {"kind": kind} for kind in ObjectiveKind} | VARIANTS


def one_step(
    *,
    packed: bool = False,
    embedding_sharing: EmbeddingSharing = EmbeddingSharing.SHARED,
    shared_encoder: bool = False,
    generator_multiplier: float | None = 0.5,
    **fields: Any,
) -> dict[str, float]:
    """The numbers of a step with dropout of one layer, from the model's own initial values and some noise."""
    objective = ObjectiveConfig(mask_fraction=0.25, **fields)
    networks = tiny(
        num_hidden_layers=1,
        embedding_sharing=embedding_sharing,
        shared_encoder=shared_encoder,
        generator_multiplier=generator_multiplier,
    )

    def init():
        return split(
            Electra(
                *objective.networks(*networks),
                kind=objective.kind,
                embedding_sharing=embedding_sharing,
                shared_encoder=shared_encoder,
                key=jax.random.key(1),
            )
        )

    graphdef, _ = jax.eval_shape(init)
    random = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(random.normal(0, 0.1, leaf.shape), leaf.dtype), init()[1])
    batch = make_batch(LENGTHS, seed=3)
    if packed:
        batch["ids"] = batch["ids"].at[:2, 8].set(SPECIAL_IDS["cls"]).at[:2, 7].set(SPECIAL_IDS["sep"])
        batch["begins"] = batch["ids"] == SPECIAL_IDS["cls"]
    loss_fn = make_pretraining_loss(graphdef, objective=objective, special_ids=SPECIAL_IDS, vocab_size=VOCAB_SIZE)

    # Compiling takes all of the time; without optimizations a third of it.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})
    def step(params):
        (loss, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, batch, row_keys(4, len(LENGTHS)), train=True
        )
        norms = {name: optax.tree.norm(part) for name, part in grads.items()}
        return loss, sums, norms

    loss, sums, norms = jax.device_get(step(params))
    numbers = {"loss": loss} | summarize(sums) | {f"gradient_norm/{name}": norm for name, norm in norms.items()}
    return {name: float(number) for name, number in numbers.items()}


def written(numbers: dict[str, float]) -> str:
    return "".join(f"{name:<40} {number:.8g}\n" for name, number in sorted(numbers.items()))


def read(text: str) -> dict[str, float]:
    return {name: float(number) for name, number in (line.split() for line in text.splitlines())}


def differences(found: dict[str, float], expected: dict[str, float]) -> list[str]:
    """A line for each number that is missing, new or further than the tolerance from the expected one."""
    return [
        f"{name}: {found.get(name)}, was {expected.get(name)}"
        for name in sorted(found | expected)
        if found.get(name, np.nan) != pytest.approx(expected.get(name, np.nan), rel=TOLERANCE)
    ]


@pytest.mark.parametrize("case", CASES)
def test_one_step_is_that_of_the_golden_file(case):
    path = GOLDEN / f"one-step-{case}.txt"
    how = f"run `python tests/stages/electra/{Path(__file__).name}` and review the diff of tests/golden/{path.name}"
    assert path.exists(), f"the objective has no golden file yet: {how}"
    changed = differences(one_step(**CASES[case]), read(path.read_text()))
    assert not changed, "\n".join(["what a step computes has changed; if that is meant, " + how, *changed])


def test_every_golden_file_is_that_of_a_case():
    assert {path.name for path in GOLDEN.glob("one-step-*")} == {f"one-step-{case}.txt" for case in CASES}


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"loss": 2.0001}, {"loss": 2.0}), ({}, {"loss": 2.0}), ({"loss": 2.0}, {}), ({"loss": np.nan}, {"loss": 2.0})],
)
def test_a_number_that_moves_comes_or_goes_is_named(found, expected):
    assert differences({"loss": 2.000001}, {"loss": 2.0}) == []
    (line,) = differences(found, expected)
    assert line.startswith("loss: ")


if __name__ == "__main__":
    for name, fields in CASES.items():
        (GOLDEN / f"one-step-{name}.txt").write_text(written(one_step(**fields)))
