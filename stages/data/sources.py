"""Which files a list of paths, globs, folders and URLs names. Light: reads names and sizes only."""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from upath import UPath

COMPRESSIONS = (".gz", ".xz", ".zst")
FORMATS = (".txt", ".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One raw file: where it is, and its size in bytes as stored (None where a server does not say)."""

    path: UPath
    size: int | None

    @property
    def name(self) -> str:
        """The location as text, for messages and for the `source` column."""
        return str(self.path)

    @property
    def suffixes(self) -> tuple[str, str]:
        """Format and compression, as (`.txt`, `.gz`) or (`.txt`, ``)."""
        return split_suffixes(self.path.name)


def split_suffixes(name: str) -> tuple[str, str]:
    """Format and compression suffix of a file name, lower case; empty where there is none.

    >>> split_suffixes("Wiki.TXT.gz")
    ('.txt', '.gz')
    """
    name = name.lower()
    compression = next((end for end in COMPRESSIONS if name.endswith(end)), "")
    return os.path.splitext(name.removesuffix(compression))[1], compression


def resolve_sources(sources: Sequence[str]) -> list[SourceFile]:
    """All files that the sources name, each once: in the order of the sources, by name within each.

    Raises:
      FileNotFoundError: A source matches nothing; the message shows what lies near it.
      ValueError: A file's format is not one that can be read.
    """
    files: dict[str, SourceFile] = {}
    for source in sources:
        for path, size in _matches(source):
            file = SourceFile(path=path, size=size)
            if file.suffixes[0] not in FORMATS:
                raise ValueError(
                    f"source {source!r}: {file.name} is no {', '.join(FORMATS)} file, plain or with "
                    f"{', '.join(COMPRESSIONS)} after it; rename it, or use a glob that leaves it out"
                )
            files.setdefault(file.name, file)
    return list(files.values())


def _matches(source: str) -> Iterator[tuple[UPath, int | None]]:
    path = UPath(os.path.expanduser(source))
    fs: Any = path.fs
    # A `?` begins the query of a URL; only elsewhere is it a wildcard.
    if any(character in source for character in ("*[" if path.protocol.startswith("http") else "*?[")):
        # As in a shell, a wildcard finds no hidden file (which half-written ones are).
        found = {
            name: info
            for name, info in fs.glob(path.path, detail=True).items()
            if info["type"] != "directory" and (not _is_hidden(name) or _is_hidden(path.path))
        }
    elif fs.isdir(path.path):
        found = {name: info for name, info in fs.find(path.path, detail=True).items() if _is_text(name, path.path)}
    elif fs.exists(path.path):
        found = {path.path: fs.info(path.path)}
    else:
        found = {}
    if not found:
        raise FileNotFoundError(f"source {source!r} matches no file; {_nearby(path)}")
    for name in sorted(found):
        yield (
            UPath(fs.unstrip_protocol(name) if path.protocol else name, **path.storage_options),
            found[name].get("size"),
        )


def _is_hidden(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith(".")


def _is_text(name: str, folder: str) -> bool:
    """True for a readable file of a folder that is not hidden, nor in a hidden folder below it."""
    below = name.removeprefix(folder).split("/")
    return split_suffixes(name)[0] in FORMATS and not any(part.startswith(".") for part in below)


def _nearby(path: UPath) -> str:
    """What there is instead: the nearest existing folder and the names in it, likeliest first."""
    missing = path.name
    for folder in path.parents:
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except (OSError, ValueError, NotImplementedError):
            missing = folder.name
            continue
        close = difflib.get_close_matches(missing, names, n=5, cutoff=0.5)
        shown = (close + [name for name in names if name not in close])[:8]
        return f"{folder} holds {_join(shown, more=len(names) - len(shown))}"
    return "no folder above it exists or can be listed"


def _join(names: Iterable[str], *, more: int) -> str:
    text = ", ".join(names) or "nothing"
    return f"{text} and {more} more" if more else text
