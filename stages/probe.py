"""Fine-tunes on a task from a checkpoint of pretraining, while that goes on: a point of the downstream curve."""

from dataclasses import dataclass, replace

from stages.context import StageContext
from stages.finetune.config import DeclaredConfig, FinetuneConfig, FinetuneSection
from stages.finetune.runs import expand
from stages.pretrain.config import PretrainConfig
from stages.stage_names import probe_name

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """One probe.

    Attributes:
      step: Steps of pretraining that the checkpoint has behind it.
      finetune: The fine-tuning, as from the finished model.
    """

    step: int
    finetune: FinetuneConfig | DeclaredConfig


def expand_probes(section: FinetuneSection, pretrain: PretrainConfig, *, seed: int = 0) -> dict[str, ProbeConfig]:
    """The probes of a section by stage name, `probe/cola/step-500`: each with the first of its task's seeds.

    Args:
      seed: The one seed of tasks for which none is configured.
    """
    runs = expand(replace(section, from_random=False), seed=seed)
    probes: dict[str, ProbeConfig] = {}
    for task in section.probes:
        first = next(run for run in runs.values() if run.task == task)
        for step in sorted(pretrain.milestone_steps - {pretrain.steps}):  # the last is fine-tuned anyway
            # The weights come from the checkpoint; naming the finished model would wait for it.
            finetune = replace(first, model="checkpoint", revision=None)
            probes[probe_name(task, step=step)] = ProbeConfig(step=step, finetune=finetune)
    return probes


def run(config: ProbeConfig, context: StageContext) -> None:
    """Fine-tunes and leaves what `stages.finetune.stage.run` does; the score is a point of the probes' curve.

    Raises:
      FileNotFoundError: The checkpoint is gone.
    """
    import tempfile

    from upath import UPath

    from cluster.distributed import configure
    from cluster.storage import read_json

    configure(context.cluster)
    from stages.electra.config import ElectraConfig
    from stages.electra.files.model_folder import save_pretrained, take_network
    from stages.finetune.worker import finetune
    from stages.training.checkpoint import load_params

    pretrained = context.inputs["pretrain"]
    networks = read_json(pretrained / "model" / "config.json")
    name = "discriminator" if "discriminator" in networks else "generator"
    architecture, params = take_network(load_params(pretrained, step=config.step), name)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(
            UPath(folder),
            architecture=architecture,
            config=ElectraConfig.from_dict(networks[name]),
            params=params,
            tokenizer=context.inputs["vocab"],
        )
        finetune(replace(config.finetune, model=folder), context)
    result = read_json(context.output / "result.json")
    scores = {f"{config.finetune.task}/{metric}": score for metric, score in result["scores"].items()}
    context.tracker.curve(scores, step=config.step)
