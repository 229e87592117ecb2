"""The safetensors files of a checkpoint folder, opened together and read by rows."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from pivot_jax.errors import UserError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.msgpack", "*.h5")


class Tensor(NamedTuple):
    """Where a tensor is stored."""

    file: str
    dtype: str  # as the header spells it
    shape: tuple[int, ...]
    start: int  # first byte in the file


class Shards:
    """Tensors of a folder by key. Only headers are read until rows are read.

    Rows are read into memory of our own, not mapped: mapped pages would count as this process's until the kernel wants
    them back. Safe for several threads.

    ``names``: the files to open; without them model.safetensors, or the shards that its index names. Use as a context
    manager. The constructor raises UserError for a folder without safetensors, a missing,
    truncated or foreign shard, and a key that is not in the shard that the index names.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ()):
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}
        with contextlib.ExitStack() as guard:
            guard.callback(self.close)
            self._open_all(names)
            guard.pop_all()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    @property
    def keys(self) -> list[str]:
        return list(self._tensors)

    def where(self, key: str) -> str:
        """File that holds the key, for messages."""
        return str(self.folder / self._tensors[key].file)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._tensors[key].shape

    def dtype(self, key: str) -> str:
        """As safetensors spells it: F32, BF16, …"""
        return self._tensors[key].dtype

    def type_of(self, key: str) -> np.dtype:
        """Of a tensor that is not quantised."""
        return np.dtype(FLOATS[self.dtype(key)])

    def bytes_of(self, key: str) -> int:
        return math.prod(self.shape(key)) * self.type_of(key).itemsize

    def check_float(self, key: str) -> None:
        """Raises UserError for a quantised tensor."""
        if self.dtype(key) not in FLOATS:
            raise UserError(
                f"{self.where(key)}: '{key}' is stored as {self.dtype(key)}; quantised checkpoints are not read, "
                "use the original in float32, bfloat16 or float16"
            )

    def whole(self, key: str) -> np.ndarray:
        """A tensor, in the file's type."""
        out = np.empty(self.shape(key), self.type_of(key))
        self.rows(key, 0, out)
        return out

    def rows(self, key: str, start: int, out: np.ndarray) -> None:
        """Fills ``out`` (whole rows, of the file's type) with those from ``start`` on of the tensor's first axis."""
        tensor = self._tensors[key]
        into, file = out.reshape(-1).view(np.uint8).data, self._files[tensor.file]
        first = tensor.start + start * math.prod(tensor.shape[1:]) * out.itemsize
        done = 0
        while done < len(into):
            count = os.preadv(file.fileno(), [into[done:]], first + done)
            if count == 0:
                raise UserError(f"{self.folder / tensor.file} became shorter while it was read; fetch it again")
            done += count

    def _open_all(self, names: Sequence[str]) -> None:
        index = self.folder / INDEX
        if names:
            for name in names:
                self._open(name, "it was named")
        elif index.is_file():
            weight_map = _weight_map(index)
            for name in sorted(set(weight_map.values())):
                self._open(name, f"{INDEX} names it")
            for key, name in weight_map.items():
                if key not in self._tensors or self._tensors[key].file != name:
                    raise UserError(f"{index} says that '{key}' is in {name}, but it is not; fetch both files again")
        else:
            self._open(WHOLE, "")

    def _open(self, name: str, reason: str) -> None:
        path = self.folder / name
        if not path.is_file():
            raise UserError(_missing_file(path, reason))
        try:
            with safe_open(path, framework="np"):  # checks the header and that the file is as long as it says
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is truncated or no safetensors file ({error}); fetch it again") from error
        file = self._files[name] = self._stack.enter_context(path.open("rb"))
        length = int.from_bytes(file.read(8), "little")
        for key, entry in json.loads(file.read(length)).items():
            if key != "__metadata__":
                start = 8 + length + entry["data_offsets"][0]
                self._tensors[key] = Tensor(name, entry["dtype"], tuple(entry["shape"]), start)


def keys_of(folder: Path) -> list[str]:
    """Keys of a folder's tensors; none where it holds no weights (yet)."""
    if not (folder / WHOLE).is_file() and not (folder / INDEX).is_file():
        return []
    with Shards(folder) as shards:
        return shards.keys


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        if not weight_map or not all(isinstance(name, str) and name == Path(name).name for name in weight_map.values()):
            raise ValueError("weight_map does not name files of this folder")
        return weight_map
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{index} is not a shard index ({error!r}); fetch it again") from error


def _missing_file(path: Path, reason: str) -> str:
    if reason:
        return f"{path} is missing ({reason}); fetch it again"
    if ggufs := sorted(p.name for p in path.parent.glob("*.gguf")):
        return f"{path.parent} holds no {path.name}, but {ggufs[0]}: name that file itself"
    other = sorted(p.name for pattern in _OTHER_FORMATS for p in path.parent.glob(pattern))
    found = f"there is {', '.join(other)}: convert it with save_pretrained" if other else "is this a checkpoint folder?"
    return f"{path.parent} holds no {path.name} and no {INDEX}; {found}"
