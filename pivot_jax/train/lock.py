"""Keeps a second run out of a workdir that one is training in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pivot_jax.errors import UserError
from pivot_jax.parallel.hosts import is_first

log = logging.getLogger(__name__)
FILE = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(workdir: Path, what: str = "a run is training") -> Iterator[None]:
    """The workdir, made where it is missing, with a lock that the kernel releases however the process ends.

    Process 0 holds it for all. The file stays: only the lock on it counts. A folder that this call made is removed
    where nothing was written to it.

    Args:
      what: begins the error's text.

    Raises:
      UserError: another process has the lock; names its host, its process id and when it began.
    """
    if not is_first():
        yield
        return
    made = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / FILE
    # Not inherited by the processes that a run starts: they may outlive it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, workdir, what)
        yield
    finally:
        if made and workdir.is_dir() and [entry.name for entry in workdir.iterdir()] == [FILE]:
            path.unlink()
            workdir.rmdir()
        os.close(descriptor)


def _take(descriptor: int, workdir: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{workdir}: {what} there already ({_holder(descriptor)}); wait for it, stop it, or name another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        log.warning("%s: its file system has no locks, so nothing keeps a second run out of it", workdir)
        return
    about = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().astimezone().isoformat()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(about).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        about = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {about['pid']} on {about['host']}, since {about['since'][:19].replace('T', ' ')}"
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not written yet who it is
        return "just started"
