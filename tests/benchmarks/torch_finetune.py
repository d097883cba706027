"""Fine-tuning written a second time, in torch over transformers' models: from the official files to the scores.

It shares nothing with `stages`, so that a mistake there shows as a difference here.
"""

import csv
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seqeval.metrics
import torch
import transformers
from sklearn import metrics

IGNORED = -100  # by transformers' losses
EVAL_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run; the names are those of `stages.finetune.config.FinetuneConfig`."""

    model: str
    seed: int
    epochs: float
    max_length: int
    batch_size: int
    learning_rate: float
    layer_decay: float
    weight_decay: float
    warmup_fraction: float
    clip_norm: float


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A file's rows: texts or words, and a label each or one a word."""

    inputs: list[Any]
    labels: list[Any]


def read_table(path: Path, *, texts: Sequence[str], label: str, header: Sequence[str] | None = None) -> Examples:
    """GLUE's tab-separated files, in which quotes are text."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        rows = list(csv.DictReader(file, fieldnames=header, delimiter="\t", quoting=csv.QUOTE_NONE))
    return Examples(inputs=[tuple(row[text] for text in texts) for row in rows], labels=[row[label] for row in rows])


def read_chunks(path: Path) -> Examples:
    """CoNLL-2000's files: word, part of speech, chunk tag; an empty line between sentences."""
    sentences = [block.splitlines() for block in re.split(r"\n\s*\n", path.read_text().strip())]
    rows = [[line.split() for line in sentence] for sentence in sentences]
    return Examples(
        inputs=[[word for word, _, _ in row] for row in rows], labels=[[tag for _, _, tag in row] for row in rows]
    )


PAIR = {"texts": ("sentence1", "sentence2"), "label": "label"}
MRPC = {"texts": ("#1 String", "#2 String"), "label": "Quality"}
COLA = {"texts": ("sentence",), "label": "label", "header": ("source", "label", "mark", "sentence")}


def read(task: str, folder: Path) -> tuple[Examples, Examples]:
    """What is trained on and what is scored."""
    if task == "conll2000":
        return read_chunks(folder / "train.txt"), read_chunks(folder / "test.txt")
    layout: Any = {"mrpc": MRPC, "cola": COLA, "rte": PAIR}[task]
    train, dev = (read_table(folder / f"{split}.tsv", **layout) for split in ("train", "dev"))
    if task == "mrpc":  # both orders of a pair
        train = Examples(inputs=train.inputs + [pair[::-1] for pair in train.inputs], labels=train.labels * 2)
    return train, dev


def encode(examples: Examples, names: Sequence[str], tokenizer: Any, *, max_length: int) -> list[dict[str, Any]]:
    """Model inputs and label numbers. Of a word the first token carries the label, and `first` is its place."""
    rows = []
    for given, label in zip(examples.inputs, examples.labels, strict=True):
        if isinstance(label, str):
            row = tokenizer(*given, truncation=True, max_length=max_length)
            rows.append({**row, "labels": names.index(label)})
            continue
        row = tokenizer(given, is_split_into_words=True, truncation=True, max_length=max_length)
        words = row.word_ids()
        first = [place for place, word in enumerate(words) if word is not None and word != words[place - 1]]
        assert len(first) == len(label), f"a word has no token, or not all fit: {given}"
        labels = [IGNORED] * len(words)
        for place, tag in zip(first, label, strict=True):
            labels[place] = names.index(tag) if tag in names else IGNORED  # which can only be missed
        rows.append({**row, "labels": labels, "first": first})
    return rows


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pads to the longest row."""
    longest = max(len(row["input_ids"]) for row in rows)

    def pad(value: Any, fill: int) -> Any:
        return value + [fill] * (longest - len(value)) if isinstance(value, list) else value

    fills = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 0, "labels": IGNORED}
    return {name: torch.tensor([pad(row[name], fill) for row in rows]) for name, fill in fills.items()}


def learning_rate_scale(name: str, *, num_layers: int, decay: float) -> float:
    """The head learns at the full rate, each layer below it by `decay` slower, the embeddings slowest."""
    if layer := re.search(r"encoder\.layer\.(\d+)\.", name):
        return decay ** (num_layers - int(layer[1]))
    return decay ** (num_layers + 1) if "embeddings" in name else 1.0


class Adam:
    """ELECTRA's: clip by global norm, Adam without bias correction, decay, linear warm-up and decay to 0."""

    def __init__(self, model: torch.nn.Module, settings: Settings, *, num_steps: int, num_layers: int) -> None:
        self.parameters = dict(model.named_parameters())
        self.m = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.v = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.scale = {
            name: learning_rate_scale(name, num_layers=num_layers, decay=settings.layer_decay)
            for name in self.parameters
        }
        self.settings, self.num_steps, self.step_number = settings, num_steps, 0

    @torch.no_grad()
    def step(self) -> None:
        settings, step = self.settings, self.step_number
        warmup = round(self.num_steps * settings.warmup_fraction)
        rate = settings.learning_rate * (1 - step / self.num_steps) * min(1.0, step / warmup if warmup else 1.0)
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip_norm)
        for name, value in self.parameters.items():
            assert value.grad is not None, name
            self.m[name].mul_(0.9).add_(value.grad, alpha=0.1)
            self.v[name].mul_(0.999).addcmul_(value.grad, value.grad, value=0.001)
            update = self.m[name] / (self.v[name].sqrt() + 1e-6)
            if not name.endswith("bias") and "LayerNorm" not in name:
                update += settings.weight_decay * value
            value -= rate * self.scale[name] * update
            value.grad = None
        self.step_number += 1


def make_model(settings: Settings, *, is_tagging: bool, num_labels: int) -> Any:
    """The checkpoint under transformers' head, which starts as the original's: its last layer Glorot uniform."""
    cls = transformers.ElectraForTokenClassification if is_tagging else transformers.ElectraForSequenceClassification
    model = cls.from_pretrained(settings.model, num_labels=num_labels)
    last = model.classifier if is_tagging else model.classifier.out_proj
    torch.nn.init.xavier_uniform_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return model


def score(task: str, gold: list[Any], predicted: list[Any]) -> dict[str, float]:
    """Official scores in per cent."""
    if task == "conll2000":
        return {"f1": 100 * seqeval.metrics.f1_score(gold, predicted)}
    scores = {"accuracy": 100 * metrics.accuracy_score(gold, predicted)}
    if task == "mrpc":
        scores["f1"] = 100 * metrics.f1_score(gold, predicted, pos_label="1")
    if task == "cola":
        scores["matthews"] = 100 * metrics.matthews_corrcoef(gold, predicted)
    return scores


def finetune(task: str, folder: Path, settings: Settings) -> dict[str, float]:
    """Trains and scores."""
    transformers.logging.set_verbosity_error()  # a new head is no news
    transformers.logging.disable_progress_bar()
    random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    train, dev = read(task, folder)
    is_tagging = isinstance(train.labels[0], list)
    names = sorted({tag for tags in train.labels for tag in tags} if is_tagging else set(train.labels))
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings.model)
    train_rows, dev_rows = (
        encode(examples, names, tokenizer, max_length=settings.max_length) for examples in (train, dev)
    )
    model = make_model(settings, is_tagging=is_tagging, num_labels=len(names))
    size = settings.batch_size
    num_steps = round(-(-len(train_rows) // size) * settings.epochs)
    optimizer = Adam(model, settings, num_steps=num_steps, num_layers=model.config.num_hidden_layers)

    model.train()
    order: list[int] = []
    for _ in range(num_steps):
        order = order or random.sample(range(len(train_rows)), len(train_rows))
        model(**collate([train_rows[number] for number in order[:size]])).loss.backward()
        order = order[size:]
        optimizer.step()

    model.eval()
    predicted: list[Any] = []
    for start in range(0, len(dev_rows), EVAL_BATCH_SIZE):
        rows = dev_rows[start : start + EVAL_BATCH_SIZE]
        inputs = {name: value for name, value in collate(rows).items() if name != "labels"}
        with torch.no_grad():
            numbers = model(**inputs).logits.argmax(-1).tolist()
        for row, found in zip(rows, numbers, strict=True):
            predicted.append([names[found[place]] for place in row["first"]] if is_tagging else names[found])
    return score(task, dev.labels, predicted)
