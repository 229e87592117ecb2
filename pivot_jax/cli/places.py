"""Places that a command will write to, tried before it computes anything: a bad one costs a line and not an hour."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pivot_jax.errors import UserError


def folder(path: str | Path, option: str) -> Path:
    """The path of a folder that can be written, or be made where it does not exist yet. Leaves nothing behind.

    Args:
      option: what named it (``--workdir``), for the message.

    Raises:
      UserError: a file stands there or above it, or nothing can be written there.
    """
    _try(Path(path), Path(path), f"{option} {path}", "name a folder where you may write")
    return Path(path)


def file(path: str | Path, option: str, suffixes: tuple[str, ...] = ()) -> Path:
    """The path of a file that can be written; as :func:`folder`.

    Raises:
      UserError: also for another ending than ``suffixes``.
    """
    place, what = Path(path), f"{option} {path}"
    if os.path.isdir(place):
        raise UserError(f"{what} is a folder; name a file")
    if os.path.exists(place) and not os.access(place, os.W_OK):
        raise UserError(f"{what} is a file that may not be written; name another")
    if os.path.isfile(place) or not os.path.exists(place):  # else a device, such as /dev/stdout
        _try(place, place.parent, what, "name a file in a folder where you may write")
    if suffixes and place.suffix.lower() not in suffixes:
        raise UserError(f"{what}: pictures are written as {', '.join(suffixes)}; end the name with one of them")
    return place


def _try(place: Path, inside: Path, what: str, mend: str) -> None:
    """Makes and removes a folder in the nearest folder above that exists, ``inside`` itself if it does."""
    above = inside
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not os.path.isdir(above):
        where = "is" if above == place else f"cannot be made: {above} is"
        raise UserError(f"{what} {where} {'a file' if os.path.exists(above) else 'a broken link'}; {mend}")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(place)  # a name that is too long shows here
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=above))
    except OSError as error:
        raise UserError(
            f"{what} cannot be written (nothing can be made in {above}: {error.strerror}); {mend}"
        ) from error
