"""Puts ``configs/`` into wheels, as ``pivot_jax/configs``, and into source distributions. See pyproject.toml."""

from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = sorted(path.as_posix() for kind in ("*.py", "*.jinja") for path in Path("configs").rglob(kind))


class BuildWithConfigs(build_py):
    """An editable install has no copy: the package finds the folder beside it (pivot_jax/config/catalogue.py)."""

    editable_mode: bool

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in CONFIGS:
            target = Path(self.build_lib, "pivot_jax", path)
            self.mkpath(str(target.parent))
            self.copy_file(path, str(target), preserve_mode=False)

    def get_source_files(self) -> list[Any]:
        return [*super().get_source_files(), *CONFIGS]


setup(cmdclass={"build_py": BuildWithConfigs})
