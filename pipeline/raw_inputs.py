"""Raw inputs to lists of files with sizes and checksums, which become part of an identity."""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from upath import UPath

# A file written to within these seconds may change again without changing its time stamp.
_SETTLED_SECONDS = 2.0
_ETAGS = ("ETag", "etag", "md5Hash", "md5", "crc32c", "checksum", "mtime", "LastModified", "last_modified", "created")


def resolve(locations: Iterable[str]) -> list[dict[str, Any]]:
    """The files that paths, folders, globs and URLs name: path, size, and SHA-256 (local) or etag (remote).

    Files are listed under the path that the user wrote, so that a relative path means the same from any folder.
    What matches nothing gives nothing: the stage that reads it says so.

    Raises:
      FileNotFoundError: A remote location cannot be asked.
    """
    files: list[dict[str, Any]] = []
    local: list[Path] = []
    for location in locations:
        if "://" in location and not location.startswith("file://"):
            files += _remote(location)
        else:
            local += _local_files(location.removeprefix("file://"))
    with _Checksums() as checksums, ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        sums = pool.map(checksums.of, local)
        files += [
            {"path": str(path), "size": path.stat().st_size, "sha256": checksum}
            for path, checksum in zip(local, sums, strict=True)
        ]
    return sorted({file["path"]: file for file in files}.values(), key=lambda file: file["path"])


def _local_files(location: str) -> list[Path]:
    expanded = os.path.expanduser(location)
    paths = glob(expanded, recursive=True) if has_magic(expanded) else [expanded]
    found: list[Path] = []
    for path in map(Path, sorted(paths)):
        if path.is_dir():
            found += sorted(entry for entry in path.rglob("*") if entry.is_file() and not _hidden(entry, path))
        elif path.is_file():
            found.append(path)
    return found


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _remote(location: str) -> list[dict[str, Any]]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(location)
        if has_magic(path):
            paths = sorted(fs.glob(path))
        elif not location.startswith(("http://", "https://")) and fs.isdir(path):
            paths = sorted(fs.find(path))
        else:
            paths = [path]
        return [_remote_file(fs, path) for path in paths]
    except FileNotFoundError:
        return []
    except Exception as error:
        raise FileNotFoundError(f"cannot ask {location} for its size and etag: {error}") from error


def _remote_file(fs: Any, path: str) -> dict[str, Any]:
    details = fs.info(path)
    etag = next((str(details[name]) for name in _ETAGS if details.get(name)), None)
    return {"path": fs.unstrip_protocol(path), "size": details.get("size"), "etag": etag}


class _Checksums:
    """SHA-256 of local files, remembered by path, size and time stamp, so that planning reads no file twice."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self._file = Path(home) / "electra-pipeline" / "checksums.json"
        self._known: dict[str, list[Any]] = {}
        self._changed = False

    def __enter__(self) -> "_Checksums":
        try:
            self._known = json.loads(self._file.read_text())
        except (OSError, ValueError):
            self._known = {}  # only a cache
        return self

    def __exit__(self, *_: object) -> None:
        if not self._changed:
            return
        from cluster.storage import write_json

        with suppress(OSError):  # only a cache: a read-only home costs time, not correctness
            write_json(UPath(self._file), self._known)

    def of(self, path: Path) -> str:
        status = path.stat()
        key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns, status.st_ino]
        if key in self._known and self._known[key][:3] == stamp:
            return str(self._known[key][3])
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time() - status.st_mtime > _SETTLED_SECONDS:
            self._known[key] = [*stamp, checksum]
            self._changed = True
        return checksum
