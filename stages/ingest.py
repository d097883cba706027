"""Turns raw text files into clean documents: decodes, filters, removes duplicates, holds out a share.

Two passes. The first reads each group of source files into staged parts, with a hash of every document; the
second looks at all hashes at once, then drops duplicates and gives the parts their final names. Every group and every
part is written whole or not at all, so an interrupted run goes on with the next one. Where all files are one group, the
first pass drops the duplicates itself, and writes the bytes that the second would.
"""

import hashlib
import io
import logging
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from upath import UPath

from cluster.credentials import redact
from cluster.parallel import map_items
from cluster.storage import StoredFile, read_json, write_bytes, write_json
from stages.context import StageContext
from stages.data.documents import Errors, read_documents
from stages.data.sources import find_others, find_texts, named

if TYPE_CHECKING:
    import numpy as np

VERSION = 1

SPLITS = ("train", "heldout")

# Small files are read together up to this many bytes, so that a folder of tiny ones makes no tiny parts.
GROUP_BYTES = 64 << 20

_ROW_GROUP = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to read and what to keep.

    Attributes:
      sources: Paths, folders, globs and URLs (any fsspec location) of .txt (a blank line between documents), .jsonl,
        .ndjson, .json (a JSON object a line) and .parquet files, each plain, .gz, .bz2, .xz or .zst.
      text_field: Key (.jsonl, .ndjson, .json) or column (.parquet) that holds the text.
      errors: What to do with a document that is not UTF-8: stop, replace the bytes by U+FFFD, or skip it.
      min_characters: Shorter documents are dropped.
      deduplicate: Whether to keep only the first of documents with exactly the same text. Takes some 40 bytes of memory
        a document for a moment.
      heldout_fraction: Share of documents to hold out. A document's own hash decides, so adding sources moves no
        document. At least one document is held out, unless this is 0.
      part_megabytes: Text in one output file, the unit of work of later stages.
    """

    sources: tuple[str, ...]
    text_field: str = "text"
    errors: Errors = Errors.STOP
    min_characters: int = 1
    deduplicate: bool = True
    heldout_fraction: float = 0.005
    part_megabytes: int = 16

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty, must name at least one file, folder, glob or URL")
        if self.min_characters < 1:
            raise ValueError(f"min_characters is {self.min_characters}, must be at least 1")
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction is {self.heldout_fraction}, must be at least 0 and below 1")
        if not 1 <= self.part_megabytes <= 1024:
            raise ValueError(f"part_megabytes is {self.part_megabytes}, must be from 1 to 1024")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A staged file, the rows of it that stay, and the file that they go to."""

    staged: UPath
    final: UPath
    keep: "np.ndarray"


def run(config: IngestConfig, context: StageContext) -> None:
    """Writes `train/` and `heldout/` (Parquet: text, source) and `counts.json`.

    Raises:
      FileNotFoundError: A source matches nothing.
      ValueError: A file cannot be read as config says, or no document is left.
    """
    files_named: dict[str, StoredFile] = {}  # each file once, where it is named first
    num_left_out = 0
    for source in config.sources:
        for file in map(StoredFile.absolute, find_texts(source, expand=context.expand)):
            files_named.setdefault(file.location, file)
        if others := find_others(context.expand(source)):
            logger.warning("source %r: left out, as their endings are not those of text, %s", source, named(others))
            num_left_out += len(others)
        context.tracker.dataset(name="corpus", source=context.expand(source), context="training")
    files = list(files_named.values())
    groups = list(enumerate(_grouped(files)))
    read = 0

    def on_read(report: dict[str, Any]) -> None:
        nonlocal read
        read += len(report["files"])
        context.tracker.progress(read, len(files), unit="files")

    drop = config.deduplicate and len(groups) == 1
    reports = map_items(partial(_read_group, config=config, output=context.output, drop=drop), groups, on_done=on_read)
    parts, counts = _select(config, reports=reports, output=context.output)
    map_items(_finish_part, [part for part in parts if not part.keep.all()])
    for part in parts:
        if part.keep.all():
            _finish_part(part)
    counts["files_left_out"] = num_left_out
    write_json(context.output / "counts.json", counts)
    context.tracker.params({key: value for key, value in counts.items() if key != "files"})
    for group, numbers in (("documents", counts["documents"]), ("dropped", counts["documents"]["dropped"])):
        context.tracker.metrics({f"{group}/{key}": float(n) for key, n in numbers.items() if key != "dropped"})
    work = context.output / "work"
    work.fs.rm(work.path, recursive=True)


def _grouped(files: list[StoredFile]) -> list[list[StoredFile]]:
    """Files that one worker reads, one after the other."""
    groups: list[list[StoredFile]] = [[]]
    size = 0
    for file in files:
        if size >= GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += GROUP_BYTES if file.size is None else file.size
    return groups


def _group_folder(output: UPath, number: int) -> UPath:
    return output / "work" / f"group-{number:05d}"


def _read_group(
    group: tuple[int, list[StoredFile]], *, config: IngestConfig, output: UPath, drop: bool
) -> dict[str, Any]:
    """The first pass over the files of a numbered group: writes staged parts, their hashes, and last a report.

    Args:
      drop: Whether to drop the duplicates within the group.
    """
    import numpy as np

    folder = _group_folder(output, group[0])
    done = folder / "report.json"
    if done.exists():
        return read_json(done)
    threshold = int(config.heldout_fraction * 2**64)
    files = []
    seen: set[int] = set()
    num_duplicates = 0
    with ThreadPoolExecutor(max_workers=1) as pool:
        limit = config.part_megabytes << 20
        writers = {split: _PartWriter(folder, split=split, limit=limit, pool=pool) for split in SPLITS}
        for file in group[1]:
            counts: Counter[str] = Counter()
            source = redact(file.location)
            for text in read_documents(file, text_field=config.text_field, errors=config.errors, counts=counts):
                if len(text) < config.min_characters:
                    counts["too_short"] += 1
                    continue
                data = text.encode()
                digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
                writer = writers["heldout" if digest < threshold else "train"]
                is_kept = not drop or digest not in seen
                writer.add(data, source, digest=digest, characters=len(text), is_kept=is_kept)
                num_duplicates += not is_kept
                if drop:
                    seen.add(digest)
            files.append({"path": source, "bytes": file.size, **counts})
        for writer in writers.values():
            writer.close()
    for split, writer in writers.items():
        buffer = io.BytesIO()
        np.save(buffer, np.array(writer.index, dtype=np.uint64).reshape(-1, 2))
        write_bytes(folder / f"{split}.npy", buffer.getvalue())
    parts = {split: writer.rows for split, writer in writers.items()}
    report = {"files": files, "parts": parts} | ({"duplicates": num_duplicates} if drop else {})
    write_json(done, report)
    return report


class _PartWriter:
    """Documents to numbered Parquet files of a bounded size. A file is written while the next one is filled.

    Attributes:
      rows: Documents of each file.
      index: Hash and length in characters of each document, one after the other.
    """

    def __init__(self, folder: UPath, *, split: str, limit: int, pool: ThreadPoolExecutor) -> None:
        self._folder, self._split, self._limit, self._pool = folder, split, limit, pool
        self._texts: list[bytes] = []
        self._sources: list[str] = []
        self._is_kept: list[bool] = []
        self._size = 0
        self._writing: Future[None] | None = None
        self.rows: list[int] = []
        self.index = array("Q")

    def add(self, data: bytes, source: str, *, digest: int, characters: int, is_kept: bool) -> None:
        """Takes a document. One that is not kept takes its place all the same, so that files end where they would."""
        self._is_kept.append(is_kept)
        if is_kept:
            self._texts.append(data)
            self._sources.append(source)
            self.index.extend((digest, characters))
        self._size += len(data)
        if self._size >= self._limit:
            self._flush()

    def close(self) -> None:
        """Writes what is left. Raises what writing raised."""
        self._flush()
        self._wait()

    def _flush(self) -> None:
        if self._texts:
            self._wait()
            path = _staged(self._folder, self._split, len(self.rows))
            self._writing = self._pool.submit(_write_texts, path, self._texts, self._sources, self._is_kept)
            self.rows.append(len(self._texts))
        self._texts, self._sources, self._is_kept, self._size = [], [], [], 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()


def _write_texts(path: UPath, texts: list[bytes], sources: list[str], is_kept: list[bool]) -> None:
    """Writes what is kept of some documents, with the bytes that `_finish_part` gives a file of all of them."""
    import pyarrow as pa

    table = pa.table({"text": pa.array(texts, pa.string()), "source": sources})
    if not all(is_kept):  # Parquet's pages follow the chunks of a table, here those of a file's row groups
        runs = [sum(is_kept[at : at + _ROW_GROUP]) for at in range(0, len(is_kept), _ROW_GROUP)]
        table = pa.concat_tables(table.slice(sum(runs[:at]), run) for at, run in enumerate(runs))
    _write_parquet(path, table)


def _staged(folder: UPath, split: str, number: int) -> UPath:
    return folder / f"{split}-{number:05d}.parquet"


def _write_parquet(path: UPath, table: Any) -> None:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_ROW_GROUP, use_dictionary=["source"])
    write_bytes(path, buffer.getvalue())


def _select(
    config: IngestConfig, *, reports: list[dict[str, Any]], output: UPath
) -> tuple[list[_Part], dict[str, Any]]:
    """Which rows of the staged parts stay, and the counts of everything."""
    import numpy as np

    files = [file for report in reports for file in report["files"]]
    totals: Counter[str] = Counter()
    for file in files:
        totals.update({key: value for key, value in file.items() if key not in ("path", "bytes")})
    dropped = {key: totals[key] for key in ("empty", "too_short", "undecodable")}
    dropped["duplicate"] = sum(report.get("duplicates", 0) for report in reports)
    keep, digests, lengths = {}, {}, {}
    for split in SPLITS:
        digests[split], lengths[split] = _load_index(reports, split, output=output)
        keep[split] = np.ones(len(lengths[split]), dtype=bool)
        if config.deduplicate:
            keep[split][:] = False
            keep[split][np.unique(digests[split], return_index=True)[1]] = True
            dropped["duplicate"] += int(np.sum(~keep[split]))
    if not any(rows.any() for rows in keep.values()):
        raise ValueError(
            f"the corpus is empty: {len(files)} files hold {totals['read']} documents, and none is left after "
            "dropping " + ", ".join(f"{number} {why}" for why, number in dropped.items())
        )
    chosen = {split: (split, keep[split]) for split in SPLITS}  # as which split they were staged, and which rows
    if config.heldout_fraction and not keep["heldout"].any() and keep["train"].sum() > 1:
        lowest = np.argmin(np.where(keep["train"], digests["train"], np.iinfo(np.uint64).max))
        moved = np.arange(len(keep["train"])) == lowest
        chosen = {"train": ("train", keep["train"] & ~moved), "heldout": ("train", moved)}
    numbers = {split: int(rows.sum()) for split, (_, rows) in chosen.items()}
    characters = {split: int(lengths[staged][rows].sum()) for split, (staged, rows) in chosen.items()}
    if not numbers["train"]:
        raise ValueError(
            f"all {numbers['heldout']} documents are held out and none is left to train on: "
            f"heldout_fraction is {config.heldout_fraction}"
        )
    parts = (_parts(reports, rows, staged=old, split=split, output=output) for split, (old, rows) in chosen.items())
    return list(chain.from_iterable(parts)), {
        "documents": {"read": totals["read"], **numbers, "dropped": dropped},
        "characters": characters,
        "changed": {"replaced": totals["replaced"], "cut": totals["cut"]},
        "files": files,
    }


def _load_index(reports: list[dict[str, Any]], split: str, *, output: UPath) -> tuple["np.ndarray", "np.ndarray"]:
    """Hash and length in characters of every staged document of a split, in order."""
    import numpy as np

    folders = [_group_folder(output, number) for number in range(len(reports))]
    index = np.concatenate([np.load(io.BytesIO((folder / f"{split}.npy").read_bytes())) for folder in folders])
    return index[:, 0], index[:, 1]


def _parts(
    reports: list[dict[str, Any]], keep: "np.ndarray", *, staged: str, split: str, output: UPath
) -> Iterator[_Part]:
    """The parts of a split that keep any row of what was staged, numbered without gaps."""
    begin = number = 0
    for group, report in enumerate(reports):
        folder = _group_folder(output, group)
        for index, rows in enumerate(report["parts"][staged]):
            rows_kept = keep[begin : begin + rows]
            begin += rows
            if rows_kept.any():
                final = output / split / f"part-{number:05d}.parquet"
                yield _Part(staged=_staged(folder, staged, index), final=final, keep=rows_kept)
                number += 1


def _finish_part(part: _Part) -> None:
    """The second pass over one part. Staged parts stay until all is done: an interrupted run needs them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if part.final.exists():
        return
    if part.keep.all():
        part.final.parent.mkdir(parents=True, exist_ok=True)
        part.staged.rename(part.final)
        return
    table = pq.read_table(io.BytesIO(part.staged.read_bytes()))
    _write_parquet(part.final, table.filter(pa.array(part.keep)))
