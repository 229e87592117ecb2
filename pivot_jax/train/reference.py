"""Reference log-probs of preference pairs: computed once with the starting weights, stored, reused in every epoch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pivot_jax import files, rules
from pivot_jax.errors import UserError
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.mesh import place_batch
from pivot_jax.steps.preference import answer_logps
from pivot_jax.steps.scored import score

FILE = "reference_logps.npz"


def stored(
    module: Any, params: Any, loader: Any, mesh: Mesh, workdir: Path, progress: Any, resumed: bool = False
) -> np.ndarray:
    """float32 [rows, 2]: summed log-probs of chosen and rejected under ``params``.

    Read from ``workdir/reference_logps.npz`` if that was made with the same weights and data, else computed and
    written there. Rows whose image could not be read are NaN; the loader masks them.

    Raises:
      UserError: a run that goes on (``resumed``) has log-probs of other weights; it would change its reference.
    """
    path = workdir / FILE
    fingerprint = hashlib.sha256(json.dumps([weights_hash(params), loader.fingerprint()]).encode()).hexdigest()
    if path.exists():
        with np.load(path) as file:
            if str(file["fingerprint"]) == fingerprint:
                return file["logps"]
        if resumed:
            raise UserError(
                f"{path} belongs to other weights or data than this config starts from now; put back what config.init "
                "and data.sources name, or start a new workdir"
            )
    compute = jax.jit(lambda params, batch: answer_logps(score(module, params, batch), batch))
    logps = np.full((loader.rows, 2), np.nan, np.float32)
    count = -(-loader.rows // loader.batch_size)
    for batch in progress(loader.one_pass(), count, "reference log-probs"):
        placed = place_batch(batch, mesh)
        values = multihost_utils.process_allgather((compute(params, placed), placed.row_index), tiled=True)
        values, index = (np.asarray(x) for x in values)
        logps[index[index >= 0]] = values[index >= 0]
    if is_first():
        with files.whole(path) as partial:
            np.savez(partial, logps=logps, fingerprint=fingerprint)
    return logps


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
