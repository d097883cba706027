"""Writes the pretrained discriminator and generator as Hugging Face folders, and uploads them where asked to."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stages.context import StageContext
from stages.electra.files.hub import is_hub_name
from stages.run_warning import RunWarning, WarningKind

if TYPE_CHECKING:
    from stages.electra.files.huggingface import Architecture
    from stages.heldout_text import Trained

VERSION = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Contents of the model cards, and where the models go.

    Attributes:
      name: Name of the model, the first word of both cards' titles.
      language: ISO 639-1 codes of the text (`[en, de]`). Nobody can tell them from the text: left out, the cards say
        none, and the run warns of it.
      license: Of the weights, as the Hugging Face hub names it (`apache-2.0`); likewise.
      datasets: Names of the training text.
      tags: Further tags.
      push_to_hub: Uploads to `NAME-discriminator` and `NAME-generator` of the Hugging Face hub (`owner/name`, or `name`
        for the account whose token HF_TOKEN or `hf auth login` gives); None uploads nothing.
      private: Whether repositories that are made for it are private.
    """

    name: str = "electra"
    language: tuple[str, ...] = ()
    license: str | None = None
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    push_to_hub: str | None = None
    private: bool = True

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name is empty, must be the name of the model")
        for code in self.language:
            if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code", code):
                raise ValueError(f"language has {code!r}, must be ISO 639-1 codes, as [en] or [pt-BR]")
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(
                f"license is {self.license!r}, must be one of the hub's names, as apache-2.0, mit, cc-by-4.0 or other"
            )
        if self.push_to_hub is not None and not is_hub_name(self.push_to_hub):
            raise ValueError(f"push_to_hub is {self.push_to_hub!r}, must be a name on the hub: owner/name")

    def hub_name(self, network: str) -> str:
        """The name on the hub of a network, or the one that it would have."""
        slug = re.sub(r"[^\w.-]+", "-", self.name, flags=re.ASCII).strip("-.") or "electra"
        return f"{self.push_to_hub or slug}-{network}"


def run(config: ExportConfig, context: StageContext) -> None:
    """Writes `discriminator/` and `generator/`, or the one of them that the objective trains, `result.json` and
    `networks.json`: how large they are, and what they make of some held-out text.

    Raises:
      ConversionError: The pretrained parameters are not those of their configuration.
      ConnectionError: The hub cannot be reached, or refuses the upload.
    """
    from cluster.storage import read_json, write_json

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the accelerators are other stages'
    import jax

    from stages.electra.config import ElectraConfig
    from stages.electra.files.huggingface import Architecture
    from stages.electra.files.model_folder import load_parameters, save_pretrained, take_network
    from stages.electra.files.upload import upload_folder
    from stages.pretrained_card import TrainingFacts, pretrained_card

    pretrained, tokenizer = context.inputs["pretrain"], context.inputs["vocab"]
    networks = read_json(pretrained / "model" / "config.json")
    facts = TrainingFacts.read(context.inputs)
    params = load_parameters(pretrained / "model" / "parameters.safetensors")
    warnings = find_unstated(config)
    for warning in warnings:
        logger.warning("%s", warning)
    uploads, trained, sizes = {}, {}, {}
    for name in ("discriminator", "generator"):
        if name not in networks:
            continue
        architecture, model = take_network(params, name)
        network = ElectraConfig.from_dict(networks[name])
        trained[architecture] = (network, model)
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(model))
        card = pretrained_card(
            facts,
            network=network,
            title=f"{config.name} {name}",
            name=config.hub_name(name),
            is_generator=name == "generator",
            predicts_words=architecture is Architecture.MASKED_LM,
            language=config.language,
            license=config.license,
            datasets=config.datasets,
            tags=config.tags,
        )
        save_pretrained(
            context.output / name,
            architecture=architecture,
            config=network,
            params=model,
            tokenizer=tokenizer,
            card=card,
        )
        context.tracker.model(str(context.output / name), name=name)
        if config.push_to_hub is not None:
            uploads[name] = upload_folder(
                context.output / name, config.hub_name(name), private=config.private, message=f"Upload {config.name}"
            )
            logger.info("%s: %s", name, uploads[name])
    found: dict[str, Any] = {"parameters": sizes}
    if Architecture.MASKED_LM in trained and len(trained) == len(networks):
        context.tracker.phase("asking the networks about held-out text")
        found |= _show(trained, context, settings=facts.settings)
    write_json(context.output / "networks.json", found)
    write_json(
        context.output / "result.json", {"uploads": uploads, "warnings": [asdict(warning) for warning in warnings]}
    )


def _show(
    trained: "Mapping[Architecture, Trained]", context: StageContext, *, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What they make of held-out text; nothing where the records of pretraining lack it.

    Args:
      settings: Of pretraining.
    """
    from stages.data.shard_index import ShardIndex
    from stages.data.shards import ShardReader
    from stages.electra.files.huggingface import Architecture
    from stages.electra.sizes import Size, published_mask_fraction
    from stages.heldout_text import count_words, show_networks
    from stages.pieces import as_pieces

    if "objective" not in settings or "shard" not in context.inputs:
        return {}
    if not ShardIndex.read(context.inputs["shard"]).heldout:
        return {}
    objective, size = settings["objective"], Size(settings["model"]["size"])
    vocabulary = (context.inputs["vocab"] / "vocab.txt").read_text(encoding="utf-8")
    tokens = as_pieces(vocabulary.removesuffix("\n").split("\n"))
    reader = ShardReader(context.inputs["shard"], "heldout")
    num_tokens, num_words = count_words(reader, tokens)
    rows = show_networks(
        reader,
        tokens,
        generator=trained[Architecture.MASKED_LM],
        discriminator=trained.get(Architecture.PRETRAINING),
        mask_fraction=objective["mask_fraction"] or published_mask_fraction(size),
        temperature=objective["temperature"],
    )
    return {"heldout": {"rows": rows, "tokens": num_tokens, "words": num_words}}


def find_unstated(config: ExportConfig) -> list[RunWarning]:
    """What the model cards do not say because the config does not."""
    missing = {
        "export.language": (config.language, "language", "as [en]"),
        "export.license": (config.license, "licence", "as apache-2.0"),
    }
    return [
        RunWarning(WarningKind.UNSTATED, f"{key} is not set ({example}): the model cards name no {what}")
        for key, (value, what, example) in missing.items()
        if not value
    ]
