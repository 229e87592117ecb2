"""Gradient maps of a run: where the SFT and the DPO loss of the same unseen pairs pull on the image's patches.

At the *same* weights the published contrast would vanish if only the chosen branch were mapped:
DPO's gradient of that branch is a multiple of SFT's. The image is encoded once for both branches, so the map shows
what remains after the rejected branch is subtracted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import files
from pivot_jax.data import scenes
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.probe.gradient_maps import answer_maps
from pivot_jax.probe.localisation import localise
from pivot_jax.study.data import scenes_folder
from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome
from pivot_jax.train.open import OpenModel, open_run

SPLIT = "preference_test"
ATTRIBUTE = {"color": "color", "shape": "shape", "digit": "value", "place": "place"}
PREFERENCE = {"sft": False, "dpo": True}  # at the reference weights DPO's is a multiple of that of -(chosen - rejected)
SCORES = ("hit", "energy", "entropy", "iou")


def gradient_maps(task: Task) -> Outcome:
    """Maps of the losses on pairs of scenes that ask about one object, compared with the object's mask.

    Settings: ``path``, ``pairs`` (how many), ``losses`` (of ``sft`` and ``dpo``).

    Writes the maps [pairs, s, s], images, masks and texts to ``NAME.npz`` in the run's folder.

    Items: ``LOSS: hit``, ``energy``, ``entropy`` and ``iou`` [pairs], and ``area``, the objects' share of the image.
    """
    path = Path(task.get("path"))
    chosen = asked_things(path, int(task.get("pairs")))
    model = open_run(task.folder)
    rows, masks = [row for row, _, _ in chosen], np.stack([mask for _, mask, _ in chosen])
    split = scenes.open_split(scenes_folder(path), SPLIT)
    kept = {
        "masks": masks,
        "texts": np.array([text for _, _, text in chosen]),
        "images": np.stack([split[row]["image"] for row in rows]),
    }
    items = {"area": masks.mean(axis=(1, 2), dtype=np.float32)}
    for loss in task.get("losses"):
        grids = _maps(path, model, rows, PREFERENCE[loss])
        kept[loss] = grids
        found = [localise(grid, mask) for grid, mask in zip(grids, masks, strict=True)]
        items |= {f"{loss}: {name}": np.asarray([getattr(one, name) for one in found], np.float32) for name in SCORES}
    with files.whole(task.folder / f"{task.name}.npz") as partial:
        np.savez_compressed(partial, **kept)  # type: ignore[arg-type]
    numbers: dict[str, Any] = {name: float(values.mean()) for name, values in items.items()}
    return Outcome(numbers, items)


def asked_things(data: Path, count: int) -> list[tuple[int, np.ndarray, str]]:
    """(row, mask bool [H, W], text) of the first ``count`` unseen pairs that ask about exactly one object."""
    out = []
    for row, record in enumerate(scenes.open_split(scenes_folder(data), SPLIT)):
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
        if len(out) == count:
            break
    return out


def _maps(data: Path, model: OpenModel, rows: list[int], preference: bool) -> np.ndarray:
    """Maps of these pairs: float32 [k, s, s]."""
    source = {"format": "tfds", "path": str(scenes_folder(data)), "split": SPLIT}
    loader = build_loader(model.config, model.training_processor("preference"), sources=[source], batch_size=len(rows))
    batch = loader.load(np.asarray(rows), len(loader.buckets) - 1)
    return answer_maps(model.mllm, model.params, batch, preference=preference)
