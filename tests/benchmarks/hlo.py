"""What a program computes and moves: FLOPs of the traced one; of the compiled one's text collectives with their bytes,
and the traffic with the memory.

XLA counts the body of a loop once. Here an instruction counts as often as it runs: a loop whose condition compares with
a constant has that many turns.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
# Instructions that name a buffer, or run others, and move nothing themselves.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier",
}  # fmt: skip
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([^\s,)}]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OPERAND = re.compile(r"%([^\s,)]+)")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A line of a computation: `type` is its result's, `rest` its operands and attributes."""

    name: str
    type: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return _OPERAND.findall(self.rest.partition(")")[0])

    @property
    def called(self) -> list[str]:
        branches = [name.strip(" %") for found in _BRANCHES.findall(self.rest) for name in found.split(",")]
        return _CALLED.findall(self.rest) + branches


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one device does in one run.

    Attributes:
      collectives: How often each kind runs.
      collective_bytes: Bytes of their results, or for a reduce-scatter of its operand, by kind.
      link_bytes: That the device sends, if neighbours stand in a ring.
      memory_bytes: Read from and written to its memory, buffers that stay on the chip left out.
      squares: Types of arrays whose two last axes are `T` long, where `T` was asked for.
    """

    collectives: Mapping[str, int] = field(default_factory=dict)
    collective_bytes: Mapping[str, float] = field(default_factory=dict)
    link_bytes: float = 0.0
    memory_bytes: float = 0.0
    squares: frozenset[str] = frozenset()


def size_of(type_text: str, *, in_memory: bool = False) -> float:
    """Bytes of a type, or of all in a tuple; `in_memory` leaves out what a layout puts on the chip (`S(1)`)."""
    total = 0.0
    for kind, dims, layout in _SHAPE.findall(type_text):
        if in_memory and "S(" in layout:
            continue
        total += _BYTES.get(kind, 4) * math.prod(int(size) for size in dims.split(",") if size)
    return total


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations by name, and the name of the first one to run.

    Raises:
      ValueError: There is none.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            found = _COMPUTATION.match(line)
            if found and not line.startswith("HloModule"):
                current = computations.setdefault(found[2], [])
                entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := _INSTRUCTION.match(line):
            current.append(Instruction(name=found[1], type=found[2], opcode=found[3], rest=found[4]))
    if not entry:
        raise ValueError("the text has no ENTRY computation: it is not that of a compiled program")
    return computations, entry


def runs(computations: Mapping[str, list[Instruction]], entry: str) -> Counter[str]:
    """How often each computation runs."""
    callers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, instructions in computations.items():
        for one in instructions:
            if one.opcode.endswith(("-done", "-update")):
                continue  # its start counts
            times = _turns(one, computations) if one.opcode == "while" else 1
            for called in one.called:
                callers[called].append((name, times))
    counts: Counter[str] = Counter()

    def count(name: str) -> int:
        if name not in counts:
            counts[name] = 1 if name == entry else sum(times * count(caller) for caller, times in callers[name])
        return counts[name]

    for name in computations:
        count(name)
    return counts


def _turns(loop: Instruction, computations: Mapping[str, list[Instruction]]) -> int:
    """Of a loop: what it says, or the largest constant that its condition has."""
    if known := re.search(r"known_trip_count[^\d]*(\d+)", loop.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([^\s,)}]+)", loop.rest)
    found: list[int] = []
    queue = [condition[1]] if condition else []
    while queue:
        for one in computations.get(queue.pop(), ()):
            queue += one.called
            if one.opcode == "constant" and (value := re.match(r"(\d+)\)", one.rest)):
                found.append(int(value[1]))
    return max(found, default=1)


def measure(text: str, *, num_devices: int, square: int | None = None) -> Traffic:
    """Reads a compiled program's text.

    Args:
      num_devices: Of the program; a collective without groups is of all of them.
      square: Names arrays whose two last axes are this long.
    """
    computations, entry = parse(text)
    times = runs(computations, entry)
    fused = {name for instructions in computations.values() for one in instructions
             if one.opcode not in ("while", "conditional", "call") for name in one.called}  # fmt: skip
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    links = memory = 0.0
    squares = set()
    for name, instructions in computations.items():
        types = {one.name: one.type for one in instructions}
        for one in instructions:
            kind = one.opcode.removesuffix("-start")
            if kind in COLLECTIVES and times[name]:
                size = _collective_size(kind, one, types)
                counts[kind] += times[name]
                sizes[kind] += int(size * times[name])
                links += times[name] * _sent(kind, size, _group_size(one.rest, num_devices))
            if name not in fused and one.opcode not in _FREE and not one.opcode.endswith("-done"):
                memory += times[name] * _moved(one, types, computations)
            if square is not None:
                squares |= {f"{kind}[{dims}]" for kind, dims, _ in _SHAPE.findall(one.type)
                            if dims.endswith(f"{square},{square}") and dims.count(",") > 1}  # fmt: skip
    return Traffic(
        collectives=dict(counts),
        collective_bytes=dict(sizes),
        link_bytes=links,
        memory_bytes=memory,
        squares=frozenset(squares),
    )


def _collective_size(kind: str, one: Instruction, types: Mapping[str, str]) -> float:
    """Bytes of the whole array: the larger of operands and result."""
    operands = sum(size_of(types.get(name, "")) for name in one.operands)
    result = size_of(one.type) - (operands if one.opcode.endswith("-start") and kind != "all-reduce" else 0)
    return max(operands, result)


def _group_size(rest: str, num_devices: int) -> int:
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(counted[1])
    return num_devices


def _sent(kind: str, size: float, group: int) -> float:
    share = (group - 1) / group
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share) * size


def _moved(one: Instruction, types: Mapping[str, str], computations: Mapping[str, list[Instruction]]) -> float:
    """Bytes read and written; of a slice, and of what writes into a part of an array in place, that part."""
    reads = [size_of(types.get(name, ""), in_memory=True) for name in one.operands]
    writes = size_of(one.type, in_memory=True)
    if one.opcode == "dynamic-slice":
        return 2 * writes
    if one.opcode == "dynamic-update-slice":
        return 2 * sum(reads[1:])
    body = computations.get(one.called[0], []) if one.opcode == "fusion" and one.called else []
    inner = {step.name: step for step in body}
    for step in body:
        if step.opcode == "parameter" and (number := re.match(r"(\d+)\)", step.rest)) and int(number[1]) < len(reads):
            users = [other for other in body if step.name in other.operands]
            if users and all(user.opcode == "dynamic-slice" for user in users):
                reads[int(number[1])] = min(reads[int(number[1])], sum(size_of(user.type) for user in users))
            elif users and all(
                user.opcode == "dynamic-update-slice" and user.operands[0] == step.name for user in users
            ):
                part = sum(size_of(inner[user.operands[1]].type) for user in users if user.operands[1] in inner)
                writes -= min(writes, reads[int(number[1])] - part)
                reads[int(number[1])] = 0.0
    return sum(reads) + writes


def traced_flops(jaxpr: Any) -> float:
    """Of the matrix products of a jaxpr: as often as loops, and the blocks of kernels, run them."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
            continue
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if "grid_mapping" in equation.params:
            times = math.prod(equation.params["grid_mapping"].grid)
        inner = [found for value in equation.params.values() for found in _jaxprs(value)]
        total += times * sum(traced_flops(found) for found in inner)
    return total


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [found for one in value for found in _jaxprs(one)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []
