"""Gradient maps of the demo: where the SFT and the DPO loss of the same pairs pull on the image's patches.

Maps of both losses are taken at the *same* weights (stage 1b). There the published contrast would vanish if only the
chosen branch were mapped: DPO's gradient of that branch is a multiple of SFT's. The image is encoded once for both
branches, so the map shows what remains after the rejected branch is subtracted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pivot_jax.data import scenes
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.probe.gradient_maps import answer_maps
from pivot_jax.probe.localisation import localise
from pivot_jax.study.measure import save_arrays
from pivot_jax.study.settings import Study
from pivot_jax.train.open import OpenModel, open_run

# title → (run, preference loss). At the reference weights DPO's gradient is a multiple of that of -(chosen - rejected).
MAPS = {
    "SFT loss at stage 1b": ("stage1b", False),
    "DPO loss at stage 1b": ("stage1b", True),
    "SFT loss after SFT": ("sft", False),
    "DPO loss after DPO": ("dpo", True),
}
ATTRIBUTE = {"color": "color", "shape": "shape", "digit": "value", "place": "place"}


def gradient_maps(study: Study, seed: int) -> dict[str, Any]:
    """Writes :data:`MAPS` [k, s, s], images, object masks and texts to ``maps.npz``, and returns the maps' scores."""
    chosen = asked_things(study)
    models = {run: open_run(study.folder(seed) / run) for run in dict.fromkeys(run for run, _ in MAPS.values())}
    kept: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    masks = np.stack([mask for _, mask, _ in chosen])
    for title, (run, preference) in MAPS.items():
        grids = _maps(study, models[run], [row for row, _, _ in chosen], preference)
        kept[title] = grids
        found = [localise(grid, mask) for grid, mask in zip(grids, masks, strict=True)]
        numbers[title] = {
            "hit": [float(one.hit) for one in found],
            "energy": [one.energy for one in found],
            "entropy": [one.entropy for one in found],
            "iou": [one.iou for one in found],
        }
    numbers["area"] = [float(mask.mean()) for mask in masks]
    texts = np.array([text for _, _, text in chosen])
    images = np.stack([scenes.open_split(study.data, "preference_test")[row]["image"] for row, _, _ in chosen])
    arrays = {"masks": masks, "texts": texts, "images": images, **kept}
    save_arrays(study.folder(seed) / "maps.npz", arrays)
    return numbers


def asked_things(study: Study) -> list[tuple[int, np.ndarray, str]]:
    """(row, mask bool [H, W], text) of unseen pairs that ask about exactly one object."""
    out = []
    for row, record in enumerate(scenes.open_split(study.data, "preference_test")):
        kind, answer = record["kind"].decode(), record["answer"].decode()
        if kind not in ATTRIBUTE:
            continue
        fits = [i for i, thing in enumerate(scenes.things(record)) if str(thing[ATTRIBUTE[kind]]) == answer]
        if len(fits) != 1:
            continue
        mask = record["instances"][..., 0] == fits[0] + 1
        question = record["prompt"].decode().removeprefix("<image>\n")
        if mask.any():
            text = f"{question} {record['chosen'].decode()} / {record['rejected'].decode()}"
            out.append((row, mask, text))
        if len(out) == study.settings.map_pairs:
            break
    return out


def _maps(study: Study, model: OpenModel, rows: list[int], preference: bool) -> np.ndarray:
    """Maps of these pairs: float32 [k, s, s]."""
    source = {"format": "tfds", "path": str(study.data), "split": "preference_test"}
    loader = build_loader(model.config, model.training_processor("preference"), sources=[source], batch_size=len(rows))
    batch = loader.load(np.asarray(rows), len(loader.buckets) - 1)
    return answer_maps(model.mllm, model.params, batch, preference=preference)
