"""The parameters by which people compare runs of the pipeline: a dozen of the config's values, under short names."""

from pipeline.config.sections import PipelineConfig


def comparable_params(config: PipelineConfig) -> dict[str, object]:
    """Size, text, length of training and the tasks; what the config leaves out is left out here."""
    params: dict[str, object] = {}
    if config.ingest is not None:
        params["corpus"] = ", ".join(config.ingest.sources)
    if config.vocab is not None:
        params["vocabulary"] = config.vocab.file or config.vocab.size
    if config.shard is not None:
        params["sequence_length"] = config.shard.sequence_length
    if (pretrain := config.pretrain) is not None:
        params |= {
            "size": pretrain.model.size,
            "objective": pretrain.objective.kind,
            "steps": pretrain.steps,
            "batch_size": pretrain.batch_size,
            "learning_rate": pretrain.learning_rate,
            "init_from": pretrain.init_from and (pretrain.init_from.discriminator or pretrain.init_from.generator),
        }
    if (finetune := config.finetune) is not None:
        params |= {"model": finetune.model, "tasks": ", ".join(finetune.tasks), "seeds": finetune.seeds}
    return params | {"seed": config.seed, "platform": config.cluster.platform}
