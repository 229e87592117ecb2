"""Folders that take long to make, such as trained runs: made once per session, for the tests of every process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

FOLDER = "PIVOT_TEST_RUNS"


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The shared folder ``name``, filled by ``make`` where no process has done so; the others wait for it.

    Tests read it only: one that changes a run copies it first. Processes of one device and those of eight have folders
    of their own, because a run resumes to the same bits only on the devices that it began on.
    """
    folder = Path(os.environ[FOLDER]) / os.environ["PIVOT_TEST_DEVICES"] / name
    folder.parent.mkdir(exist_ok=True)
    done = folder.with_name(f"{name}.done")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            folder.mkdir(parents=True)
            make(folder)
            done.touch()
    return folder
