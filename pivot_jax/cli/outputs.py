"""Checks of output paths before anything is computed, so that a bad path costs a line and not an hour."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pivot_jax.errors import UserError


def folder(path: str | Path, option: str) -> Path:
    """The path of a folder that can be written, or created if it is missing. Leaves no file.

    Args:
      option: the option that named it (``--workdir``), for the message.

    Raises:
      UserError: a file is at the path or above it, or nothing can be written there.
    """
    _try(Path(path), Path(path), f"{option} {path}", "name a folder where you may write")
    return Path(path)


def file(name: str | Path, option: str, suffixes: tuple[str, ...] = ()) -> Path:
    """The path of a file that can be written; arguments as for :func:`folder`.

    Raises:
      UserError: as for :func:`folder`, and for a name that ends in none of ``suffixes``.
    """
    path, what = Path(name), f"{option} {name}"
    if os.path.isdir(path):
        raise UserError(f"{what} is a folder; name a file")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise UserError(f"{what} is a file that may not be written; name another")
    if os.path.isfile(path) or not os.path.exists(path):  # anything else is a device, such as /dev/stdout
        _try(path, path.parent, what, "name a file in a folder where you may write")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{what}: images are written as {', '.join(suffixes)}; end the name with one of them")
    return path


def _try(path: Path, inside: Path, what: str, fix: str) -> None:
    """Creates and removes a folder in ``inside``, or in the nearest existing folder above it."""
    above = inside
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not os.path.isdir(above):
        where = "is" if above == path else f"cannot be made: {above} is"
        raise UserError(f"{what} {where} {'a file' if os.path.exists(above) else 'a broken link'}; {fix}")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # raises for a name that is too long
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=above))
    except OSError as error:
        raise UserError(
            f"{what} cannot be written (nothing can be created in {above}: {error.strerror}); {fix}"
        ) from error
