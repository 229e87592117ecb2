"""The Dockerfiles: hadolint, extras that exist, and no more of a clone than a wheel needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.tiny.launches import check_dockerfile

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch" / "docker"


@pytest.mark.parametrize("accelerator", ["cuda", "tpu"])
def test_dockerfile(accelerator):
    text = (FOLDER / f"{accelerator}.Dockerfile").read_text()
    check_dockerfile(text)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f'"/opt/pivot-jax[{accelerator}]"' in text and accelerator in extras
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == ["python:3.12-slim"]
    # process 1 passes SIGTERM on to pivot-jax, whose arguments follow
    assert 'ENTRYPOINT ["tini", "--", "pivot-jax"]' in text
    kept = re.findall(r"^!(.*)$", (FOLDER / f"{accelerator}.Dockerfile.dockerignore").read_text(), re.MULTILINE)
    # as tests/test_wheel.py builds a wheel
    assert sorted(kept) == ["LICENSE", "README.md", "configs", "pivot_jax", "pyproject.toml", "setup.py"]
    assert all((ROOT / name).exists() for name in kept)
