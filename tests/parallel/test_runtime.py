"""Settings of a process for its platform."""

import os
import subprocess
import sys

import jax
import pytest

from pivot_jax.parallel import runtime

STEPS = """
import resource, sys
import numpy as np
from pivot_jax.parallel import runtime
assert sys.argv[1] == "plain" or runtime.keep_freed_memory()
np.ones(8 << 20)
begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(8 << 20)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc is on Linux only")
def test_freed_memory_is_kept_for_the_next_step():
    """Page faults of three allocations after the first: all pages with glibc's defaults, almost none with ours."""

    def faults(how: str) -> int:
        env = os.environ | {"JAX_PLATFORMS": "cpu", "NUMPY_MADVISE_HUGEPAGE": "0"}
        out = subprocess.run([sys.executable, "-c", STEPS, how], env=env, check=True, capture_output=True, text=True)
        return int(out.stdout)

    assert faults("plain") > 40_000  # pages of 4 KiB
    assert faults("kept") < 500


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
