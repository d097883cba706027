"""Compiles the pretraining step for slices of TPUs, without one, and says what bounds it.

    pip install 'jax[tpu]==0.10.2'      # whose libtpu brings the compiler
    python tests/benchmarks/topologies.py --list
    python tests/benchmarks/topologies.py                                   # the list that ends within an hour or so
    python tests/benchmarks/topologies.py base/256x512/v5e:4x4/fsdp=16 large/2048x512/v5e:16x16/fsdp=256,layers

A case is SIZE/BATCHxLENGTH/TOPOLOGY/OPTIONS: the mesh's axes (`data` takes what they leave over), and what the backward
pass computes anew. Each is compiled in a process of its own. FLOPs are those of the matrix products that were traced,
recomputed ones too; memory, collectives and bytes are read off the compiled program (see `hlo.py`). The bounds are the
least time that the data sheet's numbers leave for a step: the longest of the three.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

CASES = (
    "small/128x128/v5e:2x2/data",
    "base/256x512/v5e:4x4/data",
    "base/256x512/v5e:4x4/fsdp=16",
    "base/256x512/v5e:4x4/fsdp=4,tensor=4",
    "base/256x512/v6e:4x4/data",
    "base/256x512/v5p:2x2x4/data",
    "large/2048x512/v5e:16x16/data",
    "large/2048x512/v5e:16x16/fsdp=256",
)
_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compiled.

    Attributes:
      name: As it is written on the command line.
      fsdp: With `tensor`, the mesh; the axis `data` has the other devices.
      rematerialize: Name of what the backward pass computes anew.
    """

    name: str
    size: str
    batch_size: int
    sequence_length: int
    topology: str
    fsdp: int = 1
    tensor: int = 1
    rematerialize: str = "none"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a case.

        Raises:
          ValueError: It is not SIZE/BATCHxLENGTH/TOPOLOGY/OPTIONS.
        """
        try:
            size, rows, topology, options = text.split("/")
            batch_size, sequence_length = map(int, rows.split("x"))
            chosen: dict[str, Any] = {}
            for option in options.split(","):
                axis, _, number = option.partition("=")
                if axis in ("fsdp", "tensor"):
                    chosen[axis] = int(number)
                elif option in ("none", "dots", "layers"):
                    chosen["rematerialize"] = option
                elif option != "data":
                    raise ValueError(option)
        except ValueError as error:
            raise ValueError(
                f"{text} is no case ({error}): write it as base/256x512/v5e:4x4/fsdp=16,layers; the options are data, "
                "fsdp=N, tensor=N, none, dots and layers"
            ) from error
        return cls(
            name=text, size=size, batch_size=batch_size, sequence_length=sequence_length, topology=topology, **chosen
        )


def compile_case(case: Case, *, text: str | None) -> dict[str, Any]:
    """Compiles one case in this process; its text into the file `text`, if that is given."""
    import hlo
    import workload
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh

    from cluster.config import MeshConfig
    from cluster.devices import DEVICES
    from stages.electra.config import Rematerialize
    from stages.electra.sizes import Size

    topology = topologies.get_topology_desc(platform="tpu", topology_name=case.topology)
    count = len(topology.devices)
    axes = MeshConfig(fsdp=case.fsdp, tensor=case.tensor).shape(num_devices=count, num_processes=1)
    names = ("data", "fsdp", "tensor")
    mesh = Mesh(topologies.make_mesh(topology, axes, names).devices, names, axis_types=(AxisType.Auto,) * 3)
    shape = workload.Shape(size=Size(case.size), batch_size=case.batch_size, sequence_length=case.sequence_length)
    program = workload.Program(shape, dtype="bfloat16", mesh=mesh, rematerialize=Rematerialize(case.rematerialize))
    arguments = program.arguments
    started = time.perf_counter()
    traced = program.train_step.trace(*arguments)
    lowered = traced.lower()
    lower_seconds, started = time.perf_counter() - started, time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - started
    written = compiled.as_text()
    if text is not None:
        with open(text, "w", encoding="utf-8") as file:
            file.write(written)
    memory = compiled.memory_analysis()
    traffic = hlo.measure(written, num_devices=count, square=case.sequence_length)
    flops = hlo.traced_flops(traced.jaxpr.jaxpr) / case.tensor  # a program a device, but for what XLA divides
    device = DEVICES[case.topology.partition(":")[0]]
    bounds = {
        "compute": flops / device.peak["bfloat16"],
        "memory": traffic.memory_bytes / device.bandwidth,
        "links": traffic.link_bytes / device.link,
    }
    return {
        "case": case.name,
        "devices": count,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": flops,
        "model_flops": shape.flops / count,
        "lower_seconds": lower_seconds,
        "compile_seconds": compile_seconds,
        "bounds": bounds,
        **asdict(traffic) | {"squares": sorted(traffic.squares)},
    }


def report(found: Mapping[str, Any]) -> str:
    """A row of the table."""
    moved = "; ".join(
        f"{number} {kind} {found['collective_bytes'][kind] / _GB:.2f}" for kind, number in found["collectives"].items()
    )
    bounds = " / ".join(f"{seconds * 1e3:.1f}" for seconds in found["bounds"].values())
    cells = [
        found["case"],
        found["devices"],
        f"{found['arguments'] / _GB:.2f}",
        f"{found['temporaries'] / _GB:.2f}",
        f"{found['flops'] / 1e12:.2f} ({found['model_flops'] / found['flops']:.0%})",
        moved or "none",
        f"{found['memory_bytes'] / _GB:.1f}",
        bounds,
        f"{found['compile_seconds']:.0f}",
        "yes" if found["squares"] else "no",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


HEADER = (
    "| case | chips | arguments, GB | temporaries, GB | TFLOP (of the model) | collectives, GB | memory traffic, GB "
    "| least ms: compute / memory / links | compiled in s | [T, T] arrays |\n" + "| --- " * 10 + "|"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    parser.add_argument("--list", action="store_true", help="name the cases that are compiled without arguments")
    parser.add_argument("--json", action="store_true", help="print a JSON object a case, with all that was found")
    parser.add_argument("--text", help="write the compiled program of the only case to this file")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        print(*CASES, sep="\n")
        return 0
    try:
        cases = [Case.parse(text) for text in options.cases]
    except ValueError as error:
        parser.error(str(error))
    if options.here:
        print(json.dumps(compile_case(cases[0], text=options.text)))
        return 0
    if options.text and len(cases) > 1:
        parser.error("--text takes one case")
    environment = {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ
    if not options.json:
        print(HEADER, flush=True)
    failed = 0
    for case in cases:
        command = [sys.executable, __file__, "--here", case.name, *(["--text", options.text] if options.text else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            failed += 1
            why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            print(f"| {case.name} | failed: {why} |", flush=True)
            continue
        line = done.stdout.strip().splitlines()[-1]
        print(line if options.json else report(json.loads(line)), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
