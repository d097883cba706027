"""Raw inputs in a stage's identity: each file that the stage reads, with its size and its checksum or etag.

The stage itself says which files it reads (`Source.find`), so other files beside them change nothing. A local file is
identified by the SHA-256 of its content: copying or touching it changes nothing. It is read once, and again only if its
size, time or inode changes. A remote file is identified by its etag.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from upath import UPath

from cluster.credentials import redact
from cluster.storage import write_json
from pipeline.node import Source

# A file written to within these seconds may change again without changing its time stamp.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class RawInputs:
    """The raw inputs of one stage.

    Attributes:
      files: Path, size, and SHA-256 (local) or etag (remote) of each file, sorted by path. Paths stay as the user wrote
        them, so that a relative one means the same from any folder, but for credentials.
      faults: Why a location has no files, by location.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def resolve(stages: Sequence[Sequence[Source]]) -> list[RawInputs]:
    """The raw inputs of several stages. Each source is looked up once and each file read once."""
    checksums = _Checksums()
    looked = {source: _look(source, checksums) for source in dict.fromkeys(chain.from_iterable(stages))}
    checksums.save()
    found = []
    for sources in stages:
        files: dict[str, dict[str, Any]] = {}
        faults: dict[str, str] = {}
        for source in sources:
            raw = looked[source]
            faults |= raw.faults
            for file in raw.files:
                # What is read once counts once, however it is written.
                files.setdefault(file["path"] if "://" in file["path"] else os.path.abspath(file["path"]), file)
        found.append(RawInputs(files=sorted(files.values(), key=lambda file: file["path"]), faults=faults))
    return found


def _look(source: Source, checksums: "_Checksums") -> RawInputs:
    try:
        found = source.files()
    except Exception as error:  # a file system's own, of many kinds
        return RawInputs(faults={redact(source.location): redact(str(error))})
    if not found:
        return RawInputs(faults={redact(source.location): f"matches no file (looked in {Path.cwd()})"})
    sums = checksums.of([file.location for file in found if "://" not in file.location])
    return RawInputs(
        files=[
            {"path": redact(file.location), "size": file.size}
            | ({"sha256": sums[file.location]} if file.location in sums else {"etag": file.etag})
            for file in found
        ]
    )


class _Checksums:
    """SHA-256 of files on this machine, remembered in a file of the user's cache by path, size, time and inode."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self._file = Path(home) / "electra-pipeline" / "checksums.json"
        self._known: dict[str, list[Any]] | None = None
        self._changed = False

    def of(self, paths: Iterable[str]) -> dict[str, str]:
        """The checksums by path."""
        if self._known is None:
            try:
                self._known = json.loads(self._file.read_text())
            except (OSError, ValueError):
                self._known = {}  # only a cache
        known, sums, unknown = self._known, {}, {}
        for path in paths:
            status, key = os.stat(path), os.path.abspath(path)
            stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
            if key in known and known[key][:3] == stamp:
                sums[path] = known[key][3]
            else:
                unknown[path] = key, stamp
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            sums |= zip(unknown, pool.map(_checksum, unknown), strict=True)
        for path, (key, stamp) in unknown.items():
            if time.time() - stamp[1] / 1e9 > _SETTLED_SECONDS:
                known[key] = [*stamp, sums[path]]
                self._changed = True
        return sums

    def save(self) -> None:
        """Writes the file if there is anything new."""
        if self._changed:
            with suppress(OSError):  # a home that cannot be written costs time, not correctness
                write_json(UPath(self._file), self._known)


def _checksum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
