"""Settings of a process for its platform."""

import os
import subprocess
import sys

import jax
import pytest

from pivot_jax.parallel import pages, runtime

STEPS = """
import resource, sys
import numpy as np
from pivot_jax.parallel import runtime
assert sys.argv[1] == "plain" or runtime.keep_freed_memory()
def used():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
np.ones(8 << 20)
begin, before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, used()
for _ in range(3):
    np.ones(8 << 20)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
held = [np.ones(8 << 20) for _ in range(8)]
del held
print(used() - before)
"""
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc is on Linux only")
HUGE = pytest.mark.skipif(not pages.available(), reason="no huge pages: an older glibc, or the kernel's are off")
TUNABLE = "glibc.malloc.hugetlb=1"


def python(code: str, *arguments: str, tunables: str = "") -> str:
    """What a process prints whose environment has these GLIBC_TUNABLES."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "NUMPY_MADVISE_HUGEPAGE": "0", "GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


@LINUX
def test_freed_memory_is_kept_for_the_next_step():
    """Page faults of three allocations after the first: all pages with glibc's defaults, almost none with ours."""
    assert int(python(STEPS, "plain").split()[0]) > 40_000  # pages of 4 KiB
    assert int(python(STEPS, "kept").split()[0]) < 500


@HUGE
def test_with_huge_pages_nothing_large_is_kept():
    """As few page faults, and 512 MiB that were freed are the kernel's again."""
    faults, more = map(int, python(STEPS, "kept", tunables=TUNABLE).split())
    assert faults < 4_000 and more < 64  # up to 512 small pages at the ends of each block
    assert int(python(STEPS, "kept").split()[1]) > 300


@HUGE
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", TUNABLE),
        ("glibc.malloc.tcache_count=3", f"glibc.malloc.tcache_count=3:{TUNABLE}"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        (TUNABLE, TUNABLE),
    ],
)
def test_a_process_starts_again_with_huge_pages(before, after):
    """Once, with its arguments; a value of the user's own is left."""
    code = (
        "import os, sys; from pivot_jax.parallel import pages; print('begun', flush=True); pages.start_again(); "
        "print(os.environ['GLIBC_TUNABLES'], pages.huge(), *sys.argv[1:])"
    )
    lines = python(code, "--one", "two words", tunables=before).splitlines()
    assert lines[-1] == f"{after} {TUNABLE in after} --one two words"
    assert len(lines) - 1 == (1 if before == after else 2)


@pytest.mark.parametrize(
    ("backend", "configured", "default"), [("gpu", None, True), ("cpu", None, False), ("gpu", "/elsewhere", False)]
)
def test_programs_are_cached_for_accelerators(monkeypatch, tmp_path, backend, configured, default):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", configured)
    try:
        runtime.cache_programs()
        found = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found == (str(tmp_path / "pivot-jax" / "programs") if default else configured)
