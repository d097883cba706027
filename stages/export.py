"""Writes the pretrained discriminator and generator as Hugging Face folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.context import StageContext

if TYPE_CHECKING:
    from stages.electra.config import ElectraConfig
    from stages.electra.files.card import ModelCard

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Contents of the model cards.

    Attributes:
      name: Name of the model, the first word of both cards' titles.
      language: ISO 639-1 codes of the text.
      license: Of the weights, as the Hugging Face hub names it (`apache-2.0`); None leaves it open.
      datasets: Names of the training text.
      tags: Further tags.
    """

    name: str = "electra"
    language: tuple[str, ...] = ("en",)
    license: str | None = None
    datasets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name is empty, must be the name of the model")


def run(config: ExportConfig, context: StageContext) -> None:
    """Writes `discriminator/` and `generator/`, or the one of them that the objective trains.

    Raises:
      ConversionError: The pretrained parameters are not those of their configuration.
    """
    from cluster.storage import read_json
    from stages.electra.config import ElectraConfig
    from stages.electra.files.huggingface import Architecture
    from stages.electra.files.model_folder import load_parameters, save_pretrained, take_network

    pretrained, tokenizer = context.inputs["pretrain"], context.inputs["vocab"]
    networks = read_json(pretrained / "model" / "config.json")
    heldout = read_json(pretrained / "result.json").get("heldout") or {}
    params = load_parameters(pretrained / "model" / "parameters.safetensors")
    for name in ("discriminator", "generator"):
        if name not in networks:
            continue
        architecture, model = take_network(params, name)
        predicts_words = architecture is Architecture.MASKED_LM
        network = ElectraConfig.from_dict(networks[name])
        save_pretrained(
            context.output / name,
            architecture=architecture,
            config=network,
            params=model,
            tokenizer=tokenizer,
            card=_card(config, name=name, predicts_words=predicts_words, network=network, heldout=heldout),
        )
        context.tracker.model(str(context.output / name), name=name)


def _card(
    config: ExportConfig, *, name: str, predicts_words: bool, network: "ElectraConfig", heldout: Mapping[str, float]
) -> "ModelCard":
    from stages.electra.files.card import ModelCard, load_usage

    shape = f"{network.num_hidden_layers} layers of width {network.hidden_size}"
    metrics: tuple[str, ...]
    if name == "generator":
        metrics = ("loss/generator", "masked/accuracy")
        summary = f"A masked language model ({shape}), the generator of an ELECTRA model (arXiv 2003.10555)."
        usage = (
            "from transformers import pipeline\n\n"
            'fill = pipeline("fill-mask", model="path/to/generator")\n'
            'fill("a [MASK] of text")\n'
        )
    elif predicts_words:
        metrics = ("loss/restoration", "restored/accuracy")
        summary = (
            f"An ELECTRA model ({shape}), pretrained to restore texts in which a generator replaced words "
            "(arXiv 2003.10555, section 3.4). Fine-tune it for classification, tagging or question answering."
        )
        usage = load_usage("ElectraModel", folder=name, outputs="states = {}.last_hidden_state")
    else:
        metrics = ("loss/discriminator", "replaced/precision", "replaced/recall", "replaced/auc")
        summary = (
            f"An ELECTRA discriminator ({shape}), pretrained to tell replaced tokens from original ones "
            "(arXiv 2003.10555). Fine-tune it for classification, tagging or question answering."
        )
        usage = load_usage("ElectraForPreTraining", folder=name, outputs="logits = {}.logits  # above 0: replaced")
    return ModelCard(
        title=f"{config.name} {name}",
        summary=summary,
        usage=usage,
        license=config.license,
        language=config.language,
        tags=config.tags,
        datasets=config.datasets,
        task="fill-mask" if name == "generator" else None,
        dataset="held-out part of the training text",
        results={metric: heldout[metric] for metric in metrics if metric in heldout},
    )
