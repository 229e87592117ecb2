"""Output files: checked before anything is computed, so that a bad path costs a line and not an hour.

A file is replaced only where the same command wrote it, which what it writes says: JSON as ``made_by``, a page as its
generator, an image as its software. A folder has a marker (``files.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pivot_jax import files
from pivot_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

MADE_BY = "made_by"
SOFTWARE = 0x0131  # EXIF's tag
GENERATOR = '<meta name="generator" content="pivot-jax">'  # in the head of report/page.html.jinja


def folder(path: str | Path, option: str) -> Path:
    """The path of a folder that can be written, or created if it is missing. Leaves no file.

    Args:
      option: the option that named it (``--workdir``), for the message.

    Raises:
      UserError: a file is at the path or above it, or nothing can be written there.
    """
    _try(Path(path), Path(path), f"{option} {path}", "name a folder where you may write")
    return Path(path)


def file(name: str | Path, option: str, suffixes: tuple[str, ...] = (), command: str = "") -> Path:
    """The path of a file that can be written; arguments as for :func:`folder`.

    Args:
      command: only a file that it wrote may be there. "": the caller looks at what is there.

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
    if command and os.path.isfile(path) and not wrote(command, path):
        raise not_ours(what, command)
    return path


def not_ours(what: str, command: str) -> UserError:
    return UserError(f"{what} is there, and `{command}` did not write it; name another file, or delete it yourself")


def wrote(command: str, path: Path) -> bool:
    """Whether ``command`` wrote the file: a record, a page or an image. An empty file is nobody's."""
    if not path.stat().st_size:
        return True
    with path.open("rb") as opened:
        head = opened.read(1 << 12)
    if GENERATOR.encode() in head:
        return command == "pivot-jax report"
    if head.lstrip()[:1] in (b"{", b"["):
        return _recorded(path) == command
    return _software(path) == command


def _recorded(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return ""
    first = content[0] if isinstance(content, list) and content else content
    return str(first.get(MADE_BY, "")) if isinstance(first, dict) else ""


def _software(path: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return str(image.getexif().get(SOFTWARE, ""))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return ""


def record(path: str | Path, command: str, content: Any) -> None:
    """Writes a dict, or a list of dicts, as JSON that says which command made it."""
    mark = {MADE_BY: command}
    marked = [mark | one for one in content] if isinstance(content, list) else mark | content
    files.write_text(Path(path), json.dumps(marked, indent=1) + "\n")


def image(path: Path, command: str, pixels: np.ndarray) -> None:
    """Writes an RGB image, uint8 [h, w, 3], that says which command made it."""
    from PIL import Image

    exif = Image.Exif()
    exif[SOFTWARE] = command
    with files.whole(path) as partial:
        Image.fromarray(pixels).save(partial, exif=exif)


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
