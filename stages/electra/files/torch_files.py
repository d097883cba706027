"""Reads `pytorch_model.bin` without torch, and without running what a pickle says.

A pickle is a program. This one may build dictionaries, and tensors over the file's bytes; whatever else it names is
refused, and so is what would take much more memory than the file is large. Both layouts are read: the zip archive of
torch 1.6 and later, and the stream of pickles before it.
"""

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# A few kilobytes name the tensors of any model; each byte of a pickle can make an object of 200.
_MAX_PICKLE_BYTES = 2 << 20
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary by name.

    Raises:
      ValueError: The file is damaged, holds something else than tensors, or names anything that is not needed for them.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = _read_archive(archive, path.stat().st_size)
        else:
            with path.open("rb") as file:
                found = _read_stream(file, path.stat().st_size)
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, struct.error, TypeError) as error:
        raise ValueError(f"{path}: not weights that torch saved, or damaged: {error}") from error
    except (ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, np.ndarray) for value in found.values()):
        raise ValueError(f"{path}: holds something else than tensors by name")
    return {str(name): np.ascontiguousarray(value) for name, value in found.items()}


class _Storages:
    """The arrays that tensors are views of, by the name that the file gives them."""

    def __init__(self, *, max_bytes: int) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._free_bytes = max_bytes

    def load(self, reference: Any) -> np.ndarray:
        """An array of the size that a reference claims, which the file must have room for; filled later."""
        kind, dtype, name, _, size = reference[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("a reference to something else than a storage")
        if len(reference) > 5 and reference[5] is not None:
            raise pickle.UnpicklingError("a view of another storage, which torch no longer writes")
        if name not in self.arrays:
            self._free_bytes -= size * dtype.itemsize
            if size < 0 or self._free_bytes < 0:
                raise pickle.UnpicklingError("its tensors are larger than the file: it is truncated")
            self.arrays[name] = np.zeros(size, dtype)
        return self.arrays[name]

    def fill(self, name: str, data: bytes) -> None:
        array = self.arrays[name]
        if len(data) != array.nbytes:
            raise pickle.UnpicklingError(f"storage {name} has {len(data)} bytes of {array.nbytes}: it is truncated")
        array[...] = np.frombuffer(data, array.dtype)


class _Bounded:
    """The file of a pickle, which ends with an error where no pickle of weights reaches."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, _MAX_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        self._take(size)
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(self._left + 1)
        self._take(len(line))
        return line

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"its list of tensors takes more than {_MAX_PICKLE_BYTES >> 20} MiB")


class _Unpickler(pickle.Unpickler):
    """Finds what tensors are made of, and nothing else."""

    def __init__(self, file: Any, storages: _Storages | None) -> None:
        super().__init__(_Bounded(file), encoding="utf-8")
        self._storages = storages
        # Made anew for every file, so that no file can change what the next one finds.
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _make_rebuild(),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            **{("torch", name): np.dtype(dtype) for name, dtype in _DTYPES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which weights do not need: refused")
        return self._known[module, name]

    def persistent_load(self, reference: Any) -> np.ndarray:
        if self._storages is None:
            raise pickle.UnpicklingError("a storage where none is expected")
        return self._storages.load(reference)


def _make_rebuild() -> Callable[..., np.ndarray]:
    def rebuild(
        storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> np.ndarray:
        """A view of the storage that stays within it, and is no larger."""
        if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0 or math.prod(shape) > storage.size:
            raise pickle.UnpicklingError(f"a tensor of shape {shape} and strides {strides} over {storage.size} numbers")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.size:
            raise pickle.UnpicklingError(f"a tensor of shape {shape} that reaches beyond its storage")
        strides = tuple(stride * storage.itemsize for stride in strides)
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)

    return rebuild


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise pickle.UnpicklingError("a compressed archive, which torch does not write: save the weights again")
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "data.pkl" not in names:
        raise pickle.UnpicklingError("a zip archive without data.pkl")
    if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
        raise pickle.UnpicklingError("its numbers are big-endian")
    storages = _Storages(max_bytes=size)
    found = _Unpickler(archive.open(names["data.pkl"]), storages).load()
    for name in storages.arrays:
        storages.fill(name, archive.read(names[f"data/{name}"]))
    return found


def _read_stream(file: Any, size: int) -> Any:
    if _Unpickler(file, None).load() != _STREAM_MAGIC:
        raise pickle.UnpicklingError("it begins with another number than torch's")
    _Unpickler(file, None).load()  # version of the protocol
    if not _Unpickler(file, None).load()["little_endian"]:
        raise pickle.UnpicklingError("its numbers are big-endian")
    storages = _Storages(max_bytes=size)
    found = _Unpickler(file, storages).load()
    for name in _Unpickler(file, None).load():
        (count,) = struct.unpack("<q", file.read(8))
        array = storages.arrays[name]
        if count != array.size:
            raise pickle.UnpicklingError(f"storage {name} has {count} numbers, {array.size} were promised")
        storages.fill(name, file.read(array.nbytes))
    return found
