"""The list of MAYE's recipes, found from their folder, and the arguments that they take."""

from __future__ import annotations

import re
import runpy

from pivot_jax.config import catalogue

FOLDER = catalogue.folder() / "maye"
RECIPES = sorted(path.name for path in FOLDER.glob("*.py") if "common" not in path.name)
MODELS: dict[str, str] = runpy.run_path(str(FOLDER / "model_common.py"))["MODELS"]
_VARIANTS = ("", *runpy.run_path(str(FOLDER / "common.py"))["VARIANTS"], "parity")
# The argument that a recipe's docstring names → words that may stand for it, beside the model.
_WORDS = {"MODEL,VARIANT": _VARIANTS, "MODEL,rejection": ("", "rejection"), "MODEL": ("",), "DATA": ("",)}


def words(recipe: str) -> tuple[str, ...]:
    """Every word that the recipe takes besides a model, "" for none."""
    return _WORDS[_argument(recipe)]


def of_qwen(recipe: str) -> bool:
    """Whether the recipe trains one of ``MODELS``; else the tiny model of the ablation."""
    return _argument(recipe).startswith("MODEL")


def _argument(recipe: str) -> str:
    (entry,) = (one for one in catalogue.entries() if one.name == f"maye/{recipe}")
    found = re.match(r"[\w,]*\w", entry.argument)
    assert found, f"{recipe} names no argument"
    return found[0]
