"""A run's encoder: taken out as a pack, and probed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data import scenes
from pivot_jax.data.scenes import World
from pivot_jax.probe import classification, encoder_probes, features, segmentation
from pivot_jax.probe.classification import ProbeResult
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.heads import Training
from pivot_jax.probe.splits import Labelled, Splits
from pivot_jax.study.data import scenes_folder
from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome
from pivot_jax.train.extract import extract as write_pack
from pivot_jax.train.open import open_encoder

BATCH = 100


def extract(task: Task) -> Outcome:
    """Encoder and projector of the run as a pack, ``pack/`` in its folder."""
    return Outcome({"sha256": write_pack(task.folder, task.folder / "pack")["sha256"]})


def class_probe(task: Task) -> Outcome:
    """Classification of images by class, of the encoder's features and of the projector's.

    Settings: ``path``, as ``pivot-jax probe classify --data`` takes it.

    Items: ``class, encoder`` and ``class, projector`` [images].
    """
    encoder = open_encoder(f"pack:{task.folder / 'pack'}")
    items: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    for kind, where in (("encoder", "vision"), ("projector", "projector")):
        settings = FeatureSettings(where=where)
        found = encoder_probes.classify(encoder, Path(task.get("path")), features=settings, seed=task.seed)
        items[f"class, {kind}"] = np.asarray(found.result.correct, bool)
        numbers[f"class, {kind}"] = _numbers(found.result)
    return Outcome(numbers, items)


def scenes_probe(task: Task) -> Outcome:
    """Classification (of the encoder's features, and of the projector's) and segmentation on the images of scenes.

    Settings: ``path``, ``world``, ``heads`` (segmentation heads, each with a seed of its own).

    Items: ``class, encoder`` and ``class, projector`` [images]; ``overlap`` [heads, images, classes, 3].
    """
    encoder = open_encoder(f"pack:{task.folder / 'pack'}")
    world, path = World(**task.get("world")), Path(task.get("path"))
    parts = {name: scenes.probe_split(scenes_folder(path), f"probe_{name}", world) for name in ("train", "val", "test")}
    items: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    for kind, make in (("encoder", features.vit_encoder), ("projector", features.projector_encoder)):
        encode = make(encoder.module)
        patches = {
            name: features.extract(encode, encoder.params, part.images, pool="none", batch_size=BATCH, show=False)
            for name, part in parts.items()
        }
        pooled = Splits(**{name: Labelled(patches[name].mean(axis=1), part.labels) for name, part in parts.items()})
        found = classification.probe(pooled, seed=task.seed)
        items[f"class, {kind}"] = np.asarray(found.correct, bool)
        numbers[f"class, {kind}"] = _numbers(found)
        if kind == "encoder":
            masked = Splits(**{name: Labelled(patches[name], part.masks) for name, part in parts.items()})
            seeds = [100 * task.seed + i for i in range(int(task.get("heads", 2)))]
            classes = ("background", *world.nouns)
            scored = segmentation.probe(masked, classes=classes, seeds=seeds, training=Training(hidden=256))
            items["overlap"] = scored.overlap
            numbers["segment"] = {"miou": scored.miou, "recall": scored.recall, "classes": scored.per_class}
    return Outcome(numbers, items)


def _numbers(found: ProbeResult) -> dict[str, Any]:
    return {"accuracy": found.accuracy, "C": found.C, "flags": found.flags}
