"""Reference log-probs of preference pairs: computed once with the starting weights, stored, reused in every epoch."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pivot_jax import files, rules
from pivot_jax.errors import UserError
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.mesh import place_batch

FILE = "reference_logps.npz"
UNFINISHED = "reference_logps.unfinished.npz"
KEEP_EVERY_S = 60.0


def stored(
    module: Any, params: Any, loader: Any, mesh: Mesh, workdir: Path, progress: Any, resumed: bool = False
) -> np.ndarray:
    """float32 [rows, 2]: summed log-probs of chosen and rejected under ``params``.

    Read from ``workdir/reference_logps.npz`` if that was made with the same weights and data, else computed and
    written there. What was computed is kept every :data:`KEEP_EVERY_S` seconds, so that a killed pass goes on where it
    was. Rows whose image could not be read are NaN; the loader masks them.

    Raises:
      UserError: a run that goes on (``resumed``) has log-probs of other weights; it would change its reference.
    """
    path, unfinished = workdir / FILE, workdir / UNFINISHED
    fingerprint = hashlib.sha256(json.dumps([weights_hash(params), loader.fingerprint()]).encode()).hexdigest()
    if (kept := _read(path, fingerprint)) is not None:
        return kept[0]
    if resumed and path.exists():
        raise UserError(
            f"{path} belongs to other weights or data than this config starts from now; put back what config.init "
            "and data.sources name, or start a new workdir"
        )
    compute = jax.jit(lambda params, batch: answer_logps(score(module, params, batch), batch))
    logps, done = _read(unfinished, fingerprint) or (np.full((loader.rows, 2), np.nan, np.float32), 0)
    left = -(-loader.rows // loader.batch_size) - done
    kept_at = time.monotonic()
    for batch in progress(loader.one_pass(done), left, "reference log-probs"):
        placed = place_batch(batch, mesh)
        values = multihost_utils.process_allgather((compute(params, placed), placed.row_index), tiled=True)
        values, index = (np.asarray(x) for x in values)
        logps[index[index >= 0]] = values[index >= 0]
        done += 1
        if is_first() and time.monotonic() - kept_at >= KEEP_EVERY_S:
            _write(unfinished, fingerprint, logps, done)
            kept_at = time.monotonic()
    if is_first():
        _write(path, fingerprint, logps, done)
        unfinished.unlink(missing_ok=True)
    return logps


def _read(path: Path, fingerprint: str) -> tuple[np.ndarray, int] | None:
    """Log-probs and the number of batches that they are of; None if the file is not there or of something else."""
    if not path.exists():
        return None
    with np.load(path) as file:
        return (file["logps"], int(file.get("batches", 0))) if str(file["fingerprint"]) == fingerprint else None


def _write(path: Path, fingerprint: str, logps: np.ndarray, batches: int) -> None:
    with files.whole(path) as partial:
        np.savez(partial, logps=logps, fingerprint=fingerprint, batches=batches)


def weights_hash(params: Any) -> str:
    """SHA-256 over paths and values; equal exactly if the parameters are bit-identical."""
    digest = hashlib.sha256()
    for path, leaf in sorted(rules.flatten(params).items()):
        digest.update(path.encode())
        whole = (
            leaf if getattr(leaf, "is_fully_addressable", True) else multihost_utils.process_allgather(leaf, tiled=True)
        )
        digest.update(np.ascontiguousarray(np.asarray(whole)).tobytes())
    return digest.hexdigest()
