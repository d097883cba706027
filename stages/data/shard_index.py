"""The index of the shards: what a row is, which files hold the rows, and what text they came from.

The shard stage writes it last, so that it lies beside whole shards only. Its hash identifies all examples: pretraining
keeps it in its checkpoints and resumes from them only with the same examples.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from upath import UPath

from cluster.storage import read_json, write_json
from stages.data.builders import Packing

INDEX = "index.json"
SPLITS = ("train", "heldout")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of rows. `tokens` counts real ones, [CLS] and [SEP] included."""

    file: str
    rows: int
    tokens: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The index.

    Attributes:
      sequence_length: Tokens of a row, padding included.
      special_ids: Ids of `pad`, `unk`, `cls`, `sep` and `mask`.
      counts: By split: documents, lines, tokens and rows.
      train, heldout: The shards of each split, in order.
    """

    sequence_length: int
    packing: Packing
    vocab_size: int
    tokenizer_sha256: str
    special_ids: dict[str, int]
    counts: dict[str, dict[str, int]]
    train: tuple[Shard, ...]
    heldout: tuple[Shard, ...]

    @classmethod
    def read(cls, folder: UPath) -> "ShardIndex":
        """The index of a shard stage's output.

        Raises:
          FileNotFoundError: There is none.
          ValueError: It has other fields than these, or is not what was written.
        """
        path = folder / INDEX
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: the shard stage has not finished there")
        value = read_json(path)
        written = value.pop("hash", None) if isinstance(value, dict) else None
        _check_keys(value, cls, at=str(path))
        for split in SPLITS:
            for number, entry in enumerate(value[split]):
                _check_keys(entry, Shard, at=f"{path}: {split}[{number}]")
        shards = {split: tuple(Shard(**entry) for entry in value[split]) for split in SPLITS}
        found = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        if found != written:
            raise ValueError(
                f"{path}: damaged: its hash is {found[:12]}, it says {str(written)[:12]}; "
                "build the shards anew: --rerun shard"
            )
        return cls(**value | shards | {"packing": Packing(value["packing"])})

    def write(self, folder: UPath) -> None:
        """Writes it into a shard stage's output."""
        write_json(folder / INDEX, asdict(self) | {"hash": self.hash})

    @property
    def hash(self) -> str:
        """SHA-256 of all that it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def _check_keys(value: Any, kind: type, *, at: str) -> None:
    names = {field.name for field in fields(kind)}
    found = set(value) if isinstance(value, Mapping) else set()
    wrong = [f"lacks {name}" for name in sorted(names - found)] + [f"has {name}" for name in sorted(found - names)]
    if wrong:
        raise ValueError(f"{at} {', '.join(wrong)}: another version wrote it; build the shards anew: --rerun shard")
