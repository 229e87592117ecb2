"""Files of rows as they are on disk: their content decompressed, and how a change of it is noticed."""

from __future__ import annotations

import gzip
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pivot_jax.errors import UserError

READ_CHUNK = 1 << 24  # bytes


def file_fingerprint(path: str | Path) -> str:
    """Path, size and modification time: cheap, and different whenever the file was rewritten."""
    stat = os.stat(path)
    return f"{Path(path).resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def open_plain(path: Path) -> IO[bytes]:
    """The file's content, decompressed where its name says so; lives as long as what reads it."""
    if path.suffix not in COMPRESSED:
        return open(path, "rb")
    plain: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        COMPRESSED[path.suffix](path, plain)
    except Exception as error:  # each library raises its own
        plain.close()
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno):  # such as a full disk
            raise
        raise UserError(f"{path}: not a whole {path.suffix} file ({error}); fetch it again") from None
    plain.seek(0)
    return plain


def _gunzip(path: Path, plain: IO[bytes]) -> None:
    with gzip.open(path) as packed:
        shutil.copyfileobj(packed, plain, READ_CHUNK)


def _unzstd(path: Path, plain: IO[bytes]) -> None:
    """By frames: the library's own file reader takes a file that is cut within one for a whole file."""
    decompressor = optional("zstandard", path).ZstdDecompressor()
    with open(path, "rb") as packed:
        frame = decompressor.decompressobj()
        while chunk := packed.read(READ_CHUNK):
            while chunk:
                frame = decompressor.decompressobj() if frame.eof else frame
                plain.write(frame.decompress(chunk))
                chunk = frame.unused_data
    if not frame.eof:
        raise EOFError("it ends within a frame")


COMPRESSED: dict[str, Callable[[Path, IO[bytes]], None]] = {".gz": _gunzip, ".zst": _unzstd}


def plain_suffix(path: Path) -> str:
    """The suffix without that of a compression: ``.tsv`` of ``a.tsv.gz``."""
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def optional(module: str, path: str | Path) -> Any:
    """A module of a package that not every installation has. Raises UserError that names the package."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{path}: reading it needs '{module.split('.')[0]}'; install it or convert to .jsonl") from None
