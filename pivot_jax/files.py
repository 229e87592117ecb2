"""Atomic writes: a file or folder is written completely or not at all, whatever kills the process or fills the disk.

A folder is replaced only if it holds nothing but files that we wrote. :data:`MARKER` in it lists them, so no file of
the user's is ever deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pivot_jax.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
FIX = "free disk space and run the same command again"
MARKER = ".pivot-jax.json"  # in a folder: the files that a command wrote there
_HASHED = 16 << 20  # bytes; larger files are recognised by their size alone


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It replaces ``path`` when the block ends without an error.

    The folder is created if it is missing. A device, such as ``/dev/stdout``, is written to directly.

    Raises:
      UserError: it could not be written. ``path`` is then unchanged.
    """
    if _is_device(path):
        yield path
        return
    # Several processes may write the same file. The ending stays, because np.savez adds its own to any other.
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """``pivot-jax`` in ``$XDG_CACHE_HOME`` or ``~/.cache``: what every run can make again, and may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pivot-jax"


def _is_device(path: Path) -> bool:
    return path.exists() and (not path.is_file() or path.is_relative_to("/dev"))


def write_text(path: Path, text: str) -> None:
    """Replaces the file's content with ``text``. Raises as :func:`whole`."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def not_written(path: Path, error: OSError) -> UserError:
    """The one-line error for a failed write."""
    fix = f"; {FIX}" if error.errno in FULL else ""
    return UserError(f"{path} could not be written ({error.strerror or error}){fix}")


@contextlib.contextmanager
def whole_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder to write to. It replaces ``folder`` when the block ends without an error.

    Args:
      overwrite: an earlier folder may be replaced if it holds only files that this function wrote.

    Raises:
      UserError: as :func:`check_folder`, or the folder could not be written. ``folder`` is then unchanged.
    """
    check_folder(folder, overwrite=overwrite)
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
        yield partial
        _mark(partial)
        partial.chmod(0o755)
        _replace(partial, folder)
    except OSError as error:
        raise not_written(folder, error) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raises UserError where :func:`whole_folder` may not write: a file, or a folder with any other content."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    written = _written(folder)
    if written is None:
        raise UserError(f"{folder} is not empty and was not written by this command; choose another folder")
    if not overwrite:
        raise UserError(f"{folder} is not empty; choose another folder, or add --overwrite (overwrite=True)")
    changed = [name for name, path in _files_in(folder) if written.get(name) != _recognise(path)]
    if changed:
        raise UserError(
            f"{folder} holds files that this command did not write or that were changed since "
            f"({', '.join(changed[:3])}); move them away, or choose another folder"
        )


def _files_in(folder: Path) -> list[tuple[str, Path]]:
    """(relative name, path) of everything in the folder except the marker. An empty folder counts as an entry."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir() or _is_empty(path)]
    return [(name, path) for path in found if (name := path.relative_to(folder).as_posix()) != MARKER]


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def _recognise(path: Path) -> str:
    """A file's size and, if it is small, its hash; "folder" for an empty folder. We never write links."""
    if path.is_symlink():
        return "link"
    if path.is_dir():
        return "folder"
    size = path.stat().st_size
    return f"{size} {hashlib.sha256(path.read_bytes()).hexdigest()}" if size <= _HASHED else str(size)


def _mark(folder: Path) -> None:
    written = {name: _recognise(path) for name, path in _files_in(folder)}
    (folder / MARKER).write_text(json.dumps({"written": written}, indent=1), encoding="utf-8")


def _written(folder: Path) -> dict[str, str] | None:
    """The files that the folder's marker lists; None without a readable marker."""
    try:
        return dict(json.loads((folder / MARKER).read_text(encoding="utf-8"))["written"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _replace(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(new, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    os.replace(folder, old)  # an empty folder may be replaced
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
