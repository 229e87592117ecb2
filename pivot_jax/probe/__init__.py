"""Probes of an encoder: ``classify``, ``robustness``, ``segment``, ``align``, ``forgetting`` (with the text tower of
``open_text_encoder``), ``depth`` and ``correspondence`` (on ``scene_views``); of a model ``gradmap`` and ``gradients``.

``MapSettings`` are those of a ``gradmap``; ``overlay`` shows it, ``object_mask`` and ``localise`` score it.
``difference`` compares two encoders by their results of ``classify`` or ``segment``, image by image.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "align": ("caption_alignment", "align"),
    "correspondence": ("scene_geometry", "correspondence"),
    "depth": ("scene_geometry", "depth"),
    "classify": ("encoder_probes", "classify"),
    "difference": ("comparison", "difference"),
    "MapSettings": ("gradient_maps", "MapSettings"),
    "FeatureSettings": ("feature_settings", "FeatureSettings"),
    "forgetting": ("retention", "forgetting"),
    "HeadTraining": ("heads", "Training"),
    "gradients": ("encoder_gradients", "encoder_gradients"),
    "gradmap": ("gradient_maps", "question_map"),
    "localise": ("localisation", "localise"),
    "object_mask": ("localisation", "object_mask"),
    "ProbeSettings": ("classification", "ProbeSettings"),
    "SegmentSettings": ("segmentation", "SegmentSettings"),
    "open_text_encoder": ("zero_shot", "open_text_encoder"),
    "overlay": ("gradient_maps", "overlay"),
    "robustness": ("robust_accuracy", "robustness"),
    "scene_views": ("scene_geometry", "scene_views"),
    "segment": ("encoder_probes", "segment"),
}


def __getattr__(name: str) -> Any:  # imported on first use, so that `import pivot_jax` stays fast
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, function = _PUBLIC[name]
    return getattr(import_module(f"{__name__}.{module}"), function)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
