"""The pretraining step that the benchmarks time: a published size on random full-length text, dropout on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cluster.distributed import global_batch
from cluster.mesh import batch_sharding
from stages.data.batches import process_slice
from stages.electra.config import Rematerialize
from stages.electra.flops import pretraining_step_flops
from stages.electra.joint_model import Electra, split
from stages.electra.objectives.corruption import max_masked
from stages.electra.objectives.objective import ObjectiveConfig
from stages.electra.objectives.pretraining_loss import make_pretraining_loss
from stages.electra.sharding import RULES
from stages.electra.sizes import ModelConfig, Size
from stages.training.config import OptimizerConfig
from stages.training.optimizer import make_optimizer
from stages.training.sharding import make_shardings
from stages.training.state import TrainState, init_state, make_train_step

VOCAB_SIZE = 30522
SPECIAL_IDS = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
OPTIMIZER = OptimizerConfig(learning_rate=1e-4, steps=1_000_000, warmup_steps=10_000)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is timed.

    Attributes:
      size: Of the model.
      batch_size: Rows a step, over all processes.
      sequence_length: Tokens a row.
    """

    size: Size
    batch_size: int
    sequence_length: int

    @property
    def objective(self) -> ObjectiveConfig:
        return ObjectiveConfig().resolve(self.size)

    @property
    def num_masked(self) -> int:
        """Masked positions a row."""
        return max_masked(self.sequence_length, self.objective.mask_fraction or 0.0)

    @property
    def tokens(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def flops(self) -> float:
        """Matrix FLOPs of a step."""
        return pretraining_step_flops(
            *ModelConfig(size=self.size).resolve(VOCAB_SIZE),
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            num_masked=self.num_masked,
        )

    def rows(self) -> dict[str, np.ndarray]:
        """The global batch."""
        ids = np.random.default_rng(0).integers(1000, VOCAB_SIZE, (self.batch_size, self.sequence_length), np.int32)
        ids[:, 0], ids[:, [self.sequence_length // 2 - 1, -1]] = SPECIAL_IDS["cls"], SPECIAL_IDS["sep"]
        length = np.full(self.batch_size, self.sequence_length, np.int32)
        return {"ids": ids, "length": length, "first_length": length // 2}


class Program:
    """Our train step as a program, of shapes alone: what compiling needs.

    Attributes:
      init_state: Makes the state that training begins with.
      shardings: How it lies on the mesh.
      train_step: The step before it is compiled.
    """

    def __init__(
        self, shape: Shape, *, dtype: str, mesh: Mesh, rematerialize: Rematerialize = Rematerialize.NONE
    ) -> None:
        networks = ModelConfig(size=shape.size).resolve(VOCAB_SIZE)

        def init_model() -> tuple[Any, Any]:
            return split(Electra(*networks, rematerialize=rematerialize, key=jax.random.key(0)))

        graphdef, _ = jax.eval_shape(init_model)
        loss_fn = make_pretraining_loss(
            graphdef, objective=shape.objective, special_ids=SPECIAL_IDS, vocab_size=VOCAB_SIZE, dtype=dtype
        )
        optimizer = make_optimizer(OPTIMIZER)

        def fresh() -> TrainState:
            return init_state(init_model()[1], optimizer, key=jax.random.key(0))

        self._shapes, self._shape, self._mesh = jax.eval_shape(fresh), shape, mesh
        self.shardings = make_shardings(self._shapes, rules=RULES, mesh=mesh)
        self.init_state = jax.jit(fresh, out_shardings=self.shardings)
        self.train_step = make_train_step(loss_fn, optimizer, mesh=mesh, shardings=self.shardings)

    @property
    def arguments(self) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct]]:
        """The state's and the global batch's shapes, with where they lie."""

        def at(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        rows = {name: at(values, batch_sharding(self._mesh)) for name, values in self._shape.rows().items()}
        return jax.tree.map(at, self._shapes, self.shardings), rows


class OurStep:
    """Our train step, compiled, on all devices of a mesh.

    Args:
      rows: The global batch; None for the shape's own.

    Attributes:
      init_state: Makes the state that training begins with.
      train_step: The step before it is compiled.
      compiled: And after.
      batch: The global batch, on the devices.
    """

    def __init__(self, shape: Shape, *, dtype: str, mesh: Mesh, rows: Mapping[str, np.ndarray] | None = None) -> None:
        program = Program(shape, dtype=dtype, mesh=mesh)
        mine = process_slice(shape.batch_size, process_index=jax.process_index(), process_count=jax.process_count())
        self.batch = global_batch(mesh, {name: values[mine] for name, values in (rows or shape.rows()).items()})
        self.init_state, self.train_step = program.init_state, program.train_step
        self._state = self.init_state()
        self.compiled = self.train_step.lower(self._state, self.batch).compile()

    def run(self, steps: int) -> float:
        """Seconds of so many steps, the last one finished."""
        started = time.perf_counter()
        sums: Mapping[str, Any] = {}
        for _ in range(steps):
            self._state, sums = self.compiled(self._state, self.batch)
        jax.block_until_ready((self._state, sums))
        return time.perf_counter() - started

    def dispatch(self) -> None:
        """Gives the device one more step, and does not wait for it."""
        self._state, _ = self.compiled(self._state, self.batch)
