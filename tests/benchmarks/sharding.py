"""What each device holds of a training state, by size and mesh. Nothing is computed, and no device is needed.

    python tests/benchmarks/sharding.py --devices 8
    python tests/benchmarks/sharding.py --devices 8 --paths --sizes base    # besides, how each parameter is split

Gradients take as much as the parameters, while a step runs.
"""

import argparse
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh

from cluster.config import MeshConfig
from stages.electra.joint_model import Electra, split
from stages.electra.sharding import RULES
from stages.electra.sizes import ModelConfig, Size
from stages.training.config import OptimizerConfig
from stages.training.optimizer import make_optimizer, parameter_paths
from stages.training.sharding import make_shardings
from stages.training.state import TrainState, init_state

VOCAB_SIZE = 30522
MESHES = [MeshConfig(fsdp=fsdp, tensor=tensor) for fsdp, tensor in ((1, 1), (2, 1), (8, 1), (1, 2), (2, 2), (4, 2))]


def state_of(size: Size) -> TrainState:
    """Shapes of the state of a published size."""
    networks = ModelConfig(size=size).resolve(VOCAB_SIZE)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4, steps=1, warmup_steps=0))
    key = jax.random.key(0)
    return jax.eval_shape(lambda: init_state(split(Electra(*networks, key=key))[1], optimizer, key=key))


def bytes_per_device(tree: Any, shardings: Any) -> int:
    sizes = jax.tree.map(
        lambda x, sharding: x.dtype.itemsize * math.prod(sharding.shard_shape(x.shape)), tree, shardings
    )
    return sum(jax.tree.leaves(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=Size, default=[Size.SMALL, Size.BASE], choices=list(Size))
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--paths", action="store_true", help="show the axes of each parameter")
    options = parser.parse_args()
    print("| size | mesh | parameters, MB a device | optimizer, MB a device | share of all |")
    print("| --- | --- | --- | --- | --- |")
    layouts = []
    for size in options.sizes:
        state = state_of(size)
        for config in MESHES:
            if options.devices % (config.fsdp * config.tensor):
                continue
            shape = config.shape(num_devices=options.devices, num_processes=1)
            mesh = AbstractMesh(shape, ("data", "fsdp", "tensor"))
            shardings = make_shardings(state, rules=RULES, mesh=mesh)
            params = bytes_per_device(state.params, shardings.params)
            moments = bytes_per_device(state.opt_state, shardings.opt_state)
            whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
            axes = " x ".join(f"{name} {num}" for name, num in mesh.shape.items() if num > 1)
            print(f"| {size} | {axes} | {params / 1e6:.1f} | {moments / 1e6:.1f} | {(params + moments) / whole:.1%} |")
        paths, leaves = map(jax.tree.leaves, (parameter_paths(state.params), shardings.params))
        layouts += [f"{path:<70} {tuple(leaf.spec)}" for path, leaf in zip(paths, leaves, strict=True)]
    if options.paths:
        print("", *layouts, sep="\n")


if __name__ == "__main__":
    main()
