"""Small stages that do what the tests ask of them."""

import errno
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from ray import cloudpickle

from pipeline.node import Source, Stage
from stages.context import Group, StageContext

# Workers cannot import this file; it travels as code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    """`fail` names an error, `seconds` lets it take its time, `log` is a file outside its folder to append to.

    With `meet` it waits until that many stages have begun; `points` are steps of its group's curve.
    """

    text: str = "a"
    numbers: tuple[int, ...] = (1, 2)
    rate: float = 1e-3
    options: dict[str, int] = field(default_factory=dict)
    fail: str = ""
    seconds: float = 0.0
    log: str = ""
    meet: int = 0
    points: tuple[int, ...] = ()


def run(config: FakeConfig, context: StageContext) -> None:
    if config.log:
        with open(config.log, "a") as file:
            file.write(f"{context.output.parent.name} begin {time.time()}\n")
    deadline = time.monotonic() + 120
    while config.meet and Path(config.log).read_text().count("begin") < config.meet:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {config.meet} stages run side by side")
        time.sleep(0.1)
    for step in range(4):
        context.tracker.progress(step + 1, 4, unit="steps", loss=1.0 / (step + 1), tokens_per_second=1000.0)
        context.tracker.metrics({"loss/total": 1.0 / (step + 1)}, step=step + 1)
        time.sleep(config.seconds / 4)
    files = [folder / "out.txt" for folder in context.inputs.values()]
    texts = [file.read_text() for file in files if file.exists()]
    (context.output / "out.txt").write_text("".join(texts) + config.text)
    if config.log:
        with open(config.log, "a") as file:
            file.write(f"{context.output.parent.name} end {time.time()}\n")
    if config.fail == "value":
        raise ValueError("corpus.txt:3: expected 2 columns, found 1")
    if config.fail == "space":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(context.output / "out.txt"))
    if config.fail == "die":
        os._exit(1)
    if config.fail == "task":
        import ray

        ray.get(ray.remote(_raise).remote())
    for step in config.points:
        context.tracker.curve({"score": step / 10}, step=step)
    context.tracker.conclude("went well")
    context.tracker.params({"num_texts": len(texts)})
    context.tracker.dataset(name="texts", source=str(context.output / "out.txt"), context="training")
    context.tracker.artifact(context.output / "out.txt", folder="texts", has_examples=True)
    if not context.groups:
        context.tracker.overview({"scores/cola/median": 44.5, "hours": 0.5}, {"hardware": "CPU"}, text="| task |")


def _raise() -> None:
    raise ValueError("the batch of a remote task is wrong")


def stage(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    may_lack: tuple[str, ...] = (),
    sources: tuple[Source, ...] = (),
    version: int = 1,
    group: Group | None = None,
    **values,
) -> Stage:
    """A fake stage of one core."""
    config = FakeConfig(**values)
    return Stage(
        name=name, run=run, config=config, needs=needs, may_lack=may_lack, sources=sources, version=version, group=group
    )
