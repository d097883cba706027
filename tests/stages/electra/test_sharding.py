"""The same training whatever is split over the devices: rows, parameters, heads and words."""

import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from electra_miniature import KEY, tiny
from jax.sharding import AbstractMesh, PartitionSpec

from stages.electra.joint_model import Electra, split
from stages.electra.objectives.objective import ObjectiveConfig, ObjectiveKind
from stages.electra.sharding import RULES
from stages.electra.sizes import EmbeddingSharing
from stages.training.config import OptimizerConfig, OptimizerName
from stages.training.optimizer import make_optimizer
from stages.training.sharding import make_shardings
from stages.training.state import TrainState, init_state

MESHES = {"data 8": (1, 1), "data 4, fsdp 2": (2, 1), "data 2, fsdp 2, tensor 2": (2, 2)}
CASES = {
    "tied": {},
    "untied, accumulated": {"embedding_sharing": EmbeddingSharing.UNTIED, "accumulation_steps": 2},
    "shared": {"shared_encoder": True},
}
NUM_STEPS = 20

_TRAIN = """
    import sys
    from pathlib import Path
    import jax
    import numpy as np
    from jax.sharding import AxisType
    from electra_miniature import KEY, SPECIAL_IDS, VOCAB_SIZE, make_batch, tiny
    from test_sharding import CASES, MESHES, NUM_STEPS
    from upath import UPath
    from cluster.config import MeshConfig
    from cluster.mesh import batch_sharding, is_split, make_mesh
    from stages.electra.objectives.objective import ObjectiveConfig
    from stages.electra.joint_model import Electra, split
    from stages.electra.objectives.pretraining_loss import make_pretraining_loss
    from stages.electra.sharding import RULES
    from stages.training.checkpoint import Checkpoints
    from stages.training.config import OptimizerConfig
    from stages.training.optimizer import make_optimizer
    from stages.training.sharding import make_shardings
    from stages.training.state import init_state, make_eval_step, make_train_step

    folder = Path(sys.argv[1])
    rows = make_batch([24, 17, 9, 3, 2, 1, 0, 24, 20, 20, 13, 13, 8, 8, 24, 5])
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, steps=NUM_STEPS, warmup_steps=5))

    class Run:
        def __init__(self, mesh, *, accumulation_steps=1, **options):
            same = {"generator_multiplier": None} if "shared_encoder" in options else {}
            networks = tiny(num_hidden_layers=1, **options, **same)
            build = lambda: split(Electra(*networks, **options, key=KEY))
            fresh = lambda: init_state(build()[1], optimizer, key=jax.random.key(5))
            loss = make_pretraining_loss(
                jax.eval_shape(build)[0],
                objective=ObjectiveConfig(mask_fraction=0.25),
                special_ids=SPECIAL_IDS,
                vocab_size=VOCAB_SIZE,
            )
            shardings = make_shardings(jax.eval_shape(fresh), rules=RULES, mesh=mesh)
            self.fresh = jax.jit(fresh, out_shardings=shardings)
            self.batch = jax.device_put(rows, batch_sharding(mesh))
            shardings = shardings if is_split(mesh) else None
            self.eval_step = make_eval_step(loss, key=jax.random.key(6), mesh=mesh, shardings=shardings)
            step = make_train_step(
                loss, optimizer, mesh=mesh, shardings=shardings, accumulation_steps=accumulation_steps
            )
            self.step = step.lower(self.fresh(), self.batch).compile()

        def train(self, state, last=NUM_STEPS):
            found = []
            while int(state.step) < last:
                state, sums = self.step(state, self.batch)
                found.append(jax.device_get(sums))
            return state, found

    def keep(name, found):
        arrays = {key.replace("/", "|"): np.stack([sums[key] for sums in found]) for key in found[0]}
        np.savez(folder / f"{name}.npz", **arrays)

    tied = {}
    for case, options in CASES.items():
        for name, (fsdp, tensor) in MESHES.items():
            if case == "tied" or (fsdp, tensor) != (2, 1):
                run = Run(make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor)), **options)
                state, found = run.train(run.fresh())
                keep(f"{case}, {name}", found)
                if case == "tied":
                    tied[name] = run
                    keep(f"held-out, {name}", [jax.device_get(run.eval_step(state.params, run.batch, 3))])
                    table = state.params["embeddings"]["word"]["embedding"]
                    (folder / f"{name}.shape").write_text(str(table.addressable_data(0).shape))

    one = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=jax.devices()[:1])
    stretches = ((tied["data 8"], 7), (tied["data 2, fsdp 2, tensor 2"], 14), (Run(one), NUM_STEPS))
    checkpoints, losses = Checkpoints(UPath(folder) / "checkpoints", keep=1, identity={}), []
    for run, last in stretches:
        restored = checkpoints.restore_newest(run.fresh())
        state, found = run.train(restored.state if restored else run.fresh(), last)
        checkpoints.save(state, step=last)
        checkpoints.wait()
        losses += found
    keep("resumed", losses)
"""


# They share what takes longest, a process a mesh: else two workers would each start them all.
pytestmark = pytest.mark.xdist_group("meshes")


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> Path:
    """Folder with what eight devices measured at each step, by case and mesh."""
    folder = tmp_path_factory.mktemp("meshes")
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # nearly all the time goes into compiling
        "PYTHONPATH": ":".join([str(Path(__file__).parent), *(entry for entry in sys.path if entry)]),
    }
    subprocess.run([sys.executable, "-c", textwrap.dedent(_TRAIN), str(folder)], env=environment, check=True)
    return folder


def assert_same(folder: Path, name: str, expected: str) -> None:
    ours, theirs = (dict(np.load(folder / f"{each}.npz")) for each in (name, expected))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        if key.endswith("tokens"):  # what was masked, and what was drawn in its place
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        elif key.endswith("loss"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", list(MESHES)[1:])
@pytest.mark.parametrize("what", ["tied", "held-out"])
def test_twenty_steps_are_the_same_on_any_mesh(computed, what, mesh):
    assert_same(computed, f"{what}, {mesh}", f"{what}, data 8")


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES)[1:])
def test_so_they_are_however_the_model_is_tied_and_gradients_add_up(computed, case):
    assert_same(computed, f"{case}, data 2, fsdp 2, tensor 2", f"{case}, data 8")
    losses = [np.load(computed / f"{each}, data 8.npz")["discriminator|loss"] for each in ("tied", case)]
    assert not np.allclose(*losses, rtol=1e-4)  # else nothing was varied


@pytest.mark.slow
def test_a_run_that_goes_on_on_other_meshes_repeats_one_that_never_stopped(computed):
    assert_same(computed, "resumed", "tied, data 8")


@pytest.mark.slow
def test_a_device_holds_its_part_of_the_words(computed):
    shapes = [(computed / f"{mesh}.shape").read_text() for mesh in MESHES]
    assert shapes == ["(200, 24)", "(200, 12)", "(100, 12)"]


def state_of(optimizer: OptimizerName = OptimizerName.ADAM, **options: bool) -> TrainState:
    config = OptimizerConfig(learning_rate=1e-3, steps=1, warmup_steps=0, optimizer=optimizer)
    electra = partial(Electra, *tiny(), key=KEY, **options)
    return jax.eval_shape(lambda: init_state(split(electra())[1], make_optimizer(config), key=jax.random.key(0)))


def shardings_of(state: TrainState, *sizes: int) -> TrainState:
    return make_shardings(state, rules=RULES, mesh=AbstractMesh(sizes, ("data", "fsdp", "tensor")))


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_moments_lie_as_their_parameters_do(optimizer):
    state = state_of(optimizer, embedding_sharing=EmbeddingSharing.UNTIED)
    shardings = shardings_of(state, 2, 2, 2)
    params = jax.tree.leaves(shardings.params)
    moments = [
        leaf for leaf, x in zip(*map(jax.tree.leaves, (shardings.opt_state, state.opt_state)), strict=True) if x.ndim
    ]
    assert moments == params * 2
    assert {leaf.spec for leaf in params} > {
        PartitionSpec(None, "fsdp", "tensor"),
        PartitionSpec(None, "tensor", "fsdp"),
    }


@pytest.mark.parametrize("kind", ObjectiveKind)
def test_every_parameter_of_every_objective_has_a_rule(kind):
    networks = ObjectiveConfig(kind=kind).networks(*tiny())
    electra = partial(Electra, *networks, kind=kind, key=KEY)
    params = jax.eval_shape(lambda: split(electra())[1])
    mesh = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
    specs = [leaf.spec for leaf in jax.tree.leaves(make_shardings(params, rules=RULES, mesh=mesh))]
    assert len(specs) == len(jax.tree.leaves(params))


def test_what_the_devices_do_not_divide_is_whole():
    table = shardings_of(state_of(), 1, 2, 3).params["embeddings"]["word"]["embedding"]
    assert table.spec == PartitionSpec(None, "fsdp")  # 200 words, 24 numbers each


@pytest.mark.parametrize(("path", "num_rules"), [("embeddings/word/table", 0), ("head/my_dense/kernel", 0)])
def test_a_parameter_without_a_rule_is_refused(path, num_rules):
    with pytest.raises(ValueError, match=f"{path}: {num_rules} sharding rules are for this parameter, must be one"):
        make_shardings(
            {path: jax.ShapeDtypeStruct((4, 4), np.float32)}, rules=RULES, mesh=AbstractMesh((8,), ("data",))
        )
