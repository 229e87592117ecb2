"""The safetensors files of a checkpoint folder, opened together and read by slices."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pivot_jax.errors import UserError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = {"F64", "F32", "F16", "BF16"}
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.msgpack", "*.gguf", "*.h5")


class Shards:
    """Tensors of a folder by key. Only headers are read until a slice is asked for.

    ``names``: the files to open; without them model.safetensors, or the shards that its index names. Use as a context
    manager. The constructor raises UserError for a folder without safetensors, a missing,
    truncated or foreign shard, and a key that the index places in a shard that does not hold it.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ()):
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self.file_of: dict[str, str] = {}
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
        return list(self.file_of)

    def where(self, key: str) -> str:
        """File that holds the key, for messages."""
        return str(self.folder / self.file_of[key])

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._slice(key).get_shape())

    def check_float(self, key: str) -> None:
        """Raises UserError for a quantised tensor."""
        dtype = self._slice(key).get_dtype()
        if dtype not in _FLOATS:
            raise UserError(
                f"{self.where(key)}: '{key}' is stored as {dtype}; quantised checkpoints are not read, "
                "use the original in float32, bfloat16 or float16"
            )

    def read(self, key: str, index: Sequence[slice]) -> np.ndarray:
        """The part of a tensor that ``index`` (one slice per axis) covers."""
        if not index:
            return self._files[self.file_of[key]].get_tensor(key)
        return self._slice(key)[tuple(index)]

    def _slice(self, key: str) -> Any:
        return self._files[self.file_of[key]].get_slice(key)

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
                if self.file_of.get(key) != name:
                    raise UserError(f"{index} places '{key}' in {name}, which does not hold it; fetch both files again")
        else:
            self._open(WHOLE, "")

    def _open(self, name: str, reason: str) -> None:
        path = self.folder / name
        if not path.is_file():
            raise UserError(_missing_file(path, reason))
        try:
            file = self._stack.enter_context(safe_open(path, framework="np"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is truncated or no safetensors file ({error}); fetch it again") from error
        self._files[name] = file
        self.file_of.update(dict.fromkeys(file.keys(), name))


def keys_of(folder: Path) -> list[str]:
    """Keys of a folder's tensors; none where it holds no weights (yet)."""
    if not (folder / WHOLE).is_file() and not (folder / INDEX).is_file():
        return []
    with Shards(folder) as shards:
        return shards.keys


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{index} is not a shard index ({error!r}); fetch it again") from error


def _missing_file(path: Path, reason: str) -> str:
    if reason:
        return f"{path} is missing ({reason}); fetch it again"
    other = sorted(p.name for pattern in _OTHER_FORMATS for p in path.parent.glob(pattern))
    found = f"there is {', '.join(other)}: convert it with save_pretrained" if other else "is this a checkpoint folder?"
    return f"{path.parent} holds no {WHOLE} and no {INDEX}; {found}"
