"""Checkpoints of a run (orbax): written while it trains, read whole or parameter by parameter.

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
from jax.experimental import multihost_utils

from pivot_jax import files, rules
from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.hub.tensors import Lazy
from pivot_jax.models import lora, stacking
from pivot_jax.parallel.hosts import is_first
from pivot_jax.train import digests

log = logging.getLogger(__name__)
PARAMS = ("trained", "frozen")  # the parts of a state that are parameters
DAMAGED = "damaged"  # folder of a workdir: checkpoints that were set aside


class DamagedCheckpoint(UserError):
    """A checkpoint whose files cannot be read, or that holds other values than were saved."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(
            f"checkpoint {folder} is damaged ({reason}); use an earlier one of its run (run:WORKDIR@STEP), or run "
            "`pivot-jax train` in its workdir again, which continues from the newest undamaged one"
        )
        self.step, self.reason = int(folder.name), reason


class Checkpoints:
    """The ``checkpoints/`` folder of a workdir: the newest ``keep``, and the best by a metric if one is named."""

    def __init__(self, workdir: Path, *, keep: int = 2, best_metric: str = ""):
        self.folder = (workdir / "checkpoints").absolute()
        smaller = best_metric.startswith("-")
        name = best_metric.lstrip("-")
        preservation = [ocp.checkpoint_managers.LatestN(n=keep)]
        if name:
            preservation.append(
                ocp.checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[name],
                    n=1,
                    reverse=smaller,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._best = name
        self._writing: int | None = None  # the step being written, or written last
        self._unfinished = False  # whether nobody has waited for it yet
        self._orbax = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "progress", digests.ITEM),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(preservation),
                best_fn=(lambda metrics: metrics[name]) if name else None,
                best_mode="min" if smaller else "max",
                create=True,
                enable_async_checkpointing=True,
            ),
        )

    def steps(self) -> list[int]:
        """All complete steps, in order."""
        return sorted(self._orbax.all_steps())

    def save(self, step: int, state: Any, progress: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Copies the arrays off the device, then writes in the background.

        Args:
          state: in either layout of ``models.stacking``; it is written stacked.
          progress: JSON-able; the rest of a resumed run's state.
          metrics: to choose the best checkpoint by.

        Raises:
          UserError: this save or the previous one could not be written (disk full, no permission).
        """
        self.wait()  # orbax waits too; here the error of a save still names its own step
        self._writing = step
        saved = {
            "state": ocp.args.StandardSave(stacking.on_host(state)),
            "progress": ocp.args.JsonSave(progress),
            digests.ITEM: ocp.args.JsonSave(digests.of_checkpoint(state, progress).as_json()),
        }
        items = ocp.args.Composite(**saved)
        best = {self._best: metrics[self._best]} if self._best and metrics and self._best in metrics else None
        with _disk_errors(self.folder, step):
            self._orbax.save(step, args=items, metrics=best, force=True)
        self._unfinished = True

    def wait(self) -> None:
        """Blocks until everything is on disk. Raises as :meth:`save`."""
        with _disk_errors(self.folder, self._writing):
            self._orbax.wait_until_finished()
            self._orbax.check_for_errors()
        self._unfinished = False

    def check(self) -> None:
        """Raises as :meth:`save` where writing in the background has failed already; does not wait for it."""
        if self._unfinished and not self._orbax.is_saving_in_progress():
            self.wait()  # orbax's check_for_errors misses an error that its own threads have seen

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """(state, progress) of ``step``, compared with their digests.

        Args:
          like: the state as ShapeDtypeStruct with shardings, in either layout of ``models.stacking``.

        Raises:
          UserError: a checkpoint of another structure; DamagedCheckpoint.
        """
        folder, wanted = self.folder / str(step), stacking.stacked(like)
        saved = _read_digests(folder)
        if saved is None:
            log.warning("%s has no digests (an earlier version wrote it): it is loaded unverified", folder)
        self._check_fits(folder, saved, wanted)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted), progress=ocp.args.JsonRestore())
        try:
            restored = self._orbax.restore(step, args=items)
            state, progress = restored["state"], dict(restored["progress"])
        except Exception as error:
            raise _unreadable(folder, error) from None
        if saved is not None:
            _compare(folder, saved.arrays, digests.of_tree(state))
            if digests.hash_of(progress) != saved.progress:
                raise DamagedCheckpoint(folder, "its progress is not what was saved")
        return stacking.split_like(like, state), progress

    def restore_newest(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, progress) of the newest undamaged checkpoint; None if there are none at all.

        Damaged ones that are newer are moved to ``damaged/`` in the workdir.

        Raises:
          UserError: all are damaged; they stay where they are.
        """
        damaged: dict[int, str] = {}  # not the errors: their tracebacks would keep the arrays
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, like)
            except DamagedCheckpoint as error:
                damaged[step] = error.reason
                continue
            for bad, why in damaged.items():
                self._set_aside(bad, why, step)
            return found
        if damaged:
            each = "; ".join(f"{step}: {why}" for step, why in damaged.items())
            raise UserError(
                f"every checkpoint in {self.folder} is damaged ({each}); nothing was changed. Restore one from a "
                "backup, or take another --workdir to train from the start"
            )
        return None

    def _check_fits(self, folder: Path, saved: digests.Digests | None, like: Any) -> None:
        """Raises UserError where the saved arrays are others than ``like``; DamagedCheckpoint if that is unknown."""
        wanted = {path: tuple(leaf.shape) for path, leaf in digests.paths(like)}
        if saved is not None:
            found = {path: shape for path, (_, shape, _) in saved.arrays.items()}
        else:
            try:
                found = {path: tuple(leaf.shape) for path, leaf in digests.paths(metadata(folder / "state"))}
            except Exception as error:
                raise _unreadable(folder, error) from None
        other = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
        if other:
            path = other[0]
            raise UserError(
                f"checkpoint {folder.name} in {folder.parent.parent} does not fit this config: {path} has shape "
                f"{found.get(path, 'none')} in it, the config needs {wanted.get(path, 'none')}"
            )

    def _set_aside(self, step: int, why: str, good: int) -> None:
        """Moves a damaged checkpoint to ``damaged/`` in the workdir, because ``good`` could be read."""
        if is_first():
            folder = self.folder.parent / DAMAGED
            names = (f"{step}" if not number else f"{step}-{number}" for number in range(1000))
            target = next(folder / name for name in names if not (folder / name).exists())
            folder.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
            log.warning("%s: checkpoint %d is damaged (%s); moved to %s, continuing from step %d",
                        folder.parent, step, why, target, good)  # fmt: skip
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoint set aside")

    def close(self) -> None:
        """Waits as :meth:`wait`, and raises as it does."""
        with _disk_errors(self.folder, self._writing):
            self._orbax.close()


class _disk_errors:
    """Turns a failed write into one line that lists the checkpoints that are left."""

    def __init__(self, folder: Path, step: int | None):
        self.folder, self.step = folder, step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, ValueError)):
            steps = complete(self.folder.parent)
            left = f"complete checkpoints: {', '.join(map(str, steps))}" if steps else "none before it"
            raise UserError(
                f"checkpoint {self.step} could not be written to {self.folder}: {reason(error)}; {left}. "
                f"{files.FIX.capitalize()}"
            ) from error


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
    state = _restore(folder, {key: tree for key, tree in _metadata(folder).items() if key in PARAMS}, verify=True)
    params = rules.unflatten(rules.flatten(state.get("trained", {})) | rules.flatten(state.get("frozen", {})))
    return lora.merged(params) if merge else params


def lazy_run(workdir: Path, step: int | None = None) -> dict[str, Any]:
    """As :func:`load_run`, with ``hub.tensors.Lazy`` leaves, which read and merge a parameter on demand."""
    folder = _folder(workdir, step)
    tree = _metadata(folder)
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
            found = _restore(folder, parts, verify=True)
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
    return _restore(folder, metadata(folder), verify=False)


def metadata(folder: Path) -> dict[str, Any]:
    """A saved tree with orbax's metadata of each array (shape, dtype) as leaves."""
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(
        absl_logging.ERROR
    )  # orbax warns that one item of a step has no metadata of a whole step
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
        raise _unreadable(folder.parent, error) from None


def _restore(folder: Path, wanted: Any, *, verify: bool) -> dict[str, Any]:
    """The leaves that the metadata tree ``wanted`` names, as host arrays.

    Args:
      verify: ``folder`` is of a checkpoint; errors and values that differ from its digests are a DamagedCheckpoint.
    """
    like = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=like, partial_restore=True)
    try:
        with ocp.PyTreeCheckpointer() as reader:
            found = reader.restore(folder, args=args)
    except Exception as error:
        if not verify:
            raise
        raise _unreadable(folder.parent, error) from None
    if verify and (saved := _read_digests(folder.parent)) is not None:
        _compare(
            folder.parent, {path: saved.arrays.get(path) for path, _ in digests.paths(found)}, digests.of_tree(found)
        )
    return found


def _read_digests(folder: Path) -> digests.Digests | None:
    try:
        return digests.read(folder)
    except Exception as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: Path, error: Exception) -> Exception:
    """The error to raise where a checkpoint's files could not be read.

    Orbax and tensorstore raise almost anything on damaged files, a bare Exception among them. What is not damage: too
    little memory, and files that only this process cannot read.
    """
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError | UserError):
        return error
    why = reason(error)
    if any(word in str(error).lower() for word in ("permission", "resource_exhausted", "too many open files")):
        return UserError(f"checkpoint {folder} could not be read: {why}")
    return DamagedCheckpoint(folder, why)


def _compare(folder: Path, saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises DamagedCheckpoint where arrays differ from their digests."""
    other = sorted(path for path in saved.keys() | found.keys() if saved.get(path) != found.get(path))
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise DamagedCheckpoint(folder, f"{other[0]}{more} of {len(found)} arrays are not what was saved")


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
