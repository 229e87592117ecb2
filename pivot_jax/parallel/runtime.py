"""Settings of a process for its platform, with the reason for each.

XLA flags: none. On CPUs the vector width, fast-math, oneDNN, XNNPACK and YNNPACK flags of jaxlib 0.10 were tried, and
their effects were within noise. For GPUs and TPUs none has been measured yet, and an unknown flag aborts the process.
"""

from __future__ import annotations

import ctypes
import sys

import jax

from pivot_jax import files
from pivot_jax.parallel import pages

# mallopt(3) of glibc: parameter, value
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_LARGE = 32 << 20  # bytes; glibc takes no larger threshold
_CACHE = "jax_compilation_cache_dir"


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
    """Caches compiled programs of GPUs and TPUs in ``~/.cache/pivot-jax``, unless JAX has a cache folder configured.

    Not on CPUs: a program compiled there is specific to the processor, and machines may share home folders.
    """
    if jax.config.values[_CACHE] is None and jax.default_backend() != "cpu":
        jax.config.update(_CACHE, str(files.cache_folder() / "programs"))
