"""Settings of a process for its platform, with the reason for each.

XLA flags: none. On CPUs the vector width, fast-math, oneDNN, XNNPACK and YNNPACK flags of jaxlib 0.10 were tried, and
their effects were within noise. For GPUs and TPUs none has been measured yet, and an unknown flag aborts the process.
"""

from __future__ import annotations

import ctypes
import sys

import jax

from pivot_jax import files

# mallopt(3) of glibc: parameter, value
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_CACHE = "jax_compilation_cache_dir"


def keep_freed_memory() -> bool:
    """Makes the C library keep memory that a step frees, for the next step. Call before JAX starts its threads.

    XLA's CPU client allocates its temporaries again in every step. glibc returns blocks of that size to the kernel,
    which then clears the pages that the next step requests: a fifth of a small model's step. This does not affect the
    memory of a GPU or TPU.

    Returns:
      False where the C library is not glibc; nothing changes then.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    wanted = {_MMAP_MAX: 0, _ARENA_MAX: 1, _TRIM_THRESHOLD: -1}
    return all(mallopt(parameter, value) for parameter, value in wanted.items())


def cache_programs() -> None:
    """Caches compiled programs of GPUs and TPUs in ``~/.cache/pivot-jax``, unless JAX has a cache folder configured.

    Not on CPUs: a program compiled there is specific to the processor, and machines may share home folders.
    """
    if jax.config.values[_CACHE] is None and jax.default_backend() != "cpu":
        jax.config.update(_CACHE, str(files.cache_folder() / "programs"))
