"""Reading the checkpoints of a run (orbax), whole or parameter by parameter; :mod:`.checkpoints` writes them.

A checkpoint holds the train state, its blocks stacked, and, as JSON, everything else that a resumed run needs (data
iterator, running means) and the digests of both. Orbax writes into a temporary folder and renames it, so a killed or
failed save leaves the previous one intact. Whatever is read is compared with its digest (:mod:`.digests`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from pivot_jax import files, rules
from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.hub.tensors import Lazy
from pivot_jax.models import lora
from pivot_jax.parallel.peers import failed_collective
from pivot_jax.train import digests
from pivot_jax.words import counted

log = logging.getLogger(__name__)
PARAMS = ("trained", "frozen")  # the parts of a state that are parameters


class DamagedCheckpoint(UserError):
    """A checkpoint whose files cannot be read, or that holds other values than were saved."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(
            f"checkpoint {folder} is damaged ({reason}); use an earlier one of its run (--step, or run:WORKDIR@STEP), "
            "or resume the run, which continues from the newest undamaged one"
        )
        self.step, self.reason = int(folder.name), reason


def reason(error: BaseException) -> str:
    """Why orbax could not read or write, in one line. Tensorstore's own message is long and names internal files."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).splitlines()[0] if str(error) else repr(error)
    full = any(os.strerror(code).lower() in text.lower() for code in files.FULL)
    return os.strerror(errno.ENOSPC) if full else text[:300]


def load_run(workdir: Path, step: int | None = None, *, merge: bool = True) -> dict[str, Any]:
    """All parameters (trained and frozen) of a run's checkpoint as host arrays.

    Args:
      merge: add LoRA adapters to their kernels; False keeps them as leaves beside the kernels (see ``models.lora``).

    Raises:
      UserError: no checkpoint in ``workdir``, or not that step.
    """
    folder = _folder(workdir, step)
    wanted = {key: tree for key, tree in _metadata(folder).items() if key in PARAMS}
    state = _verified(folder, wanted, read_digests(folder.parent))
    params = rules.unflatten(rules.flatten(state.get("trained", {})) | rules.flatten(state.get("frozen", {})))
    return lora.merged(params) if merge else params


def lazy_run(workdir: Path, step: int | None = None) -> dict[str, Any]:
    """As :func:`load_run`, with ``hub.tensors.Lazy`` leaves, which read and merge a parameter on demand."""
    folder = _folder(workdir, step)
    tree, saved = _metadata(folder), read_digests(folder.parent)
    flat = {path: (part, leaf) for part in PARAMS for path, leaf in rules.flatten(tree[part]).items()}

    def lazy(path: str) -> Lazy:
        names = [path]
        if lora.beside(path, lora.A) in flat and path.endswith(f"/{lora.KERNEL}"):
            names += [lora.beside(path, leaf) for leaf in lora.LEAVES]

        def read() -> Any:
            wanted: dict[str, Any] = {}
            for name in names:
                part, leaf = flat[name]
                wanted.setdefault(part, {})[name] = leaf
            parts = {part: rules.unflatten(leaves) for part, leaves in wanted.items()}
            found = _verified(folder, parts, saved)
            arrays = {name: leaf for part in found.values() for name, leaf in rules.flatten(part).items()}
            return arrays[path] if len(names) == 1 else lora.merge_kernel(*(arrays[name] for name in names))

        return Lazy(tuple(flat[path][1].shape), read)

    return rules.unflatten({path: lazy(path) for path in flat if not lora.is_adapter(path)})


def complete(workdir: Path) -> list[int]:
    """Steps of a run's complete checkpoints. One that is still being written, or never was finished, does not count."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def newest(workdir: Path, step: int | None = None) -> int:
    """The newest complete step of a run, or ``step`` if it is there. Raises as :func:`load_run`."""
    steps = complete(workdir)
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        fix = f" (available: steps {steps}); choose one of them" if steps else paths.instead(workdir, "run")
        raise UserError(f"no {wanted} in {workdir}{fix or '; train that run first'}")
    return steps[-1] if step is None else step


def content_mark(workdir: Path, step: int) -> str:
    """16 hex digits that identify a checkpoint's content, without reading the weights.

    They stay the same when the run is moved or copied, and differ for any other save. The hash is over the index of the
    saved arrays and the names and sizes of their files, which orbax names at random.
    """
    folder = workdir / "checkpoints" / str(step) / "state"
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        if path.name in ("_METADATA", "manifest.ocdbt"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load_tree(folder: Path) -> dict[str, Any]:
    """A saved tree as host arrays."""
    return _restore(folder, metadata(folder))


def metadata(folder: Path) -> dict[str, Any]:
    """A saved tree with orbax's metadata of each array (shape, dtype) as leaves."""
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)  # orbax warns that an item has no metadata of a whole step
    try:
        with ocp.PyTreeCheckpointer() as reader:
            return reader.metadata(folder).item_metadata.tree
    finally:
        absl_logging.set_verbosity(level)


def _folder(workdir: Path, step: int | None) -> Path:
    """The folder of a run's arrays at a step. Raises as :func:`newest`."""
    return (workdir / "checkpoints").absolute() / str(newest(workdir, step)) / "state"


def _metadata(folder: Path) -> dict[str, Any]:
    """As :func:`metadata`, of a checkpoint. Raises DamagedCheckpoint."""
    try:
        return metadata(folder)
    except Exception as error:
        raise unreadable(folder.parent, error) from None


def _restore(folder: Path, wanted: Any) -> dict[str, Any]:
    """The leaves that the metadata tree ``wanted`` names, as host arrays."""
    like = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=like, partial_restore=True)
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore(folder, args=args)


def _verified(folder: Path, wanted: Any, saved: digests.Digests | None) -> dict[str, Any]:
    """As :func:`_restore`, of a checkpoint with these digests, if it has any. Raises DamagedCheckpoint."""
    try:
        found = _restore(folder, wanted)
    except Exception as error:
        raise unreadable(folder.parent, error) from None
    if saved is not None:
        compare(
            folder.parent, {path: saved.arrays.get(path) for path, _ in digests.paths(found)}, digests.of_tree(found)
        )
    return found


def read_digests(folder: Path) -> digests.Digests | None:
    """The digests of a checkpoint; None, with a warning, where it was saved without. Raises DamagedCheckpoint."""
    try:
        found = digests.read(folder)
    except Exception as error:
        raise unreadable(folder, error) from None
    if found is None:
        log.warning("%s has no digests (another version wrote it): it is loaded unverified", folder)
    return found


def unreadable(folder: Path, error: Exception) -> Exception:
    """The error to raise where a checkpoint's files could not be read.

    Orbax and tensorstore raise almost anything on damaged files, a bare Exception among them. What is not damage: too
    little memory, files that only this process cannot read, and other processes that are gone.
    """
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError | UserError) or failed_collective(error):
        return error
    why = reason(error)
    if isinstance(error, AttributeError | TypeError | KeyError):  # orbax's, where a file of its own is gone
        why = "its metadata cannot be read"
    if any(word in str(error).lower() for word in ("permission", "resource_exhausted", "too many open files")):
        return UserError(f"checkpoint {folder} could not be read: {why}")
    return DamagedCheckpoint(folder, why)


def compare(folder: Path, saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises DamagedCheckpoint where arrays differ from their digests."""
    other = sorted(path for path in saved.keys() | found.keys() if saved.get(path) != found.get(path))
    if other:
        differ = f"{len(other)} of {counted(len(found), 'array')} {'differs' if len(other) == 1 else 'differ'}"
        more = ", …" if len(other) > 1 else ""
        raise DamagedCheckpoint(folder, f"{differ} from what was saved: {other[0]}{more}")


def saved_in_newest(workdir: Path) -> dict[str, Any] | None:
    """As :func:`saved_in_run`, of the newest checkpoint that is not damaged; None if all are."""
    for step in reversed(complete(workdir)):
        with contextlib.suppress(DamagedCheckpoint):
            return saved_in_run(workdir, step)
    return None


def saved_in_run(workdir: Path, step: int) -> dict[str, Any]:
    """Path → orbax's metadata (shape, dtype) of each saved parameter, adapters included; reads no weights."""
    tree = _metadata(_folder(workdir, step))
    return {path: leaf for part in PARAMS for path, leaf in rules.flatten(tree[part]).items()}
