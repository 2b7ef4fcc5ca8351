"""A checkpoint's tensors as NumPy arrays, read without torch.

What ``torch.save`` writes is a ZIP archive: one pickle, which names storages, and one uncompressed entry a storage.
The pickle is read by an unpickler that knows what a state dict is made of and refuses every other name, so no code of a
file runs; a tensor is read when it is asked for.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

_DTYPES = {  # of torch's storages; a bfloat16 is the upper half of a float32
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class Storage:
    """Where the numbers of one or more tensors lie.

    Args:
        entry: name of the archive's entry.
        kind: torch's name of the storage's class.
        count: numbers in it.
    """

    entry: str
    kind: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet.

    Args:
        storage: which it is a view of.
        offset: of its first number in the storage.
        shape, strides: in numbers.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Weights:
    """An opened checkpoint; see `open_weights`.

    Args:
        archive: the file.
        path: its path, for messages.

    Attributes:
        values: name -> `StoredTensor` or plain value, as the state dict has them.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive, self._path = archive, path
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("no pickle of torch")
        self._folder = pickles[0].removesuffix("data.pkl")
        order = self._folder + "byteorder"
        self._order = ">" if order in archive.namelist() and archive.read(order) == b"big" else "<"
        with archive.open(pickles[0]) as file:
            self.values: dict[str, Any] = _StateUnpickler(file).load()

    def read(self, name: str) -> Any:
        """Return a value of the state dict, each tensor in it as a new array of its shape and dtype.

        A bfloat16 tensor is returned as float32, which holds all its values.

        Raises:
            ValueError: there is none of that name, or the file is damaged.
        """
        if name not in self.values:
            raise ValueError(f"checkpoint {self._path} has no {name}")
        try:
            return self._read(self.values[name])
        except (KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise _unsafe(self._path, type(error).__name__) from error

    def _read(self, value: Any) -> Any:
        if isinstance(value, StoredTensor):
            return self._array(value)
        if isinstance(value, dict):
            return {key: self._read(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._read(part) for part in value)
        return value

    def _array(self, tensor: StoredTensor) -> np.ndarray:
        storage, dtype = tensor.storage, np.dtype(self._order + _DTYPES[tensor.storage.kind])
        content = self._archive.read(f"{self._folder}data/{storage.entry}")
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        inside = min(tensor.offset, *tensor.shape, *tensor.strides, 0) == 0 and (
            0 in tensor.shape or last < storage.count
        )
        if len(content) != storage.count * dtype.itemsize or not inside:
            raise _unsafe(self._path, "a tensor lies beyond its storage")
        if 0 in tensor.shape:
            view = np.empty(tensor.shape, dtype)
        else:
            flat = np.frombuffer(content, dtype)[tensor.offset :]
            view = as_strided(flat, tensor.shape, [step * dtype.itemsize for step in tensor.strides], writeable=False)
        array = np.array(view, dtype.newbyteorder("="), order="C")
        return (array.astype(np.uint32) << 16).view(np.float32) if storage.kind == "BFloat16Storage" else array


@contextmanager
def open_weights(path: str | Path) -> Iterator[Weights]:
    """Open a checkpoint that ``torch.save`` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a state dict that reads safely; what it names beside tensors and plain values is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: train one with configs/train.json, or give --ckpt_path an existing file"
        )
    with path.open("rb") as file:
        try:
            weights = Weights(zipfile.ZipFile(file), path)
        except _NotAllowed as error:
            raise _unsafe(path, str(error)) from error
        except Exception as error:  # whatever a damaged pickle makes of itself
            raise _unsafe(path, type(error).__name__) from error
        if not isinstance(weights.values, dict):
            raise ValueError(f"checkpoint {path} holds a {type(weights.values).__name__}, not a state dict")
        yield weights


def _unsafe(path: Path, reason: str) -> ValueError:
    return ValueError(f"checkpoint {path} cannot be read safely ({reason}); is it a whole file?")


class _NotAllowed(pickle.UnpicklingError):
    """A name that no state dict has."""


class _StateUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Bound methods and strings: nothing that a pickle could change for others.
        if module == "torch" and name in _DTYPES:
            return name
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
        }
        if (module, name) not in known:
            raise _NotAllowed(f"it names {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        what, kind, entry, _, count = pid
        if what != "storage" or kind not in _DTYPES:
            raise _NotAllowed(f"it names a {what} of {kind}")
        return Storage(str(entry), kind, int(count))

    def _tensor(
        self, storage: Storage, offset: int, shape: Any, strides: Any, gradient: bool, hooks: Any, more: Any = None
    ) -> StoredTensor:
        if not isinstance(storage, Storage):
            raise _NotAllowed(f"a tensor of {type(storage).__name__}")
        if more:  # such as that it is to be read with the other sign
            raise _NotAllowed(f"a tensor that is {', '.join(map(str, more))}")
        return StoredTensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))

    def _parameter(self, tensor: StoredTensor, *_: Any) -> StoredTensor:
        return tensor
