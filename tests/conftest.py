"""Shared fixtures and the settings of JAX. Compiled programs are cached between runs.

Tests have one CPU device; those of ``*_mesh.py`` files have eight, which stand in for a pod (see mesh_process.py).
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
_DEVICES = os.environ.setdefault("PIVOT_TEST_DEVICES", "1")
# Compiling is most of the tests' time: LLVM's optimiser is left out, which halves it and changes no semantics.
_FLAGS = f"--xla_force_host_platform_device_count={_DEVICES} --xla_backend_optimization_level=0"
# Eight devices on two busy cores can take longer to meet than the 40 seconds after which XLA aborts the process.
_FLAGS += " --xla_cpu_collective_call_terminate_timeout_seconds=300"
# XLA runs independent collectives of one device at once, each holding a thread of a pool that is by default as large as
# the device count. Eight devices that wait in different collectives then wait for ever; a larger pool leaves threads.
os.environ.setdefault("NPROC", "64")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tracing makes millions of small objects that live on. Looking through them after every 700 new ones, Python's default,
# costs a tenth of all tests' time.
gc.set_threshold(100_000, 50, 100)

import pytest

from tests import mesh_process
from tests.tiny import commands, runs

ROOT = Path(__file__).resolve().parents[1]


# A worker takes a file after the other (`--dist loadfile`): those that take longest go first, so that no worker is left
# alone at the end.
LONG_FIRST = (
    "study/test_run.py", "objectives/test_preference_step.py", "train/test_resume.py", "rl/test_loop.py",
    "train/test_stages.py", "parallel/test_training_mesh.py", "kernels/test_attention.py", "rl/test_ppo.py",
    "plan/test_plan.py", "train/test_layer_leaves.py", "test_cli_commands.py", "train/test_session.py",
    "models/test_parity_vision.py", "notebooks/test_notebooks.py", "test_bad_inputs.py",
    # only under `make test-all`
    "docs/test_pages_run.py", "torture/test_studies.py", "rl/test_maye_recipe_runs.py", "study/test_shift.py",
    "study/test_cluster.py", "train/test_packed_runs_mesh.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """The process that the user started makes the folder of shared runs; workers and children inherit it."""
    mesh_process.install(config)
    if runs.FOLDER not in os.environ:
        os.environ[runs.FOLDER] = folder = tempfile.mkdtemp(prefix="pivot-runs-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: Counter[tuple[Path, str]] = Counter()
    for item in items:
        mark, test = item.get_closest_marker("heavy_after"), (item.path, getattr(item, "originalname", item.name))
        if mark is not None and cases[test] >= mark.args[0]:
            item.add_marker(pytest.mark.heavy)
        cases[test] += 1

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        return LONG_FIRST.index(path) if path in LONG_FIRST else len(LONG_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and texts, or a skip that says where it was looked for."""
    path = Path(os.environ.get("PIVOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real data not at {path} (set PIVOT_SHARED_DATA)")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for the commands, and a run of three steps in ``run``: a copy, which the module's tests may change."""
    return commands.world(tmp_path_factory)


@pytest.fixture(scope="module")
def trained(world: Path) -> Path:
    """The run's folder."""
    return world / "run"
