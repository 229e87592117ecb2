"""Huge pages for the memory of a process on Linux, which glibc uses only if its environment says so at the start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"  # 1: madvise(MADV_HUGEPAGE) on what malloc gets from the kernel; since glibc 2.35
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge() -> bool:
    """Whether this process's memory is in huge pages: asked for when it started, and the kernel has them."""
    return f"{_TUNABLE}=1" in os.environ.get(_VARIABLE, "").split(":") and available()


def start_again() -> None:
    """Replaces this process by the same command with huge pages. Returns where it has them, or cannot get them.

    A value of the user's own in GLIBC_TUNABLES (``glibc.malloc.hugetlb=0``) is left as it is. Call before anything is
    imported that takes long.
    """
    before = os.environ.get(_VARIABLE, "")
    if _TUNABLE in before or not available():
        return
    tunables = ":".join(filter(None, (before, f"{_TUNABLE}=1")))
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {_VARIABLE: tunables})


def available() -> bool:
    """Whether C library and kernel have huge pages to give."""
    try:
        library, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        known = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
        return known and "[never]" not in _KERNEL.read_text()
    except (OSError, ValueError, AttributeError):  # another C library or kernel
        return False
