"""The files of results: numbers, and arrays of single items' scores, as one JSON file each.

They are small enough to be committed, so that a study's report can be written again, and its study continued, where its
checkpoints are gone.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import files
from pivot_jax.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """What a run or a measurement gives.

    Attributes:
      numbers: for people and tables; plain JSON values.
      items: metric → array whose first axis is the items that all arms share (questions, images, pairs), except
        where the metric says otherwise (``results.METRICS``).
    """

    numbers: Mapping[str, Any]
    items: Mapping[str, np.ndarray] = field(default_factory=dict)


def save(path: Path, outcome: Outcome) -> None:
    content = dict(outcome.numbers) | {"items": {name: _packed(array) for name, array in outcome.items.items()}}
    files.write_text(path, json.dumps(content, indent=1))


def load(path: Path) -> Outcome:
    """Raises UserError: not a result."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        items = {name: _unpacked(one) for name, one in content.pop("items").items()}
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise UserError(
            f"{path}: not a result of a study ({error!r:.80}); delete it, and it is computed again"
        ) from None
    return Outcome(content, items)


def _packed(array: np.ndarray) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    data = np.packbits(array).tobytes() if array.dtype == bool else array.tobytes()
    text = base64.b64encode(zlib.compress(data, 9)).decode()
    return {"shape": array.shape, "dtype": str(array.dtype), "data": text}


def _unpacked(packed: Mapping[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(packed["data"]))
    shape, dtype = tuple(packed["shape"]), np.dtype(packed["dtype"])
    if dtype.kind == "b":
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=int(np.prod(shape)))
        return bits.astype(bool).reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape)
