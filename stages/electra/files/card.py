"""Model cards: the README.md of a Hugging Face folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.electra.config import ElectraConfig


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Contents of a folder's README.md.

    Attributes:
      title: First heading.
      summary: What the model is and what it was trained on, in Markdown.
      usage: Python that loads it.
      license: Identifier of the Hub's list (`apache-2.0`), or None where it was not stated.
      language: ISO 639-1 codes.
      tags: Further tags of the Hub.
      datasets: Names of the Hub's datasets.
      base_model: What it was fine-tuned from.
      task: The Hub's name of the task (`text-classification`), for `results`.
      dataset: Name of the data that `results` were measured on.
      results: Scores by the metric's name.
    """

    title: str
    summary: str
    usage: str = ""
    license: str | None = None
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    task: str | None = None
    dataset: str | None = None
    results: Mapping[str, float] = field(default_factory=dict)

    def render(self) -> str:
        """The README.md, with the Hub's metadata on top."""
        from huggingface_hub import EvalResult, ModelCardData

        task, data = self.task, self.dataset or "unnamed"
        scores = [
            EvalResult(task_type=task, dataset_type=data, dataset_name=data, metric_type=name, metric_value=value)
            for name, value in self.results.items()
            if task
        ]
        metadata = ModelCardData(
            language=list(self.language) or None,
            license=self.license,
            library_name="transformers",
            tags=["electra", *self.tags],
            datasets=list(self.datasets) or None,
            base_model=self.base_model,
            pipeline_tag=task,
            metrics=[score.metric_type for score in scores] or None,
            model_name=self.title if scores else None,
            eval_results=scores or None,
        )
        lines = ["---", metadata.to_yaml(), "---", "", f"# {self.title}", "", self.summary.strip(), ""]
        if self.usage:
            lines += ["## Use", "", "```python", self.usage.strip(), "```", ""]
        if self.results:
            lines += ["## Results", "", "| metric | value |", "| --- | --- |"]
            lines += [f"| {name} | {value:.4g} |" for name, value in self.results.items()]
            lines += [""]
        return "\n".join(lines)


_PIPELINES = {
    "ElectraForMaskedLM": "fill-mask",
    "ElectraForCausalLM": "text-generation",
    "ElectraForSequenceClassification": "text-classification",
    "ElectraForMultipleChoice": "multiple-choice",
    "ElectraForTokenClassification": "token-classification",
    "ElectraForQuestionAnswering": "question-answering",
}


def load_usage(model_class: str, *, folder: str = "model", outputs: str = "outputs = {}") -> str:
    """Python that loads a model and calls it; `outputs` says what is done with the call, `{}`."""
    return (
        f"from transformers import AutoTokenizer, {model_class}\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("path/to/{folder}")\n'
        f'model = {model_class}.from_pretrained("path/to/{folder}")\n'
        + outputs.format('model(**tokenizer("a text", return_tensors="pt"))')
    )


def default_card(architecture: str, config: ElectraConfig, *, origin: str = "") -> ModelCard:
    """A card for a model of which only class and size are known. `origin` is a sentence."""
    return ModelCard(
        title=architecture,
        summary=(
            f"{architecture} of {config.num_hidden_layers} layers of width {config.hidden_size} "
            f"(ELECTRA, arXiv 2003.10555). {origin}".strip()
        ),
        usage=load_usage(architecture),
        task=_PIPELINES.get(architecture),
    )
