"""Files as their ending says: .gz, .bz2, .xz and .zst are decompressed while they are read."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from upath import UPath

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
# A byte of zstd can stand for 32 KiB, so this much of a file is unpacked at a time.
_ZSTD_INPUT_BYTES = 1 << 11


def split_suffixes(name: str) -> tuple[str, str]:
    """Format and compression suffix of a file name, lower case; empty where there is none.

    >>> split_suffixes("Wiki.TXT.gz")
    ('.txt', '.gz')
    """
    name = name.lower()
    compression = next((end for end in COMPRESSIONS if name.endswith(end)), "")
    return os.path.splitext(name.removesuffix(compression))[1], compression


@contextmanager
def open_decompressed(path: UPath, compression: str) -> Iterator[IO[bytes]]:
    """Opens a file of one of `COMPRESSIONS`, or a plain one ("").

    Raises:
      ValueError: Also while it is read: the file is damaged.
    """
    import zstandard

    readers: dict[str, Callable[[IO[bytes]], Any]] = {
        # What reads from elsewhere knows no line of a bounded length.
        "": lambda raw: raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, 1 << 20),
        ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": lambda raw: io.BufferedReader(_ZstdFile(raw), 1 << 20),
    }
    damaged = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
    with cast(IO[bytes], path.open("rb")) as raw:
        try:
            yield readers[compression](raw)
        except damaged as error:
            if isinstance(error, OSError) and (error.errno is not None or not compression):
                raise  # the storage's, not gzip's or bz2's
            raise ValueError(f"{path}: damaged or cut off: {error}; fetch it again") from error


class _ZstdFile(io.RawIOBase):
    """Decompresses all frames (pzstd writes several). zstandard's own stream takes a cut-off file for a whole one."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._input = self._output = b""
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        import zstandard

        while not self._output:
            self._input = self._input or self._raw.read(_ZSTD_INPUT_BYTES)
            if not self._input:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the last frame has no end")
                return 0
            if self._frame is None or self._frame.eof:
                # Corpora are compressed with windows of up to 2 GiB (zstd --long=31).
                self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            self._output = self._frame.decompress(self._input)
            self._input = self._frame.unused_data
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
