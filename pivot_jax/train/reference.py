"""Reference log-probs of preference pairs: computed once with the starting weights, stored, reused in every epoch."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pivot_jax import files, rules
from pivot_jax.errors import UserError
from pivot_jax.models import lora
from pivot_jax.models.logprobs import score
from pivot_jax.models.stacking import Layers
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.mesh import place_batch

FILE = "reference_logps.npz"
UNFINISHED = "reference_logps.unfinished.npz"
KEEP_EVERY_S = 60.0


def copied(starting: Any) -> Any:
    """Arrays of its own for the reference model, without adapters: a step donates the buffers of the train state."""
    return jax.tree.map(lambda x: x.copy(), lora.base(starting))


def stored(
    module: Any, params: Any, loader: Any, mesh: Mesh, workdir: Path, progress: Any, resumed: bool = False
) -> np.ndarray:
    """Log-probs of all scored targets under ``params``, row after row: float32 [``loader.target_offsets[-1]``].

    Read from ``workdir/reference_logps.npz`` if that was made with the same weights and data, else computed and
    written there. Results are saved every :data:`KEEP_EVERY_S` seconds, and a killed pass resumes from it.
    Rows whose image could not be read are NaN; the loader masks them.

    Raises:
      UserError: a resumed run has log-probs of other weights; it would change its reference.
    """
    path, unfinished = workdir / FILE, workdir / UNFINISHED
    fingerprint = hashlib.sha256(json.dumps([weights_hash(params), loader.fingerprint()]).encode()).hexdigest()
    kept = _read(path)
    if kept is not None and kept.fingerprint == fingerprint and kept.logps is not None:
        return kept.logps
    if resumed and kept is not None and kept.fingerprint != fingerprint:
        raise UserError(
            f"{path} belongs to other weights or data than this config starts from now; put back what config.init "
            "and data.sources name, or start a new workdir"
        )
    compute = jax.jit(lambda params, batch: score(module, params, batch).logps)
    offsets = loader.target_offsets
    logps, done = np.full(offsets[-1], np.nan, np.float32), 0
    begun = _read(unfinished)
    if begun is not None and begun.fingerprint == fingerprint and begun.logps is not None:
        logps, done = begun.logps, begun.batches
    left = -(-loader.rows // loader.batch_size) - done
    kept_at = time.monotonic()
    for batch in progress(loader.one_pass(done), left, "reference log-probs"):
        placed = place_batch(batch, mesh)
        parts = compute(params, placed), placed.weights, placed.row_index
        values, weights, index = (np.asarray(x) for x in multihost_utils.process_allgather(parts, tiled=True))
        # The targets of a sequence are those of its rows, in order and without gaps; a masked row has none.
        rows = index[index >= 0]
        logps[_positions(offsets, rows)] = values[weights > 0]
        done += 1
        if is_first() and time.monotonic() - kept_at >= KEEP_EVERY_S:
            _write(unfinished, Stored(fingerprint, logps, done), offsets)
            kept_at = time.monotonic()
    if is_first():
        _write(path, Stored(fingerprint, logps, done), offsets)
        unfinished.unlink(missing_ok=True)
    return logps


def _positions(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the targets of ``rows`` are in an array of all targets, row after row."""
    return np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows] or [np.zeros(0, np.int64)])


class Stored(NamedTuple):
    """Content of a file of log-probs."""

    fingerprint: str  # of the weights and the data that they belong to
    logps: np.ndarray | None  # float32 [targets]; None in a file of an earlier version, which held sums per answer
    batches: int  # finished batches of ``Loader.one_pass``


def _read(path: Path) -> Stored | None:
    """Content of a file; None if there is none."""
    if not path.exists():
        return None
    with np.load(path) as file:
        logps = file["logps"] if "offsets" in file else None
        return Stored(str(file["fingerprint"]), logps, int(file.get("batches", 0)))


def _write(path: Path, content: Stored, offsets: np.ndarray) -> None:
    """``offsets`` int64 [rows + 1]: row i has the log-probs from offsets[i] to offsets[i + 1]."""
    with files.whole(path) as partial:
        np.savez(partial, **content._asdict(), offsets=offsets)


def weights_hash(params: Any) -> str:
    """SHA-256 over paths and values; equal exactly if the parameters are bit-identical, stacked or a leaf per layer."""
    digest = hashlib.sha256()
    for path, leaf in sorted(rules.flatten(params).items(), key=lambda item: item[0]):
        digest.update(path.encode())
        for array in leaf if isinstance(leaf, Layers) else (leaf,):  # the bytes of layers are those of their stack
            shared = not getattr(array, "is_fully_addressable", True)
            whole = multihost_utils.process_allgather(array, tiled=True) if shared else array
            digest.update(np.ascontiguousarray(np.asarray(whole)).tobytes())
    return digest.hexdigest()
