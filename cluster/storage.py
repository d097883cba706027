"""Files on any fsspec location: listed, written whole or not at all, read as JSON, copied to this machine."""

import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from upath import UPath

_ETAGS = ("ETag", "etag", "md5Hash", "md5", "crc32c", "checksum", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file as its storage lists it.

    Attributes:
      location: Its URL, or its path on this machine, relative if it was asked for by a relative one.
      size: In bytes; None if a server does not say.
      etag: Changes when a remote file changes; None on this machine.
    """

    location: str
    size: int | None
    etag: str | None = None

    @property
    def name(self) -> str:
        """The last part of its location; a URL's query is not part of it."""
        return file_name(self.location)

    def absolute(self) -> "StoredFile":
        """The same file for processes that have another working folder."""
        return self if "://" in self.location else replace(self, location=os.path.abspath(self.location))


def file_name(location: str) -> str:
    """The last part of a path or URL, without the query of a web address."""
    return (urlsplit(location).path if _is_http(location) else location).rpartition("/")[2]


def list_files(
    location: str, *, deep: bool = False, keep: Callable[[str], bool] = lambda name: True
) -> list[StoredFile]:
    """The file at a location, or the files in the folder there that are not hidden, sorted; else nothing.

    Follows links to files, but not links to folders inside the folder.

    Args:
      location: A path or URL. No character in it is a wildcard.
      deep: Whether to list the folders in the folder too.
      keep: Which of a folder's files to list, by name.
    """
    fs, path, shown = _open(location)
    if not _is_http(location) and fs.isdir(path):  # a web server has no folders
        found = fs.find(path, maxdepth=None if deep else 1, detail=True)
        return [file for file in _listed(fs, found, root=path, shown=shown) if keep(file.name)]
    try:
        return _listed(fs, {path: fs.info(path)}, root=path, shown=shown)
    except FileNotFoundError:
        return []


def match_files(
    location: str, *, literal: str = "", keep: Callable[[str], bool] = lambda name: True
) -> list[StoredFile]:
    """What `list_files` lists or, if that is nothing, the files that match a pattern of `*`, `?`, `[…]` and `**`.

    As in a shell, a wildcard finds no hidden files (half-written ones are hidden).

    Args:
      location: A path or URL. The `?` of a web address begins its query.
      literal: A beginning of `location` in which no character is a wildcard.
      keep: As in `list_files`, for a folder.
    """
    from fsspec.utils import glob_translate

    wildcard = re.search(r"[*[]" if _is_http(location) else r"[*?[]", location[len(literal) :])
    itself = list_files(location, deep=True, keep=keep)
    if itself or wildcard is None:
        return itself
    folder, slash, _ = location[: len(literal) + wildcard.start()].rpartition("/")
    pattern = location[len(folder + slash) :]
    if _is_http(location):
        pattern = pattern.replace("?", "[?]")
    matches = re.compile(glob_translate(pattern)).match
    fs, path, shown = _open(folder or slash or ".")
    found = fs.find(path, maxdepth=None if "**" in pattern else pattern.count("/") + 1, detail=True)
    found = {name: info for name, info in found.items() if matches(name[len(path) :].lstrip("/"))}
    return _listed(fs, found, root=path, shown=shown, hidden=pattern.rpartition("/")[2].startswith("."))


def _is_http(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def _open(location: str) -> tuple[Any, str, str]:
    """A location's file system, its path there, and the location itself in its plainest form (without `~`, `./`)."""
    from fsspec.core import url_to_fs

    if "://" in location.removeprefix("file://"):
        return *url_to_fs(location), location.rstrip("/")
    shown = str(Path(os.path.expanduser(location.removeprefix("file://"))))
    return *url_to_fs(os.path.abspath(shown)), shown


def _listed(fs: Any, found: Mapping[str, Any], *, root: str, shown: str, hidden: bool = False) -> list[StoredFile]:
    """The entries of `fs.find(root)` that are files. The user knows `root` as `shown`: locations begin with that."""
    is_local = "://" not in shown
    files = []
    for name, info in sorted(found.items()):
        below = name[len(root) :]
        # Of a link, only the system knows what is behind it.
        is_file = info["type"] == "file" or (info["type"] == "other" and is_local and os.path.isfile(name))
        if not is_file or ("/." in below and not hidden):
            continue
        if below and _is_http(shown):
            info = fs.info(name)  # a page of links says no more than names
        etag = None if is_local else next((str(info[key]) for key in _ETAGS if info.get(key)), None)
        location = below.lstrip("/") if shown == "." else shown + below
        files.append(StoredFile(location=location, size=info.get("size"), etag=etag))
    return files


def is_local(path: UPath) -> bool:
    """True where `path` is on this machine's own file system."""
    return isinstance(path, Path)


def write_bytes(path: UPath, data: bytes) -> None:
    """Writes a file whole or not at all. Once written, it survives a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        path.write_bytes(data)  # object stores publish an object when its upload is complete
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_half_written(folder: UPath) -> None:
    """Removes what a killed process left of files that `write_bytes` did not finish."""
    for path in folder.rglob(".*.tmp") if is_local(folder) else ():
        path.unlink()


def write_text(path: UPath, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: UPath, value: object) -> None:
    """Writes readable JSON as `write_bytes` does. Raises ValueError on NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: UPath) -> Any:
    """Reads a JSON file; a broken one is named in the error."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: byte {error.start} is not UTF-8") from error
    return parse_json(text, str(path))


def parse_json(text: str, where: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
      ValueError: It is not JSON, or nests or counts beyond what Python reads. The message begins with `where`.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if "\n" in text.rstrip("\n") else where
        raise ValueError(f"{place}: not valid JSON: {error.msg}, column {error.colno}") from error
    except RecursionError:
        raise ValueError(f"{where}: not valid JSON: brackets inside brackets, a thousand deep or more") from None
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON: a number of thousands of digits") from error


@contextmanager
def local_copy(path: UPath) -> Iterator[Path]:
    """A path on this machine for a file or folder: itself if it is local, else a copy for the `with` block."""
    if is_local(path):
        yield Path(str(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.name
        path.fs.get(path.path, str(target), recursive=path.is_dir())
        yield target
