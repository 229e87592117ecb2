"""The entry point of the group ``lmms_eval.models``: where lmms-eval finds the classes of its model ``pivot_jax``."""

from __future__ import annotations

from typing import Any

CLASSES = "pivot_jax.adapters.lmms_eval"


def manifest() -> Any:
    """The description of ``--model pivot_jax``. It imports no JAX: every run of lmms-eval asks for it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("pivot_jax", f"{CLASSES}.PivotJaxSimple", f"{CLASSES}.PivotJax")
