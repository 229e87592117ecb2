"""A wheel holds all that the package reads, and works without the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.docs import pages
from tests.tiny.demo import reduce

ROOT = Path(__file__).resolve().parents[1]


def files_of(folder: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because a build leaves files in its folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("pivot_jax", "configs"):
        shutil.copytree(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_every_file_of_the_package_and_every_config(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = files_of("pivot_jax") | {f"pivot_jax/{name}" for name in files_of("configs")}
    assert {name for name in held if ".dist-info/" not in name} == wanted


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs ``pivot-jax …`` of the installed wheel in an empty folder; the dependencies are this environment's."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", str(root / "venv")], check=True)
    python = root / "venv" / "bin" / "python"
    here = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, text=True
    )
    Path(here.stdout.strip(), "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    # pip, too, would take a checkout on PYTHONPATH for the wheel, which has the same version
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIVOT_SHARED_DATA")}
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True, env=environment)
    empty = root / "empty"
    empty.mkdir()

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(root / "venv" / "bin" / "pivot-jax"), *words], cwd=empty, env=environment | more,
            capture_output=True, text=True, timeout=850,
        )  # fmt: skip

    run.folder = empty
    return run


@pytest.mark.heavy
def test_an_installed_wheel_lists_copies_and_runs_its_configs(installed, tmp_path):
    listed = installed("configs")
    assert listed.returncode == 0 and "pivot/stage2_dpo.py" in listed.stdout, listed.stderr
    blocks = [block for block in pages.all_blocks() if block.language == "bash"]
    packaged = re.compile(r"--config (demo|maye|pivot|real)/")  # of these no argument names a file of the reader
    for words in (words for block in blocks for words in pages.commands(block)):
        if words[0] == "train" and packaged.search(" ".join(words)) and "--print-config" not in words:
            shown = installed(*words, "--print-config")
            assert shown.returncode == 0, shown.stderr
    plan = installed("plan", "--config", "pivot/stage1a.py", "--topology", "h200-8", "--config.init={}")
    assert "GiB" in plan.stdout, plan.stderr
    missing = installed("train", "--config", "trial/stage1a.py", "--workdir", "w")
    assert missing.returncode == 1 and "PIVOT_SHARED_DATA is not set" in missing.stderr
    assert installed("configs", "--copy", "demo").returncode == 0
    reduce(installed.folder / "configs" / "demo")
    demo = installed("demo")  # runs/demo, with the edited copy
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert (installed.folder / "runs" / "demo" / "report.html").is_file()
    spec = f"demo/stage1b.py:{installed.folder}/runs/demo/data"
    steps = [
        "--config.train.steps=2",
        "--config.data.batch_size=8",
        "--config.init.=run:runs/demo/cells/dpo,seed3/stage1a",
    ]
    trained = installed("train", "--config", spec, "--workdir", "again", *steps)
    assert trained.returncode == 0 and (installed.folder / "again" / "result.json").is_file(), trained.stderr


@pytest.mark.heavy
def test_an_installed_wheel_trains_on_real_data(installed, shared_data):
    shortened = ["--config.train.steps=2", "--config.data.sources.0.sampling=first:32"]
    trained = installed(
        "train", "--config", "trial/stage1a.py", "--workdir", "trial", *shortened, PIVOT_SHARED_DATA=str(shared_data)
    )
    assert trained.returncode == 0, trained.stderr
