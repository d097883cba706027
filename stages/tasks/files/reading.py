"""Finding and reading task files, locally or remotely, compressed or not."""

import codecs
import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence

from upath import UPath

from cluster.storage import file_name
from stages.data.compression import COMPRESSIONS, open_decompressed, split_suffixes

# Endings of files that hold no text, nor Parquet. Any other ending may be one of the user's own.
_UNREADABLE = re.compile(r"\.(zip|tar|tgz|7z|rar|xlsx?|ods|docx?|pdf|arrow|feather|orc|avro|pkl|npy|db)")
# One of several files that hold a split together, as Hugging Face names them; older ones end in a hash.
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?(?P<ending>\..+)")


def check_ending(name: str, *, what: str) -> None:
    """Raises ValueError where a file's ending says that it cannot be read. `what` names the config key."""
    if _UNREADABLE.fullmatch(split_suffixes(name)[0]):
        raise ValueError(
            f"{what} is {name}, which cannot be read: write it as .tsv, .csv, .jsonl or .parquet (questions also as "
            f".json, tagged words also as .txt), plain or with {', '.join(COMPRESSIONS)} after it"
        )


def with_endings(names: Iterable[str], endings: Sequence[str]) -> tuple[str, ...]:
    """Patterns of files by these names with these endings: plain, compressed, or in parts."""
    return tuple(
        f"{name}{part}{ending}{compression}"
        for name in names
        for part in ("", "-*-of-*")
        for ending in endings
        for compression in ("", *(COMPRESSIONS if ending != ".parquet" else ()))
    )


def find_file(data: UPath, *, patterns: Sequence[str], override: str | None, what: str) -> UPath:
    """The one file that `find_files` finds."""
    found = find_files(data, patterns=patterns, override=override, what=what)
    if len(found) > 1:
        raise ValueError(f"{data} holds {len(found)} parts of {patterns[0]}; join them in one file")
    return found[0]


def find_files(data: UPath, *, patterns: Sequence[str], override: str | None, what: str) -> list[UPath]:
    """The one file of a folder that matches a pattern, upper and lower case alike, or all parts of one.

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
        return [path]
    if not data.exists():
        raise FileNotFoundError(f"the task's data folder {data} does not exist")
    if not data.is_dir():
        raise ValueError(f"{data} is a file; data must be the folder that holds {patterns[0]}")
    names = sorted(path.name for path in data.iterdir())
    for pattern in patterns:
        found = [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern)]
        if found:
            _require_whole(data, found, pattern=pattern, what=what)
            _require_one_format(data, found, names=names, patterns=patterns, what=what)
            return [data / name for name in found]
    plain = [pattern for pattern in patterns if "*" not in pattern and not split_suffixes(pattern)[1]]
    raise FileNotFoundError(
        f"{data} has no {' or '.join(plain)}; it holds {', '.join(names[:10]) or 'nothing'}"
        f"{' …' if len(names) > 10 else ''}; set {what} where the file has another name"
    )


def _require_whole(data: UPath, found: Sequence[str], *, pattern: str, what: str) -> None:
    """Refuses several files that are not the parts of one split, and parts of which some are missing."""
    parts = [part for name in found if (part := _PART.fullmatch(name.lower()))]
    numbers = {int(part["number"]) for part in parts}
    same = len({(part["stem"], part["count"], part["ending"]) for part in parts}) == 1
    if len(found) > 1 and not (same and len(numbers) == len(found)):
        raise ValueError(f"{data} holds {len(found)} files like {pattern}: {', '.join(found)}; set {what}")
    missing = [number for number in range(int(parts[0]["count"]) if parts else 0) if number not in numbers]
    if missing:
        raise ValueError(
            f"{data} holds {', '.join(found)}, which {'is' if len(found) == 1 else 'are'} {len(found)} of "
            f"{int(parts[0]['count'])} parts: part {missing[0]} is missing; fetch it, or set {what} to what is meant"
        )


def _require_one_format(
    data: UPath, chosen: Sequence[str], *, names: Sequence[str], patterns: Sequence[str], what: str
) -> None:
    """Refuses two files of the same name with different endings, or whole and in parts: they may differ."""
    others = [
        name
        for name in names
        if name not in chosen
        and _stem(name) == _stem(chosen[0])
        and _plain_name(name) != _plain_name(chosen[0])
        and any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)
    ]
    if others:
        raise ValueError(
            f"{data} holds {', '.join(chosen)} and {', '.join(others)}; set {what} to the one that is meant"
        )


def _stem(name: str) -> str:
    """Without endings, and without the number of a part."""
    part = _PART.fullmatch(name.lower())
    return (part["stem"] if part else name.lower()).partition(".")[0]


def _plain_name(name: str) -> str:
    """Without the ending of a compressed file."""
    return name.lower().removesuffix(split_suffixes(name)[1])


def read_text(path: UPath) -> str:
    """Decodes a UTF-8 file, with or without byte order mark; compressed ones are decompressed."""
    with open_decompressed(path, split_suffixes(file_name(str(path)))[1]) as stream:
        data = stream.read()
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
