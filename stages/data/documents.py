"""Reads documents from raw files, one at a time: text, JSON lines or Parquet, plain or compressed.

A document is its lines that are not blank, joined by newlines. At most some MB of text (and 256 rows of Parquet) are in
memory, and no document is larger than the bounds below, whatever the file holds.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import chain, product
from typing import IO, Any, NamedTuple

from upath import UPath

from cluster.storage import StoredFile, parse_json
from stages.data.compression import open_decompressed, split_suffixes

# Longer documents are cut, at a line where there is one: a file without blank lines, or without any line break, is one
# document and must not fill the memory.
MAX_DOCUMENT_BYTES = 8 << 20
# A line of JSON and a row of Parquet must be read as a whole to be understood: larger ones are refused.
MAX_ROW_BYTES = 32 << 20

# Text files are read so much at a time.
_BLOCK_BYTES = 1 << 20

_BLANK_LINE = re.compile(rb"\n[ \t\r\v\f]*\n")


class Errors(StrEnum):
    """What to do with a document that is not valid UTF-8."""

    STOP = "stop"
    REPLACE = "replace"
    SKIP = "skip"


def read_documents(file: StoredFile, *, text_field: str, errors: Errors, counts: Counter[str]) -> Iterator[str]:
    """The documents of one file, in order; none is empty.

    Args:
      file: Its name decides format and compression.
      text_field: Key (JSON lines) or column (Parquet) that holds the text.
      errors: What to do with bytes that are not UTF-8.
      counts: Counts `read`, `empty`, `undecodable` (dropped), `replaced` and `cut` documents as they pass.

    Raises:
      ValueError: Undecodable bytes under `Errors.STOP`, a damaged file, a line that is not JSON, no such field.
    """
    kind, compression = split_suffixes(file.name)
    with open_decompressed(UPath(file.location), compression) as stream:
        for text in FORMATS[kind](_Source(file, text_field, errors, counts), stream):
            if text:
                yield text
            else:
                counts["empty"] += 1


class _Source(NamedTuple):
    """A file, and what `read_documents` was told about it."""

    file: StoredFile
    text_field: str
    errors: Errors
    counts: Counter[str]

    def decode(self, data: bytes, *, offset: int, where: str) -> tuple[str | None, bool]:
        """Text, and whether bytes had to be replaced. `offset` and `where` say where `data` begins.

        No text means that a document is not UTF-8 and must be left out.
        """
        try:
            return data.decode(), False
        except UnicodeDecodeError as error:
            if self.errors is Errors.REPLACE:
                return data.decode(errors="replace"), True
            if self.errors is Errors.SKIP:
                return None, False
            wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
            hint = "it looks like UTF-16: convert it to UTF-8" if wide else "set ingest.errors to replace or skip"
            unpacked = " of the decompressed text" if split_suffixes(self.file.name)[1] else ""
            raise ValueError(
                f"{self.file.location}: byte 0x{data[error.start]:02x} at offset {offset + error.start}{unpacked}"
                f"{where} is not valid UTF-8; {hint}"
            ) from None


def _lines(
    source: _Source, readline: Callable[[int], bytes], *, max_bytes: int, cut: bool, offset: int = 0, number: int = 1
) -> Iterator[tuple[int, bytes, str | None, bool]]:
    """Number, bytes and text of each line, and whether bytes had to be replaced; without a byte order mark.

    A line of more than `max_bytes` comes in pieces of at most that, whole characters each, or is refused. `offset` and
    `number` are those of the first line.
    """
    rest = b""
    while data := rest + readline(max_bytes - len(rest)):
        rest = b""
        if len(data) == max_bytes and not data.endswith(b"\n"):
            if not cut:
                raise ValueError(
                    f"{source.file.location}:{number}: a line of {max_bytes >> 20} MiB or more; a document a line is "
                    "expected: split it"
                )
            end = max_bytes - 1
            while data[end] & 0xC0 == 0x80 and end > max_bytes - 4:  # inside a character
                end -= 1
            data, rest = data[:end], data[end:]
        mark = _mark(data) if offset == 0 else 0
        yield number, data[mark:], *source.decode(data[mark:], offset=offset + mark, where=f" (line {number})")
        offset += len(data)
        number += data.endswith(b"\n")


def _mark(data: bytes) -> int:
    """Bytes of the byte order mark that a file begins with."""
    return 3 if data.startswith(b"\xef\xbb\xbf") else 0


class _TextFile:
    """A text file that is read in runs of whole documents, or line by line.

    Attributes:
      offset: Of what comes next.
      number: Of the line that comes next.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._data = b""  # what is read ahead, from `_at` on
        self._at = 0
        self.offset, self.number = 0, 1

    def read_documents(self, limit: int) -> bytes | None:
        """The next documents, fewer than `limit` bytes; none where the next has as many; None at the end."""
        while True:
            end = _last_break(self._data, self._at, min(self._at + limit - 1, len(self._data)))
            if end or len(self._data) - self._at >= limit:
                return self._take(end or self._at)
            more = self._stream.read(min(_BLOCK_BYTES, limit))
            if not more:
                return self._take(len(self._data)) or None
            self._data, self._at = self._data[self._at :] + more, 0

    def readline(self, limit: int) -> bytes:
        """The next line, at most so much of it."""
        end = self._data.find(b"\n", self._at, self._at + limit) + 1
        if not end and len(self._data) - self._at < limit:
            self._data = self._data[self._at :]
            self._data, self._at = self._data + self._stream.readline(limit - len(self._data)), 0
            end = len(self._data)
        return self._take(end or self._at + limit)

    def _take(self, end: int) -> bytes:
        data, self._at = self._data[self._at : end], end
        self.offset += len(data)
        self.number += data.count(b"\n")
        return data


def _last_break(data: bytes, begin: int, end: int) -> int:
    """Where, in a part of some text, the last line ends that is plainly blank; 0 where none is seen."""
    for blank in (b"\n\n", b"\n\r\n"):
        if (at := data.rfind(blank, begin, end)) >= 0:
            return at + len(blank)
    return max((match.end() for match in _BLANK_LINE.finditer(data, begin, end)), default=0)


def _from_text(source: _Source, stream: IO[bytes]) -> Iterator[str]:
    counts = source.counts
    file = _TextFile(stream)
    while True:
        offset, number = file.offset, file.number
        data = file.read_documents(MAX_DOCUMENT_BYTES)
        if data is None:
            return
        try:
            lines = data[_mark(data) if offset == 0 else 0 :].decode().split("\n") if data else []
        except UnicodeDecodeError:
            lines = []
        if lines:
            joined = "\n".join(map(str.strip, lines))
            texts = [text for run in joined.split("\n\n") if (text := run.strip("\n"))]
            if texts:
                counts.update(read=len(texts), cut=0, undecodable=0, replaced=0)
            yield from texts
        else:  # a long document, or bytes that are not UTF-8
            readline = io.BytesIO(data).readline if data else file.readline
            every = _lines(source, readline, max_bytes=MAX_DOCUMENT_BYTES, cut=True, offset=offset, number=number)
            yield from _by_lines(every, counts, least_bytes=len(data) or MAX_DOCUMENT_BYTES)


def _by_lines(
    every: Iterator[tuple[int, bytes, str | None, bool]], counts: Counter[str], *, least_bytes: int
) -> Iterator[str]:
    """The documents of some lines, up to the end of the first that ends after so many bytes."""
    lines: list[str] = []
    size = read_bytes = 0
    replaced = undecodable = False
    end = (0, b"", "", False)  # an empty line, which ends the last document
    for _, data, line, was_replaced in chain(every, [end]):
        read_bytes += len(data)
        if line is None:
            undecodable = True
            lines = []
            continue
        blank = not line.strip()
        replaced |= was_replaced
        if blank or size + len(data) > MAX_DOCUMENT_BYTES:
            if lines or undecodable:
                counts["read"] += 1
                counts["cut"] += not blank
                counts["undecodable"] += undecodable
                counts["replaced"] += replaced
                if not undecodable:
                    yield _joined(lines)
            if blank and read_bytes >= least_bytes:
                return
            lines, size = [], 0
            replaced = False
            undecodable &= not blank  # the rest of a cut document is left out with it
        if not blank and not undecodable:
            lines.append(line)
            size += len(data)


def _joined(lines: Iterable[str]) -> str:
    """A document: its lines that are not blank."""
    return "\n".join(stripped for line in lines if (stripped := line.strip()))


def _from_json_lines(source: _Source, stream: IO[bytes]) -> Iterator[str]:
    text_field, counts = source.text_field, source.counts
    for number, data, line, replaced in _lines(source, stream.readline, max_bytes=MAX_ROW_BYTES, cut=False):
        at = f"{source.file.location}:{number}"
        if not data.strip():
            continue
        counts["read"] += 1
        if line is None:
            counts["undecodable"] += 1
            continue
        counts["replaced"] += replaced
        row = parse_json(line, at)
        if not isinstance(row, dict) or text_field not in row:
            found = f"the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else f"a {type(row).__name__}"
            raise ValueError(f"{at}: no text under {text_field!r}, found {found}; set ingest.text_field")
        text = row[text_field]
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{at}: {text_field!r} is a {type(text).__name__}, expected a string or null")
        if text and not text.isascii():  # JSON can escape half a surrogate pair, which no UTF-8 holds
            where = f" of {text_field!r} in line {number} (half a surrogate pair)"
            text, replaced_too = source.decode(text.encode("utf-8", "surrogatepass"), offset=0, where=where)
            if text is None:
                counts["undecodable"] += 1
                continue
            counts["replaced"] += replaced_too and not replaced
        yield from _cut(text or "", counts)


def _from_json(source: _Source, stream: IO[bytes]) -> Iterator[str]:
    try:
        yield from _from_json_lines(source, stream)
    except ValueError as error:
        raise ValueError(
            f"{error} (a .json file is read as a JSON object a line; to leave it out, name the other files by a glob)"
        ) from error


def _from_parquet(source: _Source, stream: IO[bytes]) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    location, text_field, counts = source.file.location, source.text_field, source.counts
    try:
        table = pq.ParquetFile(stream)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{location}: not a whole Parquet file: {error}") from error
    schema = table.schema_arrow
    if text_field not in schema.names:
        found = ", ".join(map(repr, schema.names))
        raise ValueError(f"{location}: no column {text_field!r}, found {found}; set ingest.text_field")
    kind = schema.field(text_field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"{location}: column {text_field!r} holds {kind}, expected strings")
    _require_small_rows(location, table.metadata, text_field)
    batches = table.iter_batches(batch_size=256, columns=[text_field])
    # Arrow does not check what it reads: take the bytes, decode them here.
    column = chain.from_iterable(batch.column(0).cast(pa.large_binary()).to_pylist() for batch in batches)
    for row, data in enumerate(column):
        counts["read"] += 1
        text, replaced = source.decode(data or b"", offset=0, where=f" of the text of row {row}")
        if text is None:
            counts["undecodable"] += 1
            continue
        counts["replaced"] += replaced
        yield from _cut(text, counts)


def _require_small_rows(location: str, metadata: Any, text_field: str) -> None:
    """Row groups are read page by page, but a row cannot be read in parts."""
    for number, leaf in product(range(metadata.num_row_groups), range(metadata.num_columns)):
        chunk = metadata.row_group(number).column(leaf)
        mean = chunk.total_uncompressed_size / max(chunk.num_values, 1)
        if chunk.path_in_schema == text_field and mean > MAX_ROW_BYTES:
            raise ValueError(
                f"{location}: row group {number} has texts of more than {MAX_ROW_BYTES >> 20} MiB each; a document a "
                "row is expected: split them"
            )


# The reader of each format by suffix. Files of a folder that have no other suffix than these are read.
FORMATS = {".txt": _from_text, ".jsonl": _from_json_lines, ".ndjson": _from_json_lines, ".json": _from_json}
FORMATS |= {".parquet": _from_parquet}


def _cut(text: str, counts: Counter[str]) -> Iterator[str]:
    """The document of a text; of a long text several, of at most `MAX_DOCUMENT_BYTES` characters."""
    lines = text.split("\n")
    if len(text) <= MAX_DOCUMENT_BYTES:
        yield _joined(lines)
        return
    run: list[str] = []
    size, step = 0, MAX_DOCUMENT_BYTES
    for line in chain.from_iterable([line[i : i + step] for i in range(0, len(line) or 1, step)] for line in lines):
        if run and size + len(line) > MAX_DOCUMENT_BYTES:
            counts["cut"] += 1
            counts["read"] += 1
            yield _joined(run)
            run, size = [], 0
        run.append(line)
        size += len(line)
    yield _joined(run)
