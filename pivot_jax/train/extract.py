"""Extraction: the vision encoder and projector of a run, as a pack that a new MLLM starts from (PIVOT §5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint, pack
from pivot_jax.train.reference import weights_hash
from pivot_jax.train.source import run_config

ENCODER_PARTS = ("vision", "second", "projector")  # they turn images into tokens


def extract(workdir: Path, out: Path, step: int | None = None) -> dict[str, Any]:
    """Writes :data:`ENCODER_PARTS` of a run's checkpoint to the pack ``out`` and returns its description.

    The encoder keeps its last block, final norm and pooling head unchanged (no MLLM stage trains them), so it can be
    exported whole. A run of stage 0 has no projector.

    Raises:
      UserError: no such run or checkpoint, a run without an encoder, or a folder ``out`` that holds something else.
    """
    files.check_folder(out, overwrite=True)
    config = run_config(workdir)
    params = checkpoint.load_run(workdir, step)
    parts: dict[str, Any] = {name: params[name] for name in ENCODER_PARTS if name in params}
    if "vision" not in parts:
        raise UserError(f"{workdir} has no vision encoder (it has: {', '.join(params)})")
    about = {
        "run": config.name,
        "objective": config.objective.name,
        "model": config.model.to_dict(),
        "image": config.data.image.to_dict(),
        "sha256": {name: weights_hash(part) for name, part in parts.items()},
    }
    pack.save(out, parts, about)
    return about
