"""Says whether a pretraining fits a device and how long it takes: `python -m pipeline.estimate CONFIG --device h100:8`.

By arithmetic alone (`stages.electra.flops`, `stages.electra.footprint`, `cluster.devices`): nothing is compiled.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.config import MeshConfig
from cluster.credentials import redact
from cluster.devices import DEVICES, Device
from cluster.nearest import did_you_mean
from pipeline.config.errors import UsageError
from pipeline.config.sections import PipelineConfig, load_config
from stages.electra.config import Rematerialize
from stages.electra.flops import pretraining_step_flops
from stages.electra.footprint import Footprint, model_parameters, pretraining_footprint
from stages.electra.objectives.objective import max_masked
from stages.pretrain.config import PretrainConfig
from stages.training.config import ComputeDtype

_BERTS_WORDS = 30522
# Of the links' speed that adding up gradients reaches.
_LINK_EFFICIENCY = 0.7
# Of a device's memory that a step may fill: the rest is the runtime's, and lost between buffers.
_USABLE = 0.9
_PARTS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a step needs.

    Attributes:
      footprint: Memory of one device.
      flops: Of all devices together.
      link_bytes: That one device sends.
    """

    footprint: Footprint
    flops: float
    link_bytes: float

    def seconds(self, device: Device, *, count: int, peak: float, efficiency: float) -> float:
        """Of a step at this share of the peak FLOP/s."""
        return self.flops / (peak * count * efficiency) + self.link_bytes / (device.link * _LINK_EFFICIENCY)


def estimate(
    config: PretrainConfig, *, sequence_length: int, vocab_size: int, count: int, mesh: MeshConfig
) -> Estimate:
    """What a step needs on `count` devices.

    Raises:
      UsageError: The devices cannot share the batch.
    """
    try:
        data, fsdp, tensor = mesh.shape(num_devices=count, num_processes=1)
    except ValueError as error:
        raise UsageError(str(error)) from error
    num_parts = data * fsdp * config.gradient_accumulation_steps
    if config.batch_size % num_parts:
        raise UsageError(
            f"pretrain.batch_size is {config.batch_size}, must be a multiple of {num_parts}: {data * fsdp} devices "
            f"with rows of their own x gradient_accumulation_steps {config.gradient_accumulation_steps}"
        )
    objective = config.objective.resolve(config.model.size)
    networks = objective.networks(*config.model.resolve(vocab_size))
    num_masked = max_masked(sequence_length, objective.resolved_mask_fraction)
    num_parameters = model_parameters(
        *networks,
        kind=objective.kind,
        embedding_sharing=config.model.embedding_sharing,
        shared_encoder=config.model.shared_encoder,
    )
    share = 4.0 * num_parameters / tensor * (1 - 1 / (data * fsdp))
    return Estimate(
        footprint=pretraining_footprint(
            *networks,
            num_parameters=num_parameters,
            rows_per_device=config.batch_size // num_parts,
            sequence_length=sequence_length,
            num_masked=num_masked,
            rematerialize=config.rematerialize,
            writes_weights=False,  # every device of the table has a kernel of attention
            fsdp=fsdp,
            tensor=tensor,
        ),
        flops=pretraining_step_flops(
            *networks,
            batch_size=config.batch_size,
            sequence_length=sequence_length,
            num_masked=num_masked,
            kind=objective.kind,
        ),
        # Gradients are scattered and gathered; under fsdp they are scattered, and the parameters are gathered.
        link_bytes=2 * share,
    )


def parse_device(text: str) -> tuple[str, int]:
    """`h100:8` as the device's name and how many.

    Raises:
      UsageError: It is none of the table, or no number.
    """
    name, _, number = text.partition(":")
    if name not in DEVICES:
        raise UsageError(
            f"--device {text}: {name} is not known.{did_you_mean(name, DEVICES)} Known are {', '.join(DEVICES)}"
        )
    if number and (not number.isdecimal() or int(number) < 1):
        raise UsageError(f"--device {text}: {number} is no number of devices; write for example {name}:8")
    return name, int(number or 1)


def describe(config: PipelineConfig, *, device: str, efficiency: float) -> tuple[str, bool]:
    """The answer in a few sentences, and whether it fits.

    Raises:
      UsageError: The config pretrains nothing, or the device does not suit it.
    """
    pretrain, shard = config.pretrain, config.shard
    if pretrain is None or shard is None:
        raise UsageError("the config has no section `pretrain`: there is nothing to estimate")
    if not 0 < efficiency <= 1:
        raise UsageError(f"--efficiency is {efficiency:g}, must be above 0 and at most 1: a share of the peak")
    name, count = parse_device(device)
    known = DEVICES[name]
    peak = known.peak.get(str(pretrain.compute_dtype))
    if peak is None:
        raise UsageError(
            f"pretrain.compute_dtype is {pretrain.compute_dtype}, for which the maker of {name} names no speed: "
            f"use --set pretrain.compute_dtype={ComputeDtype.BFLOAT16}"
        )
    vocab_size = _vocab_size(config)

    def of(changed: PretrainConfig, mesh: MeshConfig) -> Estimate:
        return estimate(changed, sequence_length=shard.sequence_length, vocab_size=vocab_size, count=count, mesh=mesh)

    mesh = config.cluster.mesh
    found = of(pretrain, mesh)
    footprint, usable = found.footprint, known.memory * _USABLE
    fits = footprint.total <= usable
    lines = [
        f"{pretrain.model.size}, {pretrain.batch_size} x {shard.sequence_length} tokens a step in "
        f"{pretrain.compute_dtype}, on {count} {name}: {'fits' if fits else 'DOES NOT FIT'}.",
        f"Each needs about {_gb(footprint.total)} GB and has {_gb(usable)}: {_gb(footprint.state)} for parameters and "
        f"optimizer, {_gb(footprint.gradients)} for gradients, {_gb(footprint.activations)} for what the backward pass "
        "needs.",
    ]
    if fits:
        seconds = found.seconds(known, count=count, peak=peak, efficiency=efficiency)
        half = found.seconds(known, count=count, peak=peak, efficiency=efficiency / 2)
        lines.append(
            f"At {efficiency:.0%} of the peak a step takes {_duration(seconds)}, all {pretrain.steps:,} "
            f"{_duration(seconds * pretrain.steps)}; at {efficiency / 2:.0%} {_duration(half * pretrain.steps)}."
        )
    else:
        lines.append(_advice(pretrain, mesh, of, usable=usable, count=count))
    return "\n".join(lines), fits


def _advice(
    pretrain: PretrainConfig,
    mesh: MeshConfig,
    of: Callable[[PretrainConfig, MeshConfig], Estimate],
    *,
    usable: float,
    count: int,
) -> str:
    for words, config, other in _alternatives(pretrain, mesh, count=count):
        try:
            total = of(config, other).footprint.total
        except UsageError:
            continue
        if total <= usable:
            return f"With {words} it would need {_gb(total)} GB and fit."
    return "Use more devices, or devices with more memory."


def _alternatives(
    pretrain: PretrainConfig, mesh: MeshConfig, *, count: int
) -> Iterator[tuple[str, PretrainConfig, MeshConfig]]:
    """What saves memory, what costs least first."""
    meshes = [("", mesh)]
    if mesh.fsdp == 1 and count > mesh.tensor:
        whole = count // mesh.tensor
        meshes.append((f" --set cluster.mesh.fsdp={whole}", replace(mesh, fsdp=whole)))
    for mesh_words, other in meshes:
        for parts in (1, *_PARTS):
            more = pretrain.gradient_accumulation_steps * parts
            words = f" --set pretrain.gradient_accumulation_steps={more}" if parts > 1 else ""
            changed = replace(pretrain, gradient_accumulation_steps=more)
            yield (words + mesh_words).strip(), changed, other
            layers = replace(changed, rematerialize=Rematerialize.LAYERS)
            yield f"--set pretrain.rematerialize={Rematerialize.LAYERS}{words}{mesh_words}", layers, other


def _vocab_size(config: PipelineConfig) -> int:
    """Of a new vocabulary, or of a file of words that is here; else BERT's."""
    if config.vocab is None or config.vocab.size is not None:
        return (config.vocab and config.vocab.size) or _BERTS_WORDS
    path = Path(config.vocab.file or "").expanduser()
    if path.suffix != ".txt" or not path.is_file():
        return _BERTS_WORDS
    with path.open(encoding="utf-8", errors="replace") as file:
        return sum(1 for _ in file)


def _gb(value: float) -> str:
    return f"{value / 1e9:.1f}" if value < 99.5e9 else f"{value / 1e9:.0f}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 2 else f"{seconds * 1e3:.1f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if it fits, 1 if not, 2 for a wrong config or command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.estimate", description=__doc__)
    parser.add_argument("config", help="a YAML file (see configs/)")
    parser.add_argument("--device", required=True, help=f"NAME:COUNT, as h100:8; known are {', '.join(DEVICES)}")
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the peak FLOP/s (default 0.4)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
                        help="override a value of the file, as dotted.key=value; may be repeated")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, overrides=options.overrides)
        text, fits = describe(config, device=options.device, efficiency=options.efficiency)
    except UsageError as error:
        print(redact(str(error)), file=sys.stderr)
        return 2
    print(text)
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
