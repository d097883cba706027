"""Finds the files of a corpus: paths, globs, folders and URLs. Reads names and sizes only."""

import difflib
import os
from collections.abc import Callable, Sequence

from upath import UPath

from cluster.storage import StoredFile, list_files, match_files
from stages.data.compression import COMPRESSIONS, split_suffixes
from stages.data.documents import FORMATS

_ENDINGS = f"{', '.join(FORMATS)}, plain or with {', '.join(COMPRESSIONS)} after it"


def find_texts(source: str, *, expand: Callable[[str], str] = str) -> list[StoredFile]:
    """The files of a source, sorted by name. The plan calls this too, so files that are not read change no identity.

    Args:
      source: A path, URL or glob; or a folder, of which the files that can be read are taken.
      expand: Replaces `{stage}` by that stage's folder, in which no character is a wildcard.

    Raises:
      FileNotFoundError: It matches nothing. The message shows what lies near it.
      ValueError: A file has a format that cannot be read.
    """
    location, stage = expand(source), expand(source[: source.rfind("}") + 1])
    found = match_files(location, literal=stage, keep=_is_text)
    if not found and (others := find_others(location)):
        raise FileNotFoundError(
            f"source {source!r} holds {named(others)}, and no file whose ending says that it is text: {_ENDINGS}; "
            "rename them (.jsonl for a JSON object a line, else .txt)"
        )
    if not found:
        nearby = _nearby(UPath(os.path.expanduser(location)))
        raise FileNotFoundError(f"source {source!r} matches no file; {nearby}")
    for file in found:
        if not _is_text(file.name):
            raise ValueError(
                f"source {source!r}: {file.location} is no file of {_ENDINGS}; rename it, or use a glob "
                "that leaves it out"
            )
    return found


def find_others(location: str) -> list[StoredFile]:
    """The files of a folder that cannot be read, by their endings."""
    if location.startswith(("http://", "https://")):
        return []  # a web server has no folders
    return [file for file in list_files(location, deep=True) if not _is_text(file.name)]


def named(files: Sequence[StoredFile]) -> str:
    """`3 files: a, b, c`, with the first few names."""
    count = "1 file" if len(files) == 1 else f"{len(files):,} files"
    return f"{count}: {', '.join(file.location for file in files[:5])}{' …' if len(files) > 5 else ''}"


def _is_text(name: str) -> bool:
    return split_suffixes(name)[0] in FORMATS


def _nearby(path: UPath) -> str:
    """The nearest folder that exists, and the names in it, likeliest first."""
    missing = path.name
    for folder in path.parents:
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except (OSError, ValueError, NotImplementedError):
            missing = folder.name
            continue
        close = difflib.get_close_matches(missing, names, n=5, cutoff=0.5)
        shown = (close + [name for name in names if name not in close])[:8]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        return f"{folder} holds {', '.join(shown) or 'nothing'}{more}"
    return "no folder above it exists or can be listed"
