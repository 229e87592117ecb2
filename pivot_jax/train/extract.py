"""Extraction: the vision encoder and projector of a run, as a pack that a new MLLM starts from (PIVOT §5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax import files
from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint
from pivot_jax.train.reference import weights_hash

ENCODER_ROOMS = ("vision", "second", "projector")  # what turns pictures into tokens


def extract(workdir: Path, out: Path, step: int | None = None) -> dict[str, Any]:
    """Writes :data:`ENCODER_ROOMS` of a run's checkpoint to the pack ``out`` and returns its description.

    The encoder keeps its last block, closing norm and pooling head as they were (no stage of an MLLM trains them),
    so that it can be exported whole. A run of stage 0 has no projector.

    Raises:
      UserError: no such run or checkpoint, a run without an encoder, or a place that holds something else.
    """
    files.check_folder(out, overwrite=True)
    run_config = read_config(workdir)
    params = checkpoint.load_run(workdir, step)
    parts: dict[str, Any] = {name: params[name] for name in ENCODER_ROOMS if name in params}
    if "vision" not in parts:
        raise UserError(f"{workdir} has no vision encoder (it has: {', '.join(params)})")
    about = {
        "run": run_config.name,
        "objective": run_config.objective.name,
        "model": run_config.model.to_dict(),
        "image": run_config.data.image.to_dict(),
        "sha256": {name: weights_hash(part) for name, part in parts.items()},
    }
    checkpoint.save_pack(out, parts, about)
    return about


def read_config(workdir: Path) -> Any:
    """The config that a workdir was made with.

    Raises:
      UserError: no run there.
    """
    path = workdir / "config.json"
    if not path.is_file() or paths.kind_of(workdir) == "hf":
        lacks = "" if path.is_file() else " (config.json is missing)"
        raise UserError(f"{workdir} is no run's workdir{lacks}{paths.instead(workdir, 'run')}")
    return configs.from_json(path.read_text())
