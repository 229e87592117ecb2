"""The demo's measurements of one seed's models: answers, implicit rewards on pairs, probes of the encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from pivot_jax import files
from pivot_jax.data import scenes
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.eval.run import RunOptions, evaluate
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.probe import classification, features, segmentation
from pivot_jax.probe.heads import Training
from pivot_jax.probe.splits import Labelled, Splits
from pivot_jax.study.settings import RUN_OF_ARM, Study
from pivot_jax.train.open import OpenModel, open_encoder, open_run


def answers(study: Study, seed: int, run: str, blank: bool) -> dict[str, Any]:
    """Answers to the test questions, in ``answers/RUN.jsonl``; ``blank`` replaces the images by grey ones."""
    model = open_run(study.folder(seed) / run)
    name = f"{run}_blank" if blank else run
    out = study.folder(seed) / "answers" / f"{name}.jsonl"
    size = model.config.eval.batch_size
    answerer = model.answerer(size, blank_images=blank)
    options = RunOptions(
        model_id=name, max_new_tokens=study.settings.max_new_tokens, ranked=True, chunk=size, show=False
    )
    found = evaluate("scenes", study.data, answerer, out, options)
    kinds = {kind: interval.value for kind, interval in found.by_category.items()}
    return {"accuracy": found.value.value, "ranked": found.secondary["ranked"].value, "kinds": kinds}


def pairs(study: Study, seed: int, arm: str) -> dict[str, Any]:
    """β-scaled log-ratios of an arm to stage 1b on training and unseen pairs, in ``pairs/ARM.npz``."""
    reference, policy = (open_run(study.folder(seed) / RUN_OF_ARM[name]) for name in ("stage1", arm))
    beta = study.config("dpo", seed).objective.beta
    rewards = {split: beta * (_logps(study, policy, split) - _logps(study, reference, split))
               for split in ("preference", "preference_test")}  # fmt: skip
    save_arrays(study.folder(seed) / "pairs" / f"{arm}.npz", rewards)
    margins = {split: values[:, 0] - values[:, 1] for split, values in rewards.items()}
    return {
        split: {"accuracy": float((margin > 0).mean()), "margin": float(margin.mean())}
        for split, margin in margins.items()
    }


def _logps(study: Study, model: OpenModel, split: str) -> np.ndarray:
    """Summed log-probs of chosen and rejected for all pairs of a split: float32 [n, 2]."""
    source = {"format": "tfds", "path": str(study.data), "split": split}
    size = model.config.eval.batch_size
    loader = build_loader(model.config, model.training_processor("preference"), sources=[source], batch_size=size)
    compute = jax.jit(lambda params, batch: answer_logps(score(model.mllm, params, batch), batch))
    found = [(np.asarray(compute(model.params, batch)), batch.row_index) for batch in loader.ordered()]
    return np.concatenate([values[index >= 0] for values, index in found])


def probes(study: Study, seed: int, arm: str) -> dict[str, Any]:
    """Classification (encoder, encoder and projector) and segmentation of an arm's encoder, in ``probes/ARM.npz``."""
    encoder = open_encoder(f"pack:{study.folder(seed) / f'pack_{arm}'}")
    world = study.settings.world
    parts = {name: scenes.probe_split(study.data, f"probe_{name}", world) for name in ("train", "val", "test")}
    kept: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {}
    for kind, make in (("encoder", features.vit_encoder), ("projector", features.projector_encoder)):
        encode = make(encoder.module)
        patches = {
            name: features.extract(encode, encoder.params, part.images, pool="none", batch_size=100, show=False)
            for name, part in parts.items()
        }
        pooled = Splits(**{name: Labelled(patches[name].mean(axis=1), part.labels) for name, part in parts.items()})
        found = classification.probe(pooled, seed=seed)
        kept[f"class_{kind}"] = found.correct
        numbers[f"class_{kind}"] = {"accuracy": found.accuracy, "C": found.C, "flags": found.flags}
        if kind == "encoder":
            masked = Splits(**{name: Labelled(patches[name], part.masks) for name, part in parts.items()})
            classes = ("background", *world.nouns)
            seeds = range(study.settings.segmentation_seeds)
            training = Training(hidden=256)
            scored = segmentation.probe(
                masked, classes=classes, seeds=[100 * seed + i for i in seeds], training=training
            )
            kept |= {"overlap": scored.overlap, "hits": scored.hits}
            numbers["segment"] = {"miou": scored.miou, "recall": scored.recall, "classes": scored.per_class}
    save_arrays(study.folder(seed) / "probes" / f"{arm}.npz", kept)
    return numbers


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays as one ``.npz`` file."""
    with files.whole(path) as partial:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
