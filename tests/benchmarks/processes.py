"""What it costs to split one machine's cores between training processes, through the real launcher.

    python tests/benchmarks/processes.py --rounds 5 --steps 50

One process with all cores and several with an equal share each take turns on the same global batch. Prints the median
step of both and the ratio of the medians: above 1 the processes cost time.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import ray
import workload
from ray import cloudpickle
from upath import UPath

from cluster.config import ClusterConfig
from cluster.launch import launch
from stages.electra.sizes import Size

# The workers cannot import these files; their functions travel as code.
cloudpickle.register_pickle_by_value(workload)
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def measure(shape: workload.Shape, steps: int, repeats: int, output: Path) -> None:
    """In each process: times the step, and the first one writes the seconds of each repeat's mean step."""
    import jax
    from jax.experimental.multihost_utils import sync_global_devices

    from cluster.mesh import make_mesh

    # The first collective finds its peers within 30 s (gloo): not when one has compiled and the others have not.
    sync_global_devices("start")
    step = workload.OurStep(shape, dtype="float32", mesh=make_mesh())
    step.run(3)
    seconds = [step.run(steps) / steps for _ in range(repeats)]
    if jax.process_index() == 0:
        output.write_text(json.dumps(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=Size, default=Size.TINY, choices=list(Size))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2, help="of the machine, shared by the processes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--repeats", type=int, default=5, help="times a turn measures")
    parser.add_argument("--steps", type=int, default=20, help="steps of a measurement")
    options = parser.parse_args()
    if options.cores % options.processes:
        parser.error(f"--cores {options.cores} must be a multiple of --processes {options.processes}")
    shape = workload.Shape(size=options.size, batch_size=options.batch_size, sequence_length=options.sequence_length)
    ray.init(address="local", num_cpus=options.cores, include_dashboard=False, log_to_driver=False)
    seconds: dict[int, list[float]] = {1: [], options.processes: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            # The order is reversed each time, so that a machine that slows down slows both.
            for num_processes in sorted(seconds, reverse=turn % 2 == 1):
                output = Path(folder) / f"{turn}-{num_processes}.json"
                launch(
                    measure,
                    {"shape": shape, "steps": options.steps, "repeats": options.repeats, "output": output},
                    cluster=ClusterConfig(
                        num_processes=num_processes, cpus_per_process=options.cores // num_processes, max_failures=0
                    ),
                    storage=UPath(folder) / "ray",
                )
                seconds[num_processes] += json.loads(output.read_text())
    medians = {num: statistics.median(values) for num, values in seconds.items()}
    print(f"{shape.size}, {shape.batch_size} x {shape.sequence_length} tokens a step, {options.cores} cores, float32")
    for num, median in medians.items():
        spread = f"{min(seconds[num]) * 1e3:.1f} to {max(seconds[num]) * 1e3:.1f}"
        print(f"{num} process(es): median step {median * 1e3:.1f} ms ({spread}), {shape.tokens / median:,.0f} tokens/s")
    print(f"ratio of the medians: {medians[options.processes] / medians[1]:.3f}")


if __name__ == "__main__":
    main()
