"""Files on any fsspec location: written whole or not at all, read as JSON, brought near for what needs a path."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath


def is_local(path: UPath) -> bool:
    """True where `path` is on this machine's own file system."""
    return isinstance(path, Path)


def write_bytes(path: UPath, data: bytes) -> None:
    """Writes a file that appears whole or not at all, and that a crash of the machine does not take back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        path.write_bytes(data)  # object stores publish an object when its upload is complete
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(str(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(str(temporary), str(path))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: UPath, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: UPath, value: object) -> None:
    """Writes readable JSON as `write_bytes` does. Raises ValueError on NaN and infinity, which JSON has not."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: UPath) -> Any:
    """Reads a JSON file; a broken one is named in the error."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON, line {error.lineno}: {error.msg}") from error


@contextmanager
def local_copy(path: UPath) -> Iterator[Path]:
    """A path on this machine for a file or folder: itself where it is local, else a copy for the `with` block."""
    if is_local(path):
        yield Path(str(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.name
        path.fs.get(path.path, str(target), recursive=path.is_dir())
        yield target


def copy_tree(source: Path, target: UPath) -> None:
    """Copies a local file or folder to any location, over what lies there."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for entry in sorted(source.iterdir()):
            copy_tree(entry, target / entry.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
