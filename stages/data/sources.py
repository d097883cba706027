"""Finds the files of a corpus: paths, globs, folders and URLs. Reads names and sizes only."""

import difflib
import os
from collections.abc import Callable

from upath import UPath

from cluster.storage import StoredFile, match_files
from stages.data.documents import COMPRESSIONS, FORMATS, split_suffixes


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
    if not found:
        nearby = _nearby(UPath(os.path.expanduser(location)))
        raise FileNotFoundError(f"source {source!r} matches no file; {nearby}")
    for file in found:
        if not _is_text(file.name):
            raise ValueError(
                f"source {source!r}: {file.location} is no {', '.join(FORMATS)} file, plain or with "
                f"{', '.join(COMPRESSIONS)} after it; rename it, or use a glob that leaves it out"
            )
    return found


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
