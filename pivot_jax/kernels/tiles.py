"""Tile sizes that ``pivot-jax tune`` measured: the file that holds them, and the lookup for a kernel.

The table is a JSON file, ``$PIVOT_TILES`` or else ``pivot-jax/tiles.json`` in ``$XDG_CACHE_HOME`` (``~/.cache``)::

    {"NVIDIA H200": {"pallas_triton": {"<case>": {"tiles": [[128, 64, 4, 3], …], "ms": 1.2, "default_ms": 1.4,
                                                  "jax": "0.11.2"}}}}

A kernel uses the tiles measured on its kind of device, with this version of JAX, for exactly its case. Otherwise it
uses its defaults. The file is read once per process.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.kernels.mask import Ids


class Case(NamedTuple):
    """The properties that decide how fast a tile is, except the numbers of rows and of key/value heads."""

    n: int
    m: int
    group: int  # query heads of a key/value head
    c: int
    dtype: str
    causal: bool
    mask: str  # none | segments | branches

    def __str__(self) -> str:
        order = "causal" if self.causal else "full"
        return f"{self.n}x{self.m} group {self.group} width {self.c} {self.dtype} {order} {self.mask}"


def case_of(q: Any, k: Any, ids: Ids, causal: bool) -> Case:
    """The case of arguments of :func:`pivot_jax.kernels.attention.attention`."""
    return Case(q.shape[1], k.shape[1], q.shape[2] // k.shape[2], q.shape[3], str(q.dtype), causal, ids.kind)


def path() -> Path:
    """The table's file, which need not exist."""
    if os.environ.get("PIVOT_TILES"):
        return Path(os.environ["PIVOT_TILES"])
    return files.cache_folder() / "tiles.json"


def measured(kind: str, backend: str, case: Case) -> list[Any] | None:
    """The tiles measured for the case on this kind of device with this JAX; None if there are none."""
    entry = _table(path()).get(kind, {}).get(backend, {}).get(str(case))
    return entry["tiles"] if entry and entry["jax"] == jax.__version__ else None


def record(kind: str, backend: str, case: Case, entry: dict[str, Any]) -> None:
    """Adds an entry with JAX's version to the file, or replaces it.

    Raises:
      UserError: the file is not a table of tile sizes, or cannot be written.
    """
    file = path()
    table = read(file)
    table.setdefault(kind, {}).setdefault(backend, {})[str(case)] = entry | {"jax": jax.__version__}
    files.write_text(file, json.dumps(table, indent=1, sort_keys=True) + "\n")
    _table.cache_clear()


def read(file: Path) -> dict[str, Any]:
    """The table; empty if there is no file.

    Raises:
      UserError: the file is not one that ``pivot-jax tune`` wrote.
    """
    if not file.exists():
        return {}
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        for kind in table.values():
            for cases in kind.values():
                for entry in cases.values():
                    entry["tiles"][0], entry["jax"]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise UserError(f"{file} is not a table of tile sizes; remove it or set PIVOT_TILES") from None
    return table


_table = functools.cache(read)
