"""What raw inputs are, for a stage's identity: each file that the stage reads, with its size and checksum or etag.

The stage says which files it reads (`Source.find`); whatever lies beside them changes nothing. A file on this machine
is known by the SHA-256 of its content, so that copying or touching it makes nothing new; it is read once, and again
only when its size, time or inode changes. A remote file is known by what its storage says of it.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from cluster.storage import StoredFile, write_json
from pipeline.node import Source

# A file written to within these seconds may change again without changing its time stamp.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class RawInputs:
    """What stands in an identity.

    Attributes:
      files: Path, size, and SHA-256 (on this machine) or etag (elsewhere) of each file, by path. A path is as the user
        wrote it, so that a relative one means the same from any folder.
      faults: Why a location has no files, for a stage that must read it.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


class Resolver:
    """Looks up raw inputs, each source and each file once. Remembers checksums in a file of the user's cache.

    Used as a context, at whose end the checksums are written.
    """

    def __init__(self) -> None:
        self._checksums = _Checksums()
        self._seen: dict[Source, RawInputs] = {}

    def __enter__(self) -> "Resolver":
        return self

    def __exit__(self, *_: object) -> None:
        self._checksums.save()

    def resolve(self, sources: Iterable[Source]) -> RawInputs:
        """The files of all sources, each once, and what is wrong with those that have none."""
        files: dict[str, dict[str, Any]] = {}
        faults: dict[str, str] = {}
        for source in sources:
            if source not in self._seen:
                self._seen[source] = self._look(source)
            found = self._seen[source]
            faults |= found.faults
            for file in found.files:
                # What is read once counts once, however it is written.
                files.setdefault(file["path"] if "://" in file["path"] else os.path.abspath(file["path"]), file)
        return RawInputs(files=sorted(files.values(), key=lambda file: file["path"]), faults=faults)

    def _look(self, source: Source) -> RawInputs:
        try:
            found = source.files()
        except Exception as error:  # a file system's own, of many kinds
            return RawInputs(faults={source.location: str(error)})
        if not found:
            return RawInputs(faults={source.location: f"matches no file (looked in {Path.cwd()})"})
        sums = self._checksums.of([file.location for file in found if file.etag is None and "://" not in file.location])
        return RawInputs(files=[_entry(file, sums.get(file.location)) for file in found])


def _entry(file: StoredFile, checksum: str | None) -> dict[str, Any]:
    known = {"etag": file.etag} if checksum is None else {"sha256": checksum}
    return {"path": file.location, "size": file.size, **known}


class _Checksums:
    """SHA-256 of files on this machine by path, size, time stamp and inode."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self._file = Path(home) / "electra-pipeline" / "checksums.json"
        self._known: dict[str, list[Any]] | None = None
        self._changed = False

    def of(self, paths: Iterable[str]) -> dict[str, str]:
        """By path."""
        if self._known is None:
            try:
                self._known = json.loads(self._file.read_text())
            except (OSError, ValueError):
                self._known = {}  # only a cache
        sums: dict[str, str] = {}
        unknown: list[tuple[str, str, list[int], float]] = []
        for path in paths:
            status, key = os.stat(path), os.path.abspath(path)
            stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
            if (known := self._known.get(key)) is not None and known[:3] == stamp:
                sums[path] = known[3]
            else:
                unknown.append((path, key, stamp, status.st_mtime))
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            read = pool.map(_checksum, (path for path, *_ in unknown))
            for (path, key, stamp, modified), checksum in zip(unknown, read, strict=True):
                sums[path] = checksum
                if time.time() - modified > _SETTLED_SECONDS:
                    self._known[key] = [*stamp, checksum]
                    self._changed = True
        return sums

    def save(self) -> None:
        """Writes them down where any is new."""
        if self._changed:
            with suppress(OSError):  # only a cache: a read-only home costs time, not correctness
                write_json(UPath(self._file), self._known)


def _checksum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
