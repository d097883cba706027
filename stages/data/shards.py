"""Shards: fixed-length examples in Arrow IPC files under one index, written whole and read by row number.

Legend: N rows, T tokens.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from upath import UPath

from cluster.storage import is_local, write_bytes
from stages.data.builders import Packing
from stages.data.rows import Rows
from stages.data.shard_index import INDEX, Shard, ShardIndex

if TYPE_CHECKING:
    import pyarrow as pa


def ids_dtype(vocab_size: int) -> np.dtype:
    """The smallest type for token ids: uint16 up to 65,536 tokens, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_shard(folder: UPath, *, file: str, rows: Rows) -> Shard:
    """Writes `folder / file`, one record batch without compression, so that it can be memory-mapped.

    Packed rows have a column `begins`: a bit a token, set where a document begins.
    """
    import pyarrow as pa

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ids_NT.reshape(-1)), rows.ids_NT.shape[1])
    columns = {"ids": values, "length": rows.length_N, "first_length": rows.first_length_N}
    if rows.begins_NT is not None:
        bits_NX = np.packbits(rows.begins_NT, axis=1)
        columns["begins"] = pa.FixedSizeListArray.from_arrays(pa.array(bits_NX.reshape(-1)), bits_NX.shape[1])
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue().to_pybytes()
    write_bytes(folder / file, data)
    sha256 = hashlib.sha256(data).hexdigest()
    return Shard(file=file, rows=len(rows), tokens=int(rows.length_N.sum(dtype=np.int64)), sha256=sha256)


class ShardReader:
    """Rows of one split by number, over all of its shards.

    Local shards are memory-mapped; others are copied once to a cache on this machine, under their checksum. When it is
    first opened, each is held against the checksum in the index.

    Args:
      folder: Output of the `shard` stage.
      split: `train` or `heldout`.
      cache: Folder for copies of remote shards; None: one in the system's temporary folder.

    Raises:
      FileNotFoundError: No index, or a shard of it is gone.
      ValueError: The split has no rows, or the index or a shard is not what the shard stage wrote.
    """

    def __init__(self, folder: UPath, split: Literal["train", "heldout"], *, cache: Path | None = None) -> None:
        self.index = ShardIndex.read(folder)
        self.sequence_length = self.index.sequence_length
        self._folder = folder
        self._cache = cache or Path(tempfile.gettempdir()) / f"electra-pipeline-shards-{os.getuid()}"
        self._shards = self.index.train if split == "train" else self.index.heldout
        self._ends = np.cumsum([shard.rows for shard in self._shards], dtype=np.int64)
        self._columns: dict[int, dict[str, np.ndarray]] = {}
        if not self.num_rows:
            raise ValueError(
                f"{folder / INDEX}: the split {split!r} has no examples; "
                + ("raise ingest.heldout_fraction" if split == "heldout" else "the corpus is too small")
            )

    @property
    def num_rows(self) -> int:
        """Rows in all shards of the split."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows `indices`, in that order: `ids` int32 [n, T], `length` and `first_length` int32 [n].

        Packed rows also have `begins`, bool [n, T]: where a document begins.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.num_rows):
            bad = indices.min() if indices.min() < 0 else indices.max()
            raise IndexError(f"row {bad} of {self.num_rows}")
        shapes = {"ids": (len(indices), self.sequence_length), "length": len(indices), "first_length": len(indices)}
        rows = {name: np.empty(shape, dtype=np.int32) for name, shape in shapes.items()}
        if self.index.packing is Packing.PACKED:
            rows["begins"] = np.empty(shapes["ids"], dtype=bool)
        numbers = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            begin = self._ends[number] - self._shards[number].rows
            for name, column in self._open(int(number)).items():
                values = column[indices[at] - begin]
                if name == "begins":
                    values = np.unpackbits(values, axis=1, count=self.sequence_length)
                rows[name][at] = values
        return rows

    def _open(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._columns:
            shard = self._shards[number]
            path, batch = self._folder / shard.file, self._map(shard)
            ids_NT = batch.column("ids").flatten().to_numpy().reshape(batch.num_rows, -1)
            if ids_NT.shape != (shard.rows, self.sequence_length):
                raise ValueError(
                    f"{path}: {ids_NT.shape[0]} rows of {ids_NT.shape[1]} tokens, "
                    f"the index says {shard.rows} of {self.sequence_length}; build them anew: --rerun shard"
                )
            if (largest := int(ids_NT.max(initial=0))) >= self.index.vocab_size:
                raise ValueError(
                    f"{path}: has the token id {largest}, but the index says that the vocabulary has "
                    f"{self.index.vocab_size} tokens; build them anew: --rerun shard"
                )
            columns = {name: batch.column(name).to_numpy() for name in ("length", "first_length")}
            if self.index.packing is Packing.PACKED:
                columns["begins"] = batch.column("begins").flatten().to_numpy().reshape(batch.num_rows, -1)
            self._columns[number] = {"ids": ids_NT, **columns}
        return self._columns[number]

    def _map(self, shard: Shard) -> "pa.RecordBatch":
        import pyarrow as pa

        path = self._folder / shard.file
        local = Path(str(path)) if is_local(path) else self._fetch(path, shard)
        with local.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            if local != path:
                local.unlink(missing_ok=True)  # the next run copies it again
            raise ValueError(
                f"{path}: damaged: its sha256 is {found[:12]}, the index says {shard.sha256[:12]}; "
                "build the shards anew: --rerun shard"
            )
        return pa.ipc.open_file(pa.memory_map(str(local))).get_batch(0)

    def _fetch(self, path: UPath, shard: Shard) -> Path:
        local = self._cache / f"{shard.sha256}.arrow"
        if not local.exists():
            write_bytes(UPath(local), path.read_bytes())
        return local
