"""Finding and reading task files, locally or remotely, compressed or not."""

import codecs
import fnmatch
import gzip
import lzma
import re
from collections.abc import Iterator, Sequence

from upath import UPath

# Endings of files that hold no text, nor Parquet. Any other ending may be one of the user's own.
_UNREADABLE = re.compile(
    r".*\.(zip|tar|tgz|7z|rar|bz2|zst|xlsx?|ods|docx?|pdf|arrow|feather|orc|avro|pkl|npy|db)(\.gz|\.xz)?"
)


def check_ending(name: str, *, what: str) -> None:
    """Raises ValueError where a file's ending says that it cannot be read. `what` names the config key."""
    if _UNREADABLE.fullmatch(name.lower()):
        raise ValueError(
            f"{what} is {name}, which cannot be read: write it as .tsv, .csv, .jsonl or .parquet (questions also as "
            ".json, tagged words also as .txt), plain or with .gz or .xz after it"
        )


def find_file(data: UPath, *, patterns: Sequence[str], override: str | None, what: str) -> UPath:
    """The one file of a folder that matches a pattern, upper and lower case alike.

    Args:
      data: The task's folder.
      patterns: Accepted names in lower case, wild cards allowed; an earlier pattern wins over a later one.
      override: A file name relative to the folder, or a whole path or URL, that is taken instead.
      what: The config key that names the file, for the error message.
    """
    if override is not None:
        path = UPath(override) if "://" in override or override.startswith("/") else data / override
        if not path.exists():
            raise FileNotFoundError(f"{what}: {path} does not exist")
        return path
    if not data.exists():
        raise FileNotFoundError(f"the task's data folder {data} does not exist")
    if not data.is_dir():
        raise ValueError(f"{data} is a file; data must be the folder that holds {patterns[0]}")
    names = sorted(path.name for path in data.iterdir())
    for pattern in patterns:
        found = [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern)]
        if len(found) > 1:
            raise ValueError(f"{data} holds {len(found)} files like {pattern}: {', '.join(found)}; set {what}")
        if found:
            _require_one_format(data, found[0], names=names, patterns=patterns, what=what)
            return data / found[0]
    raise FileNotFoundError(
        f"{data} has no {' or '.join(patterns)}; it holds {', '.join(names[:10]) or 'nothing'}"
        f"{' …' if len(names) > 10 else ''}; set {what} where the file has another name"
    )


def _require_one_format(data: UPath, chosen: str, *, names: Sequence[str], patterns: Sequence[str], what: str) -> None:
    """Refuses two files of the same name with different endings: they may hold different data."""
    stem = chosen.lower().partition(".")[0]
    others = [
        name
        for name in names
        if name.lower().partition(".")[0] == stem
        and _plain_name(name) != _plain_name(chosen)
        and any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)
    ]
    if others:
        raise ValueError(f"{data} holds {chosen} and {', '.join(others)}; set {what} to the one that is meant")


def _plain_name(name: str) -> str:
    """Without the ending of a compressed file."""
    return name.lower().removesuffix(".gz").removesuffix(".xz")


def read_text(path: UPath) -> str:
    """Decodes a UTF-8 file, with or without byte order mark; .gz and .xz are decompressed."""
    data = path.read_bytes()
    try:
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
        elif path.name.lower().endswith(".xz"):
            data = lzma.decompress(data)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be decompressed: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = (
            "the file is UTF-16, not UTF-8"
            if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            else (f"byte {error.start} ({data[error.start]:#04x}) is not UTF-8")
        )
        raise ValueError(f"{path}:{line}: {what}; convert the file") from error


def read_lines(path: UPath) -> Iterator[tuple[int, str]]:
    """Numbered lines from 1, without their ends. Only a line feed ends a line: other breaks are text."""
    lines = read_text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix("\r")


def require_characters(text: str, place: str) -> None:
    """Refuses half a surrogate pair, which JSON can escape: it is no character, and no tokenizer takes it.

    Raises:
      ValueError: Names the place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {text[error.start]!a} is half a surrogate pair, which is no character: correct it, or write "
            "\\ufffd in its place"
        ) from None
