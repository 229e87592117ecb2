"""Arrays about large data files that every run can make again: where their rows are, how long these are, which are bad.

They are files in ``indexes`` of the cache folder (:func:`files.cache_folder`), which all runs share. A file's name is a
hash of everything that its content depends on. Files may be deleted at any time; those that were not used for longest
go when all of them need more than :data:`LIMIT`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pivot_jax import files
from pivot_jax.errors import UserError

log = logging.getLogger(__name__)
LIMIT = 2 << 30  # bytes of all files

T = TypeVar("T")


def key(content: Any) -> str:
    """Of plain values: what the arrays depend on, and the version of their layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def path_of(key: str) -> Path:
    return files.cache_folder() / "indexes" / f"{key}.npz"


def load(path: Path, make: Callable[[Mapping[str, np.ndarray]], T]) -> T | None:
    """What ``make`` makes of the stored arrays; None where there are none, or damaged ones.

    ``make`` raises a ValueError for arrays that cannot be those of their key.
    """
    try:
        with np.load(path) as stored:
            return make(stored)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s); it is made again", path, error)
        return None


def used(path: Path) -> None:
    """Notes that a file is needed, so that others are deleted first."""
    with contextlib.suppress(OSError):
        os.utime(path)


def save(path: Path, arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Keeps the arrays for other runs; where they cannot be written there is a warning, which names ``what``."""
    try:
        with files.whole(path) as partial:
            np.savez(partial, allow_pickle=False, **arrays)
    except UserError as error:  # the run does not need the file
        log.warning("%s not kept for other runs: %s", what, error)
        return
    with contextlib.suppress(OSError):  # another run may delete at the same time
        found = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in path.parent.glob("*.npz"))
        total = sum(size for _, size, _ in found)
        for _, size, file in found[:-1]:
            if total > LIMIT:
                file.unlink(missing_ok=True)
                total -= size
