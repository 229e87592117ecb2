"""Packs: a folder with some parts of a model (``params/``, orbax) and their description (``pack.json``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from pivot_jax import files, rules
from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint

AGAIN = "write the pack again with `pivot-jax extract` or `pivot-jax import-hf`"


def save(folder: Path, params: dict[str, Any], about: dict[str, Any]) -> None:
    """Writes parameters and their description. An earlier pack at ``folder`` is replaced once the new one is complete.

    Raises:
      UserError: ``folder`` holds anything else (:func:`files.check_folder`), or it could not be written.
    """
    with files.whole_folder(folder, overwrite=True) as partial:
        try:
            with ocp.StandardCheckpointer() as writer:
                writer.save((partial / "params").absolute(), params)
        except ValueError as error:  # orbax turns a failed write into this
            raise UserError(f"{folder} could not be written: {checkpoint.reason(error)}; {files.FIX}") from error
        (partial / "pack.json").write_text(json.dumps(about, indent=1, sort_keys=True))


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters as host arrays, description).

    Raises:
      UserError: no pack at ``folder``, or a broken description.
    """
    about = describe(folder)
    return checkpoint.load_tree((folder / "params").absolute()), about


def saved(folder: Path) -> dict[str, Any]:
    """Path → orbax's metadata (shape, dtype) of each parameter; reads no weights. Raises as :func:`load`."""
    describe(folder)
    return rules.flatten(checkpoint.metadata((folder / "params").absolute()))


def describe(folder: Path) -> dict[str, Any]:
    """The content of ``pack.json``. Raises as :func:`load`."""
    if not (folder / "pack.json").is_file():
        fix = paths.instead(folder, "pack") or "; write one with `pivot-jax extract`"
        raise UserError(f"no pack at {folder} (pack.json is missing){fix}")
    try:
        about = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / 'pack.json'} is not JSON ({error}); {AGAIN}") from None
    if not isinstance(about, dict):
        raise UserError(f"{folder / 'pack.json'} holds {type(about).__name__}, not an object; {AGAIN}")
    return about
