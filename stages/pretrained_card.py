"""The model cards of the two networks that were pretrained: what the stages' own records say of them, and no more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.electra.files import snippets
from stages.electra.files.card import CITATION, ModelCard, table

if TYPE_CHECKING:
    from upath import UPath

    from stages.electra.config import ElectraConfig


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What the stages before recorded of a pretraining; {} or None where a record is not there.

    Attributes:
      settings: The pretraining's config.
      result: Its result.json.
      manifest: How it was run.
      vocabulary: The vocabulary's info.json.
      counts: Of the shards, by split: documents, tokens, rows.
      sequence_length: Tokens of a training row.
    """

    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    manifest: Mapping[str, Any]
    vocabulary: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, int]]
    sequence_length: int | None

    @classmethod
    def read(cls, inputs: "Mapping[str, UPath]") -> "TrainingFacts":
        """Reads what the folders of `vocab`, `shard` and `pretrain` hold."""
        from cluster.storage import read_json
        from stages.data.shard_index import ShardIndex

        def record(stage: str, file: str) -> dict[str, Any]:
            path = inputs[stage] / file
            return read_json(path) if path.exists() else {}

        index = ShardIndex.read(inputs["shard"]) if "shard" in inputs else None
        return cls(
            settings=record("pretrain", "config.json").get("config", {}),
            result=record("pretrain", "result.json"),
            manifest=record("pretrain", "manifest.json"),
            vocabulary=record("vocab", "info.json"),
            counts=index.counts if index else {},
            sequence_length=index.sequence_length if index else None,
        )

    @property
    def heldout(self) -> Mapping[str, float]:
        """Metrics on the held-out part of the text."""
        return self.result.get("heldout") or {}

    def training(self) -> str:
        """The section on how the model was trained."""
        train, steps = self.counts.get("train", {}), self.result.get("steps")
        batch, length = self.settings.get("batch_size"), self.sequence_length
        tokens, rows = train.get("tokens"), train.get("rows")
        passes = steps * batch / rows if steps and batch and rows else None
        processes = self.result.get("num_processes")
        return table(
            {
                "objective": _words((self.settings.get("objective") or {}).get("kind")),
                "documents": _count(train.get("documents")),
                "tokens of the corpus": _count(tokens),
                "steps": _count(steps),
                "batch": batch and length and f"{_count(batch)} rows of {_count(length)} tokens",
                "tokens seen": passes and tokens and _count(round(passes * tokens)),
                "passes over the corpus": passes and f"{passes:.3g}",
                "learning rate": self.settings.get("learning_rate"),
                "optimizer": self.settings.get("optimizer"),
                "compute dtype": self.settings.get("compute_dtype"),
                "hardware": processes
                and f"{processes} process{'es' if processes > 1 else ''} on {self.result.get('device_kind')}",
                "code": self.manifest.get("git_commit") and f"commit {self.manifest['git_commit']}",
            }
        )

    def limits(self, network: "ElectraConfig") -> str:
        """The section on what must not be expected of the model."""
        longest, trained = network.max_position_embeddings, self.sequence_length
        lines = [f"- The model has positions for {longest} tokens; the tokenizer cuts longer texts there."]
        if trained is not None and trained < longest:
            lines.append(f"- It was trained on rows of {trained} tokens: positions after them were never trained.")
        lowercase = self.vocabulary.get("lowercase")
        if lowercase is not None:
            accents = self.vocabulary.get("strip_accents")
            removes = lowercase if accents is None else accents
            lines.append(
                f"- The vocabulary of {network.vocab_size:,} tokens is {'uncased' if lowercase else 'cased'}: text is "
                f"{'lower-cased' if lowercase else 'taken as it is written'}, and accents are "
                f"{'removed' if removes else 'kept'}."
            )
        lines.append(
            "- It knows the language and the subjects of the text that it was trained on, and repeats the prejudices "
            "in it. Nobody has tested it for them."
        )
        return "\n".join(lines)


def pretrained_card(
    facts: TrainingFacts,
    *,
    network: "ElectraConfig",
    title: str,
    name: str,
    is_generator: bool,
    predicts_words: bool,
    language: tuple[str, ...],
    license: str | None,
    datasets: tuple[str, ...],
    tags: tuple[str, ...],
) -> ModelCard:
    """The card of a discriminator or generator.

    Args:
      facts: Of the pretraining.
      network: Its sizes.
      title: First heading.
      name: The model's name on the hub.
      is_generator: Whether it is the network that fills in masks.
      predicts_words: Whether its head predicts words, not replacements.
      language: ISO 639-1 codes.
      license: As the hub names it.
      datasets: Names of the training text.
      tags: Further tags.
    """
    shape = f"{network.num_hidden_layers} layer{'s' * (network.num_hidden_layers > 1)} of width {network.hidden_size}"
    finetune = "Fine-tune it for classification, tagging or question answering."
    metrics: tuple[str, ...]
    if is_generator:
        task, metrics = "fill-mask", ("loss/generator", "masked/accuracy")
        summary = f"A masked language model ({shape}), the generator of an ELECTRA model (arXiv 2003.10555)."
        usage = snippets.FILL
    elif predicts_words:
        task, metrics = "fill-mask", ("loss/restoration", "restored/accuracy")
        summary = (
            f"An ELECTRA model ({shape}), pretrained to restore texts in which a generator replaced words "
            f"(arXiv 2003.10555, section 3.4). {finetune}"
        )
        usage = snippets.ENCODE
    else:
        # The hub has no task of this kind: each token gets one of two labels.
        task, metrics = (
            "token-classification",
            ("loss/discriminator", "replaced/precision", "replaced/recall", "replaced/auc"),
        )
        summary = (
            f"An ELECTRA discriminator ({shape}), pretrained to tell replaced tokens from original ones "
            f"(arXiv 2003.10555). {finetune} As it is, it says of each token how likely it was replaced."
        )
        usage = snippets.DETECT
    return ModelCard(
        title=title,
        summary=summary,
        usage=usage,
        sections=(("Training", facts.training()), ("Limits", facts.limits(network)), ("Citation", CITATION)),
        name=name,
        license=license,
        language=language,
        tags=tags,
        datasets=datasets,
        task=task,
        pipeline="fill-mask" if is_generator else None,
        dataset="held-out part of the training text",
        split="heldout",
        results={metric: facts.heldout[metric] for metric in metrics if metric in facts.heldout},
    )


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _words(name: str | None) -> str | None:
    return None if name is None else name.replace("_", " ")
