"""Settings of a process for its platform."""

import os
import subprocess
import sys
from pathlib import Path

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


CACHED = """
import jax, jax.monitoring
import jax.numpy as jnp
from pivot_jax.parallel import runtime
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jnp.ones(3).block_until_ready()  # whatever was compiled before
runtime.cache_programs()
def deep(x):
    for n in range(150):
        x = jnp.sort(jnp.sin(x) @ x) + n
    return x
jax.jit(deep)(jnp.ones((8, 8))).block_until_ready()
print(sum(event.endswith("/cache_hits") for event in events), jax.config.jax_compilation_cache_dir)
"""


def hits_and_folder(tmp_path, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMP", "JAX_PERS"))}
    env = kept | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)} | environment
    done = subprocess.run([sys.executable, "-c", CACHED], env=env, check=True, capture_output=True, text=True)
    assert not done.stderr
    hits, folder = done.stdout.split()
    return int(hits), folder


def test_a_program_is_compiled_once_on_a_machine(tmp_path):
    hits, folder = hits_and_folder(tmp_path)
    assert hits == 0 and folder.startswith(str(tmp_path / "pivot-jax" / "programs" / "cpu-"))
    hits, again = hits_and_folder(tmp_path)
    assert hits and again == folder


def test_a_damaged_program_is_compiled_again(tmp_path):
    _, folder = hits_and_folder(tmp_path)
    for program in Path(folder).glob("*-cache"):
        program.write_bytes(b"damaged")
    assert hits_and_folder(tmp_path) == (0, folder)


def test_a_cache_folder_of_the_user_stays(tmp_path):
    elsewhere = str(tmp_path / "elsewhere")
    assert hits_and_folder(tmp_path, JAX_COMPILATION_CACHE_DIR=elsewhere) == (0, elsewhere)
    assert not (tmp_path / "pivot-jax").exists()


def test_where_no_folder_can_be_made_nothing_is_cached(tmp_path):
    (tmp_path / "pivot-jax").write_text("in the way")
    assert hits_and_folder(tmp_path) == (0, "None")


def test_programs_of_another_processor_are_elsewhere(monkeypatch):
    """Of one with more cores, too: XLA divides the work between them when it compiles."""
    names = {runtime._processor()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(977))
    names.add(runtime._processor())
    monkeypatch.setattr(runtime.Path, "read_text", lambda *_, **__: "model name\t: another\nflags\t\t: fpu avx9\n")
    names.add(runtime._processor())
    assert len(names) == 3


def test_programs_of_accelerators_share_a_folder(monkeypatch, tmp_path):
    """JAX's key of a program names the device, and the driver loads it anywhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    before = {name: getattr(jax.config, name) for name in (runtime._CACHE, runtime._LEAST_SECONDS)}
    jax.config.update(runtime._CACHE, None)
    try:
        runtime.cache_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "pivot-jax" / "programs")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
