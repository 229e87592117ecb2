"""What lmms-eval finds in the entry-point group ``lmms_eval.models``: where the classes of its model ``pivot_jax`` are."""

from __future__ import annotations

from typing import Any

CLASSES = "pivot_jax.adapters.lmms_eval"


def manifest() -> Any:
    """The description of ``--model pivot_jax``. Neither JAX nor PyTorch is imported for it: every lmms-eval calls it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("pivot_jax", f"{CLASSES}.PivotJaxSimple", f"{CLASSES}.PivotJax")
