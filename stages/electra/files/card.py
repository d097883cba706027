"""Model cards: the README.md of a Hugging Face folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stages.electra.config import ElectraConfig
from stages.electra.files import snippets

# The hub's name of each score, and the factor to the hub's values, which are shares where ours are per cent.
_HUB_METRICS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "accuracy": ("accuracy", 0.01),
        "f1": ("f1", 0.01),
        "macro_f1": ("f1", 0.01),
        "micro_f1": ("f1", 0.01),
        "best/f1": ("f1", 0.01),
        "precision": ("precision", 0.01),
        "recall": ("recall", 0.01),
        "matthews": ("matthews_correlation", 0.01),
        "pearson": ("pearsonr", 0.01),
        "spearman": ("spearmanr", 0.01),
        "exact_match": ("exact_match", 0.01),
        "best/exact_match": ("exact_match", 0.01),
        "loss/discriminator": ("loss", 1.0),
        "loss/generator": ("loss", 1.0),
        "loss/restoration": ("loss", 1.0),
        "masked/accuracy": ("accuracy", 1.0),
        "restored/accuracy": ("accuracy", 1.0),
        "replaced/precision": ("precision", 1.0),
        "replaced/recall": ("recall", 1.0),
        "replaced/auc": ("roc_auc", 1.0),
    }
)

CITATION = """```bibtex
@inproceedings{clark2020electra,
  title = {{ELECTRA}: Pre-training Text Encoders as Discriminators Rather Than Generators},
  author = {Clark, Kevin and Luong, Minh-Thang and Le, Quoc V. and Manning, Christopher D.},
  booktitle = {International Conference on Learning Representations},
  year = {2020},
  url = {https://arxiv.org/abs/2003.10555}
}
```"""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Contents of a folder's README.md. What is not known is left out.

    Attributes:
      title: First heading.
      summary: What the model is and what it was trained on, in Markdown.
      usage: Python that runs as it stands where the folder is the working one.
      sections: Headings and what stands below each, in Markdown.
      name: The model's name on the hub, with or without an owner.
      license: Identifier of the hub's list (`apache-2.0`).
      language: ISO 639-1 codes.
      tags: Further tags of the hub.
      datasets: Names of the hub's datasets.
      base_model: The hub's name of what it was fine-tuned from.
      task: The hub's name of the task (`text-classification`), for `results`.
      pipeline: The same where transformers or the hub run such a model by it; None where they do not.
      dataset: Name of the data that `results` were measured on.
      split: Which part of it.
      results: Scores by name, as they are published: per cent for tasks.
    """

    title: str
    summary: str
    usage: str = ""
    sections: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    task: str | None = None
    pipeline: str | None = None
    dataset: str | None = None
    split: str | None = None
    results: Mapping[str, float] = field(default_factory=dict)

    def render(self) -> str:
        """The README.md, with the hub's metadata on top."""
        from huggingface_hub import EvalResult, ModelCardData

        # Members of enums are written as Python's objects, which nobody may read.
        task, data = self.task and str(self.task), str(self.dataset or "unnamed")
        scores = []
        for name, value in self.results.items() if task else ():
            metric, factor = _HUB_METRICS.get(name, (name, 1.0))
            scores.append(
                EvalResult(
                    task_type=task or "",
                    dataset_type=data,
                    dataset_name=data,
                    dataset_split=self.split,
                    metric_type=metric,
                    metric_name=name,
                    metric_value=round(value * factor, 6),
                )
            )
        metadata = ModelCardData(
            language=list(self.language) or None,
            license=self.license,
            library_name="transformers",
            tags=["electra", *self.tags],
            datasets=list(self.datasets) or None,
            base_model=self.base_model,
            pipeline_tag=self.pipeline and str(self.pipeline),
            metrics=list(dict.fromkeys(score.metric_type for score in scores)) or None,
            model_name=(self.name or self.title) if scores else None,
            eval_results=scores or None,
        )
        lines = ["---", metadata.to_yaml(), "---", "", f"# {self.title}", "", self.summary.strip(), ""]
        if self.usage:
            lines += ["## Use", "", "```python", self.usage.strip(), "```", ""]
        if self.results:
            lines += ["## Results", "", "| metric | value |", "| --- | --- |"]
            lines += [f"| {name} | {value:.4g} |" for name, value in self.results.items()]
            lines += [""]
        for heading, text in self.sections:
            lines += [f"## {heading}", "", text.strip(), ""]
        return "\n".join(lines)


def table(rows: Mapping[str, Any]) -> str:
    """A table of names and values in Markdown, without those that are None."""
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def read_metadata(text: str) -> dict[str, Any]:
    """The hub's metadata on top of a card; nothing where there is none that can be read."""
    import yaml

    _, dashes, rest = text.partition("---\n")
    try:
        found = yaml.safe_load(rest.partition("\n---")[0]) if dashes else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


_PIPELINES = {
    "ElectraForMaskedLM": "fill-mask",
    "ElectraForCausalLM": "text-generation",
    "ElectraForSequenceClassification": "text-classification",
    "ElectraForMultipleChoice": "multiple-choice",
    "ElectraForTokenClassification": "token-classification",
    "ElectraForQuestionAnswering": "question-answering",
}


def default_card(architecture: str, config: ElectraConfig, *, origin: str = "") -> ModelCard:
    """A card for a model of which only class and size are known. `origin` is a sentence."""
    return ModelCard(
        title=architecture,
        summary=(
            f"{architecture} of {config.num_hidden_layers} layers of width {config.hidden_size} "
            f"(ELECTRA, arXiv 2003.10555). {origin}".strip()
        ),
        usage=snippets.call(architecture),
        sections=(("Citation", CITATION),),
        task=_PIPELINES.get(architecture),
        pipeline=_PIPELINES.get(architecture),
    )
