"""Turns documents into examples of fixed length, in Arrow shards with an index.

Each part of the ingested text has its own shards, and its number seeds their draws. So parts may be done in parallel
and in any order, and an interrupted run keeps the finished ones: the bytes are always the same.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from upath import UPath

from cluster.parallel import map_items
from cluster.storage import read_json, write_json
from stages.context import StageContext
from stages.data.builders import MIN_LENGTH, LongLines, Packing, make_builder
from stages.data.shard_index import SPLITS, Shard, ShardIndex
from stages.electra.tokenizer import SPECIAL_TOKENS

if TYPE_CHECKING:
    from stages.data.encoding import Encoder
    from stages.data.rows import Lines

VERSION = 2

BYTES_IN_A_MEGABYTE = 1 << 20

# A vocabulary that fits its corpus knows all but a few words in a thousand.
_SHARE_WORTH_A_WARNING = 0.01

# Text that is encoded at once. A document is never divided.
_BLOCK_BYTES = 4 << 20

logger = logging.getLogger(__name__)


class Tokenizing(StrEnum):
    """What turns text into ids. Both give the same ones.

    FAST: nanotoken, of which `tokenizers` checks a sample; `tokenizers` alone where nanotoken does not know the kind.
    REFERENCE: `tokenizers` alone.
    """

    FAST = "fast"
    REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """How documents become examples.

    Attributes:
      seed: Seeds the draws of the building rule.
      sequence_length: Tokens of an example, [CLS], [SEP] and padding included.
      packing: Whether a row holds pairs of segments, as the original's do, or documents packed without padding.
      long_lines: Whether text that does not fit a pair begins the next one (split) or is dropped, as in the original
        (truncate).
      shard_megabytes: Largest size of a shard. A part of the ingested text fills one or more.
      max_unknown_fraction: Share of the tokens that may be [UNK]; above it the vocabulary does not fit the corpus.
      tokenizer: What turns text into ids: fast, held against the reference as it goes, or reference.
    """

    seed: int = 0
    sequence_length: int = 128
    packing: Packing = Packing.PAIRS
    long_lines: LongLines = LongLines.SPLIT
    shard_megabytes: int = 64
    max_unknown_fraction: float = field(default=0.05, metadata={"omit_default": True})
    tokenizer: Tokenizing = field(default=Tokenizing.FAST, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if not MIN_LENGTH <= self.sequence_length <= 65_535:
            raise ValueError(f"sequence_length is {self.sequence_length}, must be from {MIN_LENGTH} to 65535")
        if self.packing is Packing.PACKED and self.long_lines is not LongLines.SPLIT:
            raise ValueError(f"long_lines is {self.long_lines}, but packed rows lose no text: leave it out")
        if not 1 <= self.shard_megabytes <= 1024:
            raise ValueError(f"shard_megabytes is {self.shard_megabytes}, must be from 1 to 1024")
        if not 0 <= self.max_unknown_fraction <= 1:
            raise ValueError(f"max_unknown_fraction is {self.max_unknown_fraction}, must be from 0 to 1")


class _Part(NamedTuple):
    """One file of ingested text."""

    split: str
    number: int
    path: UPath


def run(config: ShardConfig, context: StageContext) -> None:
    """Writes `train/`, `heldout/` (Arrow IPC: ids, length, first_length; where packed, begins) and `index.json`, last.

    Raises:
      ValueError: The vocabulary's files do not belong together or do not fit the text, the text gave no example, or the
        fast tokenizer gave other ids than the reference.
    """
    vocab = context.inputs["vocab"]
    info = _check_vocabulary(vocab)
    ingest = context.inputs["ingest"]
    parts = [
        _Part(split, number, path)
        for split in SPLITS
        for number, path in enumerate(sorted((ingest / split).glob("part-*.parquet"), key=str))
    ]
    if why := _encoder(
        _tokenizer_json(vocab), is_split=info["split_special_tokens"], kind=config.tokenizer
    ).why_reference:
        logger.warning(
            "shard.tokenizer: nanotoken does not know this tokenizer.json (%s): tokenizers encodes alone", why
        )
    begin = time.monotonic()
    done: Counter[str] = Counter()

    def on_done(report: dict[str, Any]) -> None:
        done.update(parts=1, tokens=report["counts"]["tokens"] if report["fresh"] else 0)
        rate = done["tokens"] / (time.monotonic() - begin)
        context.tracker.progress(done["parts"], len(parts), unit="parts", tokens_per_second=rate)

    work = partial(_build_part, config=config, info=info, vocab=vocab, output=context.output)
    reports = map_items(work, parts, on_done=on_done)
    seconds = time.monotonic() - begin
    by_split = {split: [report for report in reports if report["split"] == split] for split in SPLITS}
    counts = {split: _total(found) for split, found in by_split.items()}
    if not counts["train"]["rows"]:
        raise ValueError(f"the {counts['train']['documents']} training documents of {ingest} gave no example")
    unknown, tokens = (sum(counts[split][name] for split in SPLITS) for name in ("unknown", "tokens"))
    if unknown > _SHARE_WORTH_A_WARNING * tokens:
        words = ", ".join(_unknown_words(parts, vocab=vocab))
        said = (
            f"{100 * unknown / tokens:.1f} % of the corpus's tokens ({unknown:,} of {tokens:,}) are not in the "
            f"vocabulary and become [UNK]{words and f', such as {words}'}. If vocab.size trains it, raise "
            "vocab.max_alphabet, and vocab.size above that; if vocab.file names it, take one made for this text"
        )
        if unknown > config.max_unknown_fraction * tokens:
            raise ValueError(f"{said}; or allow more than shard.max_unknown_fraction = {config.max_unknown_fraction:g}")
        logger.warning("%s", said)
    index = ShardIndex(
        sequence_length=config.sequence_length,
        packing=config.packing,
        vocab_size=info["size"],
        tokenizer_sha256=info["sha256"],
        special_ids=info["special"],
        counts=counts,
        **{split: _shards(found) for split, found in by_split.items()},
    )
    index.write(context.output)
    _clean(context.output, keep={shard.file for shard in (*index.train, *index.heldout)})
    context.tracker.params(counts)
    for split in SPLITS:
        if counts[split]["rows"]:
            share = counts[split]["tokens_written"] / (counts[split]["rows"] * config.sequence_length)
            context.tracker.metrics({f"{split}/filled": share, f"{split}/rows": counts[split]["rows"]})
    if done["tokens"]:
        context.tracker.metrics({"throughput/tokens_per_second": done["tokens"] / seconds})


def _check_vocabulary(vocab: UPath) -> dict[str, Any]:
    """The vocabulary's `info.json`. Checks that the tokenizer is the one described there."""
    info = read_json(vocab / "info.json")
    found = hashlib.sha256((vocab / "tokenizer.json").read_bytes()).hexdigest()
    if found != info["sha256"]:
        raise ValueError(
            f"{vocab / 'tokenizer.json'}: sha256 is {found[:12]}, info.json beside it says {info['sha256'][:12]}: "
            "the file was changed after the vocab stage wrote it; run that stage again"
        )
    return info


def _build_part(
    part: _Part, *, config: ShardConfig, info: dict[str, Any], vocab: UPath, output: UPath
) -> dict[str, Any]:
    """The shards of one part, and a report that is written last: where it exists, the part is done."""
    from stages.data.rows import Layout, Rows
    from stages.data.shards import ids_dtype, write_shard

    done = output / "work" / f"{part.split}-{part.number:05d}.json"
    if done.exists():
        return read_json(done) | {"fresh": False}
    encoder = _encoder(_tokenizer_json(vocab), is_split=info["split_special_tokens"], kind=config.tokenizer)
    dtype = ids_dtype(info["size"])
    layout = Layout(sequence_length=config.sequence_length, special_ids=info["special"], dtype=dtype)
    seed = f"{config.seed}/{part.split}/{part.number}"
    builder = make_builder(layout, packing=config.packing, seed=seed, long_lines=config.long_lines)
    row_bytes = config.sequence_length * dtype.itemsize + 4
    if config.packing is Packing.PACKED:
        row_bytes += -(-config.sequence_length // 8)
    max_rows = max(1, config.shard_megabytes * BYTES_IN_A_MEGABYTE // row_bytes)
    counts: Counter[str] = Counter()
    shards: list[Shard] = []
    blocks: list[Rows] = []

    def flush(*, is_last: bool = False) -> None:
        rows = Rows.concatenate(blocks)
        while len(rows) >= max_rows or (is_last and len(rows)):
            file = f"{part.split}/shard-{part.number:05d}-{len(shards):03d}.arrow"
            shards.append(write_shard(output, file=file, rows=rows[:max_rows]))
            rows = rows[max_rows:]
        blocks[:] = [rows]

    for lines in _encoded(part.path, encoder=encoder):
        counts["documents"] += len(lines.document_lines)
        counts["lines"] += len(lines.lengths_L)
        counts["tokens"] += len(lines.ids_S)
        counts["unknown"] += int((lines.ids_S == info["special"]["unk"]).sum())
        blocks.append(builder.add(lines))
        if sum(map(len, blocks)) >= max_rows:
            flush()
    blocks.append(builder.end())
    flush(is_last=True)
    counts["dropped"] = builder.dropped_tokens
    counts["rows"] = sum(shard.rows for shard in shards)
    counts["tokens_written"] = sum(shard.tokens for shard in shards)
    report = {"split": part.split, "counts": dict(counts), "shards": [asdict(shard) for shard in shards]}
    write_json(done, report)
    return report | {"fresh": True}


def _tokenizer_json(vocab: UPath) -> str:
    return (vocab / "tokenizer.json").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _encoder(tokenizer_json: str, *, is_split: bool, kind: Tokenizing) -> "Encoder":
    """This process's encoder. It stays, with the words that it knows: Ray gives a worker one part after another."""
    from tokenizers import Tokenizer

    from stages.data.encoding import Encoder
    from stages.electra.tokenizer import as_letters

    tokenizer = Tokenizer.from_str(tokenizer_json)
    return Encoder(as_letters(tokenizer) if is_split else tokenizer, is_fast=kind is Tokenizing.FAST)


def _encoded(path: UPath, *, encoder: "Encoder") -> Iterator["Lines"]:
    """The lines of all documents as ids, block by block."""
    import numpy as np

    from stages.data.rows import Lines

    for documents in _blocks(path):
        split = [document.split(b"\n") for document in documents]
        ids, lengths = encoder.encode([line for lines in split for line in lines])
        yield Lines(ids_S=ids, lengths_L=lengths, document_lines=np.array([*map(len, split)]))


def _blocks(path: UPath) -> Iterator[list[bytes]]:
    """The texts of all documents, UTF-8, some MB at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    block: list[bytes] = []
    size = 0
    with path.open("rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=["text"]):
            texts = batch.column(0).cast(pa.binary()).to_pylist()
            block += texts
            size += sum(map(len, texts))
            if size >= _BLOCK_BYTES:
                yield block
                block, size = [], 0
    if block:
        yield block


def _unknown_words(parts: list[_Part], *, vocab: UPath) -> list[str]:
    """A few of the most frequent words that become [UNK] in the first documents of the parts."""
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str((vocab / "tokenizer.json").read_text(encoding="utf-8"))
    unknown = tokenizer.token_to_id(SPECIAL_TOKENS["unk"])
    found: Counter[str] = Counter()
    for part in parts[:8]:
        with part.path.open("rb") as file:
            batch = next(pq.ParquetFile(file).iter_batches(batch_size=64, columns=["text"]))
        for text in batch.column(0).to_pylist():
            encoding = tokenizer.encode(text, add_special_tokens=False)
            pairs = zip(encoding.ids, encoding.offsets, strict=True)
            found.update(text[begin:end] for id_, (begin, end) in pairs if id_ == unknown)
    return [repr(word[:40]) for word, _ in found.most_common(5)]


def _total(reports: list[dict[str, Any]]) -> dict[str, int]:
    """Counts of a split. `tokens` are those of the text, `tokens_written` those in examples with [CLS] and [SEP]."""
    names = ("documents", "lines", "tokens", "unknown", "dropped", "rows", "tokens_written")
    return {name: sum(report["counts"].get(name, 0) for report in reports) for name in names}


def _shards(reports: list[dict[str, Any]]) -> tuple[Shard, ...]:
    return tuple(Shard(**shard) for report in reports for shard in report["shards"])


def _clean(output: UPath, *, keep: set[str]) -> None:
    """Removes the files that only an unfinished run needs, or that a killed one left half-written."""
    work = output / "work"
    if work.exists():
        work.fs.rm(work.path, recursive=True)
    for split in SPLITS:
        if (output / split).exists():
            for path in (output / split).iterdir():
                if f"{split}/{path.name}" not in keep:
                    path.unlink()
