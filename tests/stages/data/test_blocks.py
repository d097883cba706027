"""Text files are read in blocks; where these end changes no document, no count and no error."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from cluster.storage import StoredFile
from stages.data import documents
from stages.data.documents import Errors, read_documents

PIECES = [
    b"word ",
    b"two words",
    "é日\U0001f600".encode(),
    b"\n",
    b"\n",
    b"\n\n",
    b"\n\n\n\n",
    b" \n",
    b"\r\n",
    b"\r\n\r\n",
]
PIECES += [b"\t", "\u3000\n".encode(), "\n\u3000\n".encode(), b"\n \t\n", b"\x1c", b"\r", "\ufeff".encode()]
BROKEN = [b"\xff", b"\xc3", "日".encode()[:2]]


def _text(seed: int, *, broken: bool) -> bytes:
    draw = random.Random(seed)
    pieces = [*PIECES, *(BROKEN if broken else [])]
    mark = draw.choice([b"", b"", "\ufeff".encode()])
    return mark + b"".join(draw.choice(pieces) for _ in range(draw.randint(0, 60)))


def _naive(data: bytes, errors: Errors) -> tuple[list[str], dict[str, int]]:
    """All lines at once."""
    counts: Counter[str] = Counter()
    found: list[str] = []
    lines: list[str | None] = []
    replaced = False
    for line in [*data.removeprefix("\ufeff".encode()).split(b"\n"), b""]:
        try:
            text: str | None = line.decode()
        except UnicodeDecodeError:
            text = None if errors is Errors.SKIP else line.decode(errors="replace")
            replaced |= text is not None
        if text is None or text.strip():
            lines.append(None if text is None else text.strip())
        elif lines:
            counts["read"] += 1
            counts["undecodable"] += None in lines
            counts["replaced"] += replaced
            found += [] if None in lines else ["\n".join(line for line in lines if line is not None)]
            lines, replaced = [], False
    return found, dict(+counts)


def _read(folder: Path, data: bytes, errors: Errors) -> tuple[list[str], dict[str, int]]:
    (folder / "a.txt").write_bytes(data)
    file = StoredFile(location=str(folder / "a.txt"), size=len(data))
    counts: Counter[str] = Counter()
    found = list(read_documents(file, text_field="text", errors=errors, counts=counts))
    return found, dict(+counts)


@pytest.mark.parametrize("errors", [Errors.REPLACE, Errors.SKIP])
@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_documents_are_those_of_the_lines(tmp_path, monkeypatch, block: int, errors: Errors) -> None:
    monkeypatch.setattr(documents, "_BLOCK_BYTES", block)
    for seed in range(150):
        data = _text(seed, broken=seed % 2 == 1)
        assert _read(tmp_path, data, errors) == _naive(data, errors), data


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_error_is_where_it_is(tmp_path, monkeypatch, block: int) -> None:
    monkeypatch.setattr(documents, "_BLOCK_BYTES", block)
    num_errors = 0
    for seed in range(100):
        data = _text(seed, broken=True)
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            place = f"a.txt: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}) is not"
            with pytest.raises(ValueError, match=re.escape(place)):
                _read(tmp_path, data, Errors.STOP)
            num_errors += 1
    assert num_errors > 50


@pytest.mark.parametrize("limit", [10, 20])
@pytest.mark.parametrize("errors", [Errors.REPLACE, Errors.SKIP])
def test_long_documents_are_cut_where_they_are_line_by_line(tmp_path, monkeypatch, limit: int, errors: Errors) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", limit)
    texts = [_text(seed, broken=seed % 2 == 1) for seed in range(150)]
    found = []
    for block in (1, 33, 1 << 20):
        monkeypatch.setattr(documents, "_BLOCK_BYTES", block)
        found.append([_read(tmp_path, data, errors) for data in texts])
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", limit)
    monkeypatch.setattr(documents._TextFile, "read_documents", _no_documents)
    by_lines = [_read(tmp_path, data, errors) for data in texts]
    assert found == [by_lines] * 3
    assert sum(counts.get("cut", 0) for _, counts in by_lines) > 20


def _no_documents(file: documents._TextFile, limit: int) -> bytes | None:
    """Everything is to be read line by line."""
    if file._at == len(file._data):
        file._data, file._at = file._stream.read(1), 0
    return b"" if file._data else None
