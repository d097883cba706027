"""What packing documents into rows gains over the original's pairs: real tokens a second, on the same text.

    python -m pipeline.run CONFIG --until shard --set output=outputs/packing
    python -m pipeline.run CONFIG --until shard --set output=outputs/packing --set shard.packing=packed
    python tests/benchmarks/packing.py outputs/packing/shard/* --size small

The steps of both take turns on rows of their own shards; the ratio is of medians, pairs as 1.
"""

import argparse
import statistics

import numpy as np
import workload
from upath import UPath

from cluster.config import ClusterConfig
from cluster.distributed import configure
from cluster.mesh import make_mesh
from stages.data.builders import Packing
from stages.data.shards import ShardReader
from stages.electra.sizes import Size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs=2, type=UPath, help="outputs of two shard stages, one of each packing")
    parser.add_argument("--size", type=Size, default=Size.SMALL, choices=list(Size))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    options = parser.parse_args()
    configure(ClusterConfig(cpus_per_process=2))
    readers = {Packing(reader.index.packing): reader for reader in (ShardReader(at, "train") for at in options.shards)}
    if set(readers) != set(Packing):
        parser.error(f"the shards are both {', '.join(readers)}, must be one of each of {', '.join(Packing)}")
    steps, fill, seconds = {}, {}, {packing: list[float]() for packing in readers}
    for packing, reader in readers.items():
        shape = workload.Shape(size=options.size, batch_size=options.batch_size, sequence_length=reader.sequence_length)
        fill[packing] = sum(shard.tokens for shard in reader.index.train) / reader.num_rows / reader.sequence_length
        rows = reader.rows(np.linspace(0, reader.num_rows - 1, options.batch_size, dtype=int))
        steps[packing] = workload.OurStep(shape, dtype=options.dtype, mesh=make_mesh(), rows=rows)
        steps[packing].run(2)
    for turn in range(options.rounds):
        for packing in steps if turn % 2 == 0 else reversed(steps):
            seconds[packing].append(steps[packing].run(options.steps) / options.steps)
    medians = {packing: statistics.median(values) for packing, values in seconds.items()}
    speed = {packing: fill[packing] * shape.tokens / medians[packing] for packing in steps}
    print(f"{shape.size}, {shape.batch_size} x {shape.sequence_length} tokens a step, {options.dtype}")
    for packing, median in medians.items():
        print(f"{packing:<8}{fill[packing]:>8.1%} real{median * 1e3:>10.1f} ms a step{speed[packing]:>10,.0f} tokens/s "
              f"{speed[packing] / speed[Packing.PAIRS]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
