"""What a measurement gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax.errors import UserError


@dataclass(frozen=True)
class Task:
    """A measurement of a finished run.

    Attributes:
      folder: the run's workdir. What there is to look at besides numbers goes there.
      name: of the measurement, unique among those of the run.
      settings: those of the study's file, with folders in the place of ``{…}``.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]

    @cached_property
    def config(self) -> Any:
        return configs.from_file(self.folder / "config.json")

    @property
    def seed(self) -> int:
        return int(self.config.seed)

    def get(self, key: str, default: Any = None) -> Any:
        """A setting. Raises UserError: it is missing, and there is no ``default``."""
        if key not in self.settings and default is None:
            raise UserError(f"measures.{self.name}: '{key}' is missing")
        return self.settings.get(key, default)
