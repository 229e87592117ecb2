"""Robustness: a probe that was fitted on clean images, scored on changed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pivot_jax.data.processing.corruptions import LEVELS, Corruption
from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe import classification
from pivot_jax.probe.classification import ProbeSettings
from pivot_jax.probe.encoder_probes import LOGISTIC, VISION, labelled_features, labelled_images
from pivot_jax.probe.feature_cache import read_features
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.image_sets import Change, ImageSet
from pivot_jax.probe.splits import Labelled, Splits
from pivot_jax.train.open import OpenEncoder, OpenModel


@dataclass(frozen=True)
class Robust:
    """Accuracy of one probe on the test images and on changes of them. Shares are 0..1.

    Attributes:
      clean: with its interval over images.
      changed: (kind, level) → accuracy with its interval.
      drops: (kind, level) → accuracy minus the clean one, paired by image.
      correct: (kind, level) → bool [n_test], for comparisons between encoders; the clean ones are at ("clean", 0).
      chosen, flags: of the probe.
    """

    clean: Interval
    changed: Mapping[tuple[str, float], Interval]
    drops: Mapping[tuple[str, float], Interval]
    correct: Mapping[tuple[str, float], np.ndarray] = field(repr=False)
    chosen: str = ""
    flags: tuple[str, ...] = ()


def robustness(
    encoder: OpenEncoder | OpenModel,
    data: str | Path,
    *,
    features: FeatureSettings = VISION,
    settings: ProbeSettings = LOGISTIC,
    levels: Mapping[str, Sequence[float]] = LEVELS,
    per_class: int = 0,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Robust:
    """Fits and chooses on clean images as ``encoder_probes.classify``, whose arguments these are.

    Args:
      levels: of each kind of ``corruptions.LEVELS``.
      seed: also of what is random in a change.

    Raises:
      UserError: as ``classify``; or a choice on the reported images, which are changed here.
    """
    if settings.choose_on_test:
        raise UserError("robustness: chooses on clean images that are not reported; leave out choose_on_test")
    splits, _ = labelled_images(data, per_class, seed)
    parts = labelled_features(encoder, features, splits, cache)
    test = splits["test"].whole or splits["test"]
    found = {("clean", 0.0): np.asarray(parts["test"].features)}
    for kind, level in ((kind, level) for kind, own in levels.items() for level in own):
        corruption = Corruption(kind, level, seed)
        images = ImageSet(test.images, encoder.geometry, test.fingerprint, Change(str(corruption), corruption))
        values = read_features(encoder, images, features, cache, label=f"{kind} {level:g}").values
        found[kind, level] = np.asarray(values if splits["test"].rows is None else values[splits["test"].rows])
    # one test set of all conditions: the probe is fitted once
    labels = np.tile(np.asarray(parts["test"].labels), len(found))
    together = Labelled(np.concatenate(list(found.values())), labels)
    result = classification.run(Splits(parts["train"], parts["val"], together), settings, seed=seed)
    correct = dict(zip(found, result.correct.reshape(len(found), -1), strict=True))
    clean = correct["clean", 0.0].astype(float)
    others = {name: one.astype(float) for name, one in correct.items() if name[0] != "clean"}
    return Robust(
        statistics.mean(clean, seed=seed),
        {name: statistics.mean(one, seed=seed) for name, one in others.items()},
        {name: statistics.difference(one, clean, seed=seed) for name, one in others.items()},
        correct, result.chosen, result.flags,
    )  # fmt: skip
