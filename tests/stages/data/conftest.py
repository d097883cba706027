"""Runs the data stages on small corpora, in the test's own process."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from stages.context import StageContext, Tracker
from stages.ingest import IngestConfig
from stages.ingest import run as run_ingest
from stages.shard import ShardConfig
from stages.shard import run as run_shard
from stages.vocab import VocabConfig
from stages.vocab import run as run_vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass
class RecordingTracker(Tracker):
    """Keeps what a stage tells."""

    told: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)

    def params(self, params: Any) -> None:
        self.told.update(params)

    def metrics(self, metrics: Any, *, step: int | None = None) -> None:
        self.measured.update(metrics)


@dataclass
class Lab:
    """A folder with the stages run on it: each call makes a new output folder and returns it."""

    folder: Path
    runs: int = 0

    def context(self, stage: str, **inputs: UPath) -> StageContext:
        self.runs += 1
        output = UPath(self.folder) / f"{stage}-{self.runs}"
        output.mkdir()
        return StageContext(output=output, inputs=inputs, tracker=RecordingTracker())

    def file(self, name: str, text: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    def ingest(self, *sources: str, **config: Any) -> UPath:
        context = self.context("ingest")
        run_ingest(IngestConfig(sources=sources, **config), context)
        return context.output

    @staticmethod
    def parquet(texts: list[str | bytes | None], kind: Any = None) -> bytes:
        """A Parquet file with a column `text`, of strings unless `kind` says otherwise."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": pa.array(texts, kind or pa.string())}), sink)
        return sink.getvalue().to_pybytes()

    @staticmethod
    def counts(folder: UPath) -> dict[str, Any]:
        return json.loads((folder / "counts.json").read_text())

    def vocab(self, tokens: list[str] | None = None, **config: Any) -> UPath:
        if tokens is not None:
            config["file"] = self.file(f"vocab-{self.runs}.txt", "\n".join(tokens) + "\n")
        context = self.context("vocab")
        run_vocab(VocabConfig(**config), context)
        return context.output

    def trained_vocab(self, ingest: UPath, **config: Any) -> UPath:
        context = self.context("vocab", ingest=ingest)
        run_vocab(VocabConfig(**config), context)
        return context.output

    def shard(self, ingest: UPath, vocab: UPath, **config: Any) -> UPath:
        context = self.context("shard", ingest=ingest, vocab=vocab)
        run_shard(ShardConfig(**config), context)
        return context.output


@pytest.fixture
def lab(tmp_path: Path, ray_cluster: None) -> Lab:
    return Lab(tmp_path)


def texts(folder: UPath, split: str = "train") -> list[str]:
    """The documents of an ingested split, in order."""
    import pyarrow.parquet as pq

    parts = sorted((folder / split).glob("*.parquet"), key=str)
    return [text for part in parts for text in pq.read_table(str(part))["text"].to_pylist()]


@pytest.fixture
def read_texts() -> Callable[..., list[str]]:
    return texts
