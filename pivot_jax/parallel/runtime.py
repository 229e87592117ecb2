"""Settings of a process for its platform, with the reason for each.

XLA flags: none. On CPUs the vector width, fast-math, oneDNN, XNNPACK and YNNPACK flags of jaxlib 0.10 were tried, and
their effects were within noise. For GPUs and TPUs none has been measured yet, and an unknown flag aborts the process.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
import warnings
from pathlib import Path

import jax

from pivot_jax import files
from pivot_jax.parallel import pages

# mallopt(3) of glibc: parameter, value
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_LARGE = 32 << 20  # bytes; glibc takes no larger threshold
_CACHE, _LEAST_SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
_WORTH_KEEPING_S = 0.2  # of compiling; JAX's default is a second, longer than any program of a small model takes


def keep_freed_memory() -> bool:
    """Makes the C library reuse memory or take it in huge pages, so that the kernel need not clear it page by page.

    XLA's CPU client allocates its temporaries again in every step. glibc returns blocks of that size to the kernel,
    which then clears the pages of 4 KiB that the next step requests: a fifth of a small model's step. In huge pages
    (:mod:`pivot_jax.parallel.pages`) that costs 1 to 5 %, so large blocks go back to the kernel and only small ones are
    kept. Without huge pages everything is kept. That costs no time, but may hold a step's temporaries up to four times:
    glibc widens an aligned request, so a freed block rarely fits the next one. The memory of a GPU or TPU is not
    affected. Call before JAX starts its threads.

    Returns:
      False where the C library is not glibc; nothing changes then.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    large = {_MMAP_THRESHOLD: _LARGE} if pages.huge() else {_MMAP_MAX: 0}
    wanted = large | {_ARENA_MAX: 1, _TRIM_THRESHOLD: -1}
    return all(mallopt(parameter, value) for parameter, value in wanted.items())


def cache_programs() -> None:
    """Caches compiled programs in ``~/.cache/pivot-jax/programs``, unless JAX has a cache folder configured.

    A process that compiles what an earlier one did then reads it instead: a command given again, the seeds of a study.
    Those of CPUs are in a folder per kind of processor, because they use its instructions and machines may share home
    folders. Where the folder cannot be made, nothing is cached.
    """
    if jax.config.values[_CACHE] is not None:
        return
    folder = files.cache_folder() / "programs"
    if jax.default_backend() == "cpu":
        folder /= f"cpu-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that is read-only or full
        return
    # JAX compiles a program that it cannot read or keep, so nobody has to do anything.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update(_CACHE, str(folder))
    jax.config.update(_LEAST_SECONDS, _WORTH_KEEPING_S)


def _processor() -> str:
    """A name for what a program of a CPU depends on: its instructions, and the cores between which work is divided."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        kind = sorted({line for line in told if line.partition("\t")[0].strip() in ("model name", "flags", "Features")})
        cores = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # not Linux: home folders are seldom shared there, but may be
        kind, cores = [platform.node(), platform.processor()], os.cpu_count() or 1
    return hashlib.sha256("\n".join([platform.machine(), *kind, str(cores)]).encode()).hexdigest()[:12]
