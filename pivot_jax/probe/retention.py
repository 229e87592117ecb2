"""What training has done to an encoder's agreement with the text tower that it comes from.

Post-training moves the encoder, and the text tower stays. So zero-shot accuracy and retrieval say how much of what the
encoder was pretrained for is left. Encoders between the original and the trained one (WiSE-FT, Wortsman et al. 2022)
show whether some of it comes back at little cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe.caption_alignment import captioned
from pivot_jax.probe.encoder_probes import labelled_images
from pivot_jax.probe.feature_cache import read_features
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.image_sets import ImageSet
from pivot_jax.probe.zero_shot import TEMPLATE, TextEncoder, classified, retrieved, unit
from pivot_jax.train.open import OpenEncoder

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
POOLED = FeatureSettings(pool="attention")


@dataclass(frozen=True)
class Forgetting:
    """Scores of the encoders between the original (weight 0) and the trained one (weight 1). Shares are 0..1.

    Attributes:
      scores: name → weight → share with its interval; names are ``zero-shot``, ``image to text``, ``text to image``.
      changes: name → weight → difference from the original, paired by image.
      correct: name → weight → bool [n].
    """

    scores: Mapping[str, Mapping[float, Interval]]
    changes: Mapping[str, Mapping[float, Interval]]
    correct: Mapping[str, Mapping[float, np.ndarray]] = field(repr=False)


def forgetting(
    encoder: OpenEncoder,
    original: OpenEncoder,
    text: TextEncoder,
    *,
    classes: str | Path | None = None,
    captions: str | Path | None = None,
    template: str = TEMPLATE,
    weights: Sequence[float] = WEIGHTS,
    k: int = 1,
) -> Forgetting:
    """Scores an encoder, the original, and those between, with the original's text tower.

    Args:
      classes: images of classes, as for ``encoder_probes.classify``; the test split is scored, against the class names
        in the ``template``.
      captions: LLaVA rows with an image each, whose last answer is the caption, for retrieval among all of them.
      weights: of the trained encoder; 0 and 1 are always there.
      k: an image's text, or a text's image, has to be among the k nearest.

    Raises:
      UserError: encoders that differ in architecture, an original without a pooling head, or no data.
    """
    if classes is None and captions is None:
        raise UserError("forgetting: no data; name images of classes, or rows with captions")
    if bad := [weight for weight in weights if not 0 <= weight <= 1]:
        raise UserError(f"forgetting: weight {bad[0]:g} is not between 0 and 1")
    if "{}" not in template:
        raise UserError(f"forgetting: template {template!r} has no {{}} for the class name")
    found: dict[str, dict[float, np.ndarray]] = {}
    for weight in sorted({0.0, 1.0, *weights}):
        for name, correct in _scored(between(original, encoder, weight), text, classes, captions, template, k):
            found.setdefault(name, {})[weight] = correct
    scores, changes = {}, {}
    for name, by_weight in found.items():
        values = {weight: correct.astype(float) for weight, correct in by_weight.items()}
        scores[name] = {weight: statistics.mean(one) for weight, one in values.items()}
        changes[name] = {w: statistics.difference(one, values[0.0]) for w, one in values.items()}
    return Forgetting(scores, changes, found)


def between(original: OpenEncoder, trained: OpenEncoder, weight: float) -> OpenEncoder:
    """The encoder with ``(1 - weight) * original + weight * trained``; parts that only the original has are its own.

    An MLLM does not train the encoder's last block and head, and may not have them.

    Raises:
      UserError: a parameter of the trained encoder that the original lacks, or has in another shape.
    """
    ours, theirs = (rules.flatten(one.params["vision"]) for one in (original, trained))
    for path, array in theirs.items():
        if path not in ours or ours[path].shape != array.shape:
            there = f"has shape {list(ours[path].shape)}" if path in ours else "lacks it"
            raise UserError(
                f"forgetting: vision/{path} of {trained.name} has shape {list(array.shape)}, and {original.name} "
                f"{there}; name the encoder that training started from"
            )
    mixed = {path: (1 - weight) * array + weight * theirs.get(path, array) for path, array in ours.items()}
    name = f"{weight:g} of {trained.name}, {1 - weight:g} of {original.name}"
    return replace(original, name=name, params={"vision": jax.device_put(rules.unflatten(mixed))})


def _scored(
    encoder: OpenEncoder, text: TextEncoder, classes: Any, captions: Any, template: str, k: int
) -> list[tuple[str, np.ndarray]]:
    out = []
    if classes is not None:
        splits, names = labelled_images(classes)
        test = splits["test"]
        texts = text.encode([template.format(name) for name in names])
        out.append(("zero-shot", classified(_vectors(encoder, test.images), texts, np.asarray(test.labels))))
    if captions is not None:
        paths, said = captioned(captions)
        to_text, to_image = retrieved(_vectors(encoder, paths), text.encode(said), k)
        out += [("image to text", to_text), ("text to image", to_image)]
    return out


def _vectors(encoder: OpenEncoder, images: Sequence[Any]) -> np.ndarray:
    return unit(np.asarray(read_features(encoder, ImageSet(images, encoder.geometry), POOLED).values))
