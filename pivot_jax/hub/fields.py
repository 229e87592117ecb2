"""Values of a JSON object, with defaults and with errors that name file and key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.config import paths
from pivot_jax.errors import UserError

_SIZE = re.compile(r"^num_(channels|patches|.*_(layers|heads))$|_size$")


class Fields:
    """One JSON object with its defaults; every error names file and key."""

    def __init__(self, raw: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        self.raw, self.defaults, self.where = raw, defaults, where

    def fail(self, key: str, reason: str) -> UserError:
        return UserError(f"{self.where}: '{key}' {reason}")

    def __getitem__(self, key: str) -> Any:
        default = self.defaults[key]
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not type(default):
            raise self.fail(key, f"is {value!r}; expected {type(default).__name__}")
        if type(value) is int and value < 1 <= default and _SIZE.search(key):
            raise self.fail(key, f"is {value}; a model needs at least 1")
        return value

    def side(self, key: str) -> int:
        """A length, or a square [height, width]."""
        value = self.raw.get(key)
        if isinstance(value, list):
            if len(set(value)) != 1 or not isinstance(value[0], int):
                raise self.fail(key, f"is {value!r}; only squares are supported")
            return value[0]
        return self[key]

    def only(self, key: str, value: Any) -> None:
        """Raises unless the key has the one value that our model computes."""
        if self[key] != value:
            raise self.fail(key, f"is {self[key]!r}; only {value!r} is supported")


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        fix = paths.instead(path.parent, "hf") or f"; is {path.parent} a Hugging Face model folder?"
        raise UserError(f"{path} is missing{fix}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds {type(raw).__name__}, expected a JSON object")
    return raw


def section(raw: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    section = raw.get(key)
    if not isinstance(section, dict):
        raise UserError(f"{path}: '{key}' is {section!r}; expected an object")
    return section


def checked(where: str, kind: Any, **values: Any) -> Any:
    """Builds a dataclass; its own errors get the file's name."""
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
