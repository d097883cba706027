"""Wires the stages that a config asks for: what each of them reads, and what it needs to run."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from upath import UPath

from cluster.nearest import did_you_mean
from cluster.storage import StoredFile, list_files
from pipeline.config.errors import ConfigError, Problem, UsageError
from pipeline.config.sections import PipelineConfig
from pipeline.config.tree import REFERENCE, dotted, leaves
from pipeline.fingerprint import plain
from pipeline.node import Source, Stage
from stages import examples, export, ingest, probe, shard, vocab
from stages.context import Group
from stages.data.sources import find_texts
from stages.electra.files.hub import find_model_files
from stages.finetune import stage as finetune
from stages.finetune.runs import expand, expand_examples
from stages.pretrain import stage as pretrain
from stages.probe import expand_probes
from stages.report import stage as report
from stages.sample import stage as sample
from stages.stage_names import examples_name
from stages.submission import stage as submission
from stages.training.checkpoint_folder import has_checkpoint


def build_stages(config: PipelineConfig) -> tuple[Stage, ...]:
    """All stages in the order in which they can run.

    Raises:
      ConfigError: A `{stage}` reference names no stage of this pipeline.
    """
    stages: list[Stage] = []

    def add(name: str, module: Any, section: Any, *, needs: Iterable[str] = (), **fields: Any) -> None:
        """Adds the stage of a module (`run`, `VERSION`). It also needs each `{stage}` that its section mentions."""
        if section is None:
            return
        if type(getattr(module, "VERSION", None)) is not int:
            raise TypeError(f"{module.__name__} declares no VERSION: a whole number, raised when its results change")
        known = [stage.name for stage in stages]
        wanted = {*needs, *_references(section, stage=name, known=known)}
        ordered = tuple(need for need in known if need in wanted)
        stages.append(Stage(name=name, run=module.run, config=section, version=module.VERSION, needs=ordered, **fields))

    # These stages wait for tasks of their own, which need the cores: num_cpus=0.
    add("sample", sample, config.sample)
    if config.ingest is not None:
        texts = _outside(find_texts, *config.ingest.sources)
        add("ingest", ingest, config.ingest, sources=texts, num_cpus=0)
    if config.vocab is not None:
        adopted = _outside(list_files, config.vocab.file)
        add("vocab", vocab, config.vocab, needs=() if config.vocab.file else ("ingest",), sources=adopted, num_cpus=0)
    add("shard", shard, config.shard, needs=("ingest", "vocab"), num_cpus=0)
    read = expand_examples(config.finetune) if config.finetune is not None else {}
    for name, wanted in read.items():
        found = _outside(list_files, *wanted.sources)
        add(name, examples, wanted, group=Group.EXAMPLES, sources=found, num_cpus=1)
    start = config.pretrain.init_from if config.pretrain is not None else None
    released: tuple[Source, ...] = ()
    for network, revision in start.revisions.items() if start else ():
        released += _outside(find_model_files, getattr(start, network), revision=revision)
    processes = config.cluster.num_processes
    needs = ("vocab", "shard")
    add("pretrain", pretrain, config.pretrain, needs=needs, sources=released, num_processes=processes)
    if config.pretrain is not None:
        add("export", export, config.export, needs=("vocab", "shard", "pretrain"))
    runs = expand(config.finetune, seed=config.seed) if config.finetune is not None else {}
    processes = config.cluster.finetune_processes
    alone = processes == 1  # then it computes in its own task
    for name, run in runs.items():
        add(
            name,
            finetune,
            run,
            group=Group.FINETUNE,
            needs=(examples_name(run.task),),  # which has seen what the task's files hold
            sources=_outside(find_model_files, run.model, revision=run.revision),
            accelerated=alone,
            num_processes=0 if alone else processes,
        )
    probes = {}
    if config.finetune is not None and config.pretrain is not None:
        probes = expand_probes(config.finetune, config.pretrain, seed=config.seed)
    for name, settings in probes.items():
        early = partial(_has_checkpoint, step=settings.step)
        add(
            name,
            probe,
            settings,
            group=Group.PROBE,
            needs=("vocab", "pretrain", examples_name(settings.finetune.task)),
            early=early,
            early_need="pretrain",
            accelerated=True,
        )
    every = [stage.name for stage in stages]
    add("report", report, config.report, needs=every, may_lack=(*read, *runs, *probes))
    if config.submission is not None:
        diagnostics = _outside(list_files, config.submission.diagnostics)
        add("submission", submission, config.submission, needs=every, sources=diagnostics, accelerated=True)
    return tuple(stages)


def select(stages: Sequence[Stage], pattern: str) -> list[Stage]:
    """The stages that match a `--only`, `--until` or `--rerun` pattern: a name, a group (`finetune/cola`) or a glob.

    Raises:
      UsageError: No stage matches.
    """
    chosen = [
        stage
        for stage in stages
        if fnmatch.fnmatchcase(stage.name, pattern) or stage.name.startswith(pattern.rstrip("/") + "/")
    ]
    if not chosen:
        names = [stage.name for stage in stages]
        parts = [name.split("/") for name in names]
        groups = dict.fromkeys("/".join(part[:depth]) for part in parts for depth in range(1, len(part)))
        near = did_you_mean(pattern, [*groups, *names])
        also = f"\ngroups of stages: {', '.join(groups)}" if groups else ""
        raise UsageError(f"No stage matches `{pattern}`.{near}\nstages: {', '.join(names)}{also}")
    return chosen


def with_ancestors(stages: Sequence[Stage], chosen: Iterable[Stage]) -> list[Stage]:
    """The chosen stages and all that they need, in order."""
    by_name = {stage.name: stage for stage in stages}
    wanted: set[str] = set()
    queue = [stage.name for stage in chosen]
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += by_name[name].needs
    return [stage for stage in stages if stage.name in wanted]


def _has_checkpoint(folders: Mapping[str, UPath], *, step: int) -> bool:
    return has_checkpoint(folders["pretrain"], step)


def _outside(
    find: Callable[..., Sequence[StoredFile]], *locations: str | None, revision: str | None = None
) -> tuple[Source, ...]:
    """Sources outside the pipeline: the locations that are given and mention no stage."""
    given = (location for location in locations if location and not REFERENCE.search(location))
    return tuple(Source(location, find, revision) for location in given)


def _references(section: Any, *, stage: str, known: Sequence[str]) -> set[str]:
    """The stages that a stage's config mentions as `{stage}`."""
    found: set[str] = set()
    problems: list[Problem] = []
    for keys, value in leaves(plain(section, at=stage), (stage,)):
        for name in REFERENCE.findall(value) if isinstance(value, str) else ():
            found.add(name)
            if name not in known:
                message = f"no stage before {stage} has this name.{did_you_mean(name, known)}"
                allowed = f"allowed: {', '.join(known)}" if known else "it is the first stage"
                problems.append(Problem(dotted(keys), "", "{" + name + "}", f"{message}\n{allowed}"))
    if problems:
        raise ConfigError(problems)
    return found
