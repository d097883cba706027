"""The whole configuration: one tree of dataclasses, checked before anything runs.

Importing this imports every stage's config and nothing heavy: a wrong config answers in about a second.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fsspec import available_protocols
from upath import UPath

from cluster.config import ClusterConfig
from cluster.nearest import did_you_mean
from cluster.storage import read_json
from pipeline.config.errors import ConfigError, Problem
from pipeline.config.tree import REFERENCE, Keys, Tree, dotted, load_tree
from pipeline.config.validation import STRICT, validate
from stages.data.builders import Packing
from stages.electra.objectives.objective import ObjectiveKind
from stages.export import ExportConfig
from stages.finetune.config import EXPORTED_DISCRIMINATOR, EXPORTED_GENERATOR, FinetuneSection
from stages.finetune.runs import expand
from stages.ingest import IngestConfig
from stages.pretrain.config import PretrainConfig
from stages.report.config import ReportConfig
from stages.sample.config import SampleConfig
from stages.shard import ShardConfig
from stages.submission.config import SubmissionConfig
from stages.vocab import VocabConfig

# File systems of fsspec that cannot be written, or (memory) that every process has for itself.
_UNWRITABLE = ("data", "gist", "git", "github", "http", "https", "libarchive", "memory", "reference", "tar", "zip")
SEEDED = ("sample", "shard", "pretrain")
# Stages from raw text to an exported model, in order; they are of no use without `pretrain`.
CORPUS_STAGES = ("ingest", "vocab", "shard")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow records the run.

    Attributes:
      uri: Tracking server or database; None for `sqlite:///{output}/mlflow.db`.
      experiment: Name of the experiment.
      system_metrics_seconds: Time between samples of CPU, memory and accelerator use; 0 for none.
    """

    uri: str | None = None
    experiment: str = "electra"
    system_metrics_seconds: float = 10.0

    def uri_for(self, output: UPath) -> str:
        """The server of the config, or a database in the output folder."""
        # SQLAlchemy decodes the path, and takes what follows a question mark for options.
        path = str(output / "mlflow.db").replace("%", "%25").replace("?", "%3F")
        return self.uri or f"sqlite:///{path}"


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The whole config. A stage whose section is absent does not exist.

    Attributes:
      output: Folder of all results, on any fsspec location.
      seed: Default of the seed of every stage.
      cluster: What the run may use; never part of a stage's identity.
      tracking: Where it is recorded; None records nothing.
    """

    __pydantic_config__ = STRICT

    output: str
    seed: int = 0
    sample: SampleConfig | None = None
    ingest: IngestConfig | None = None
    vocab: VocabConfig | None = None
    shard: ShardConfig | None = None
    pretrain: PretrainConfig | None = None
    export: ExportConfig | None = None
    finetune: FinetuneSection | None = None
    report: ReportConfig | None = None
    submission: SubmissionConfig | None = None
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig | None = field(default_factory=TrackingConfig)


def load_config(path: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Reads and checks a config file and its `--set` overrides.

    Raises:
      UsageError: The file cannot be read, or an override is malformed.
      ConfigError: Some values are wrong; all of them are named.
    """
    tree = _complete(load_tree(Path(path), overrides=overrides))
    config, problems = validate(PipelineConfig, tree)
    if not problems:
        problems = _cross_check(config, tree)
    if problems:
        raise ConfigError(problems)
    return config


def _complete(tree: Tree) -> Tree:
    """Fills in what follows from other values: sections that pretraining needs, seeds, removed tasks."""
    values = dict(tree.values)
    finetune = values.get("finetune")
    if isinstance(finetune, dict):
        model = finetune.get("model")
        if isinstance(model, str) and not REFERENCE.search(model):  # from outside the pipeline: fine-tuned as it is
            for name in (*CORPUS_STAGES, "pretrain", "export"):
                values.pop(name, None)
        if isinstance(finetune.get("tasks"), dict):
            # `tasks: {cola: null}` takes a task of an extended config away.
            tasks = {name: task for name, task in finetune["tasks"].items() if task is not None}
            finetune = finetune | {"tasks": tasks}
        if _trains_one_network(values.get("pretrain")):
            finetune = {"model": EXPORTED_GENERATOR} | finetune
        values["finetune"] = finetune
    needed: list[str] = []
    if values.get("pretrain") is not None:
        needed += (*CORPUS_STAGES, "export")
    if needed or finetune is not None:
        needed.append("report")
    values |= {name: {} for name in needed if values.get(name) is None}
    for name in SEEDED:
        if isinstance(values.get(name), dict) and isinstance(values.get("seed"), int):
            values[name] = {"seed": values["seed"], **values[name]}
    return Tree(values, tree.origins)


def _trains_one_network(pretrain: object) -> bool:
    """Whether there is no discriminator, so that the generator is fine-tuned."""
    objective = pretrain.get("objective") if isinstance(pretrain, dict) else None
    kind = objective.get("kind") if isinstance(objective, dict) else None
    return any(kind == one and one.traits.trains_one_network for one in ObjectiveKind)


def _cross_check(config: PipelineConfig, tree: Tree) -> list[Problem]:
    """Mistakes that show only when sections are seen together."""
    problems: list[Problem] = []

    def wrong(keys: Keys, found: object, message: str) -> None:
        shown = None if found is None else str(found)
        problems.append(Problem(dotted(keys), tree.origin(keys), shown, message))

    pretrain, finetune, shard = config.pretrain, config.finetune, config.shard
    positions = math.inf if pretrain is None else pretrain.model.resolve(vocab_size=1000)[0].max_position_embeddings
    too_long = f"must be at most pretrain.model.max_position_embeddings = {positions}: lower it or raise that"
    if not (pretrain or finetune or config.ingest or config.sample):
        wrong(("pretrain",), None, "is missing, and so are finetune, ingest and sample: there is nothing to do")
    if pretrain is None and finetune is not None and finetune.model is None:
        wrong(("finetune", "model"), None, "is required without pretrain: a Hugging Face folder or hub id")
    if pretrain is not None and shard is not None:
        if shard.sequence_length > positions:
            wrong(("shard", "sequence_length"), shard.sequence_length, too_long)
        kind = pretrain.objective.kind
        parts = config.cluster.batch_parts
        if pretrain.batch_size % (parts * pretrain.gradient_accumulation_steps):
            message = (
                f"must be a multiple of {parts * pretrain.gradient_accumulation_steps}: {parts} parts of a step "
                f"(cluster.num_processes = {config.cluster.num_processes}, with their devices) x "
                f"gradient_accumulation_steps = {pretrain.gradient_accumulation_steps}"
            )
            wrong(("pretrain", "batch_size"), pretrain.batch_size, message)
        if kind.traits.has_towers and shard.packing is Packing.PACKED:
            wrong(("shard", "packing"), shard.packing, f"must be pairs: {kind} reads one text a row")
    if fault := _output_fault(config.output):
        wrong(("output",), config.output, fault)
    elif config.tracking is not None and config.tracking.uri is None and "://" in config.output:
        message = f"is required, as output is remote ({config.output}): sqlite needs a local disk"
        wrong(("tracking", "uri"), None, message)
    if finetune is not None and finetune.probes and pretrain is None:
        wrong(("finetune", "probes"), finetune.probes, "need pretrain, whose checkpoints they start from")
    if finetune is not None and not finetune.tasks:
        wrong(("finetune", "tasks"), None, "is empty, must name at least one task")
    if finetune is None or problems:
        return problems
    try:
        runs = expand(finetune, seed=config.seed)
    except ValueError as error:
        wrong(("finetune",), None, str(error))
        return problems
    processes = config.cluster.finetune_processes
    devices = processes * max(1, config.cluster.accelerators_per_process)
    for run in {run.task: run for run in runs.values()}.values():
        at = ("finetune", "tasks", run.task)
        if processes > 1 and run.batch_size % devices:
            message = f"must be a multiple of the {devices} devices of cluster.finetune_processes = {processes}"
            wrong((*at, "batch_size"), run.batch_size, message)
        if run.model in (EXPORTED_DISCRIMINATOR, EXPORTED_GENERATOR):
            if run.max_length > positions:
                wrong((*at, "max_length"), run.max_length, too_long)
            continue
        try:
            its_own = _positions(run.model)
        except ValueError as error:
            wrong((*at, "model"), run.model, str(error))
            continue
        if run.max_length > its_own:
            message = f"must be at most {its_own}: the model {run.model} has positions for no more"
            wrong((*at, "max_length"), run.max_length, message)
    return problems


def _output_fault(output: str) -> str | None:
    """Why nothing can be written to a location of this protocol, if that is so."""
    protocol, separator, _ = output.partition("://")
    known = available_protocols()
    if not separator or (protocol in known and protocol not in _UNWRITABLE):
        return None
    if protocol in known:
        return f"{protocol}:// cannot be written by a cluster: name a folder, or a bucket (s3://, gs://, …)"
    return f"fsspec knows no protocol {protocol}://.{did_you_mean(protocol.lower(), known)}"


def _positions(model: str) -> float:
    """How many tokens a model folder of this machine has positions for; infinity where only its reader can tell.

    Raises:
      ValueError: Its config.json is damaged.
    """
    file = UPath(model).expanduser() / "config.json" if "://" not in model else None
    values = read_json(file) if file is not None and file.is_file() else {}
    found = values.get("max_position_embeddings") if isinstance(values, dict) else None
    return found if isinstance(found, int) else math.inf
