"""Files that are written whole or not at all: neither a kill nor a full disk leaves half of one, or none."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from pivot_jax.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
MEND = "free disk space and run the same command again"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; what was written there takes ``path``'s place at the end.

    Raises:
      UserError: it could not be written; ``path`` is then as it was.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")  # the same ending: np.savez adds its own to others
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise not_written(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Puts ``text`` in the file's place. Raises as :func:`whole`."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def not_written(path: Path, error: OSError) -> UserError:
    """One line for a failed write."""
    mend = f"; {MEND}" if error.errno in FULL else ""
    return UserError(f"{path} could not be written ({error.strerror or error}){mend}")
