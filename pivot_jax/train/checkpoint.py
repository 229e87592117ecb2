"""Checkpoints of a run (orbax): written while it trains, read whole or parameter by parameter.

A checkpoint holds the train state, its blocks stacked, and, as JSON, everything else that a resumed run needs (data
iterator, running means). Orbax writes into a temporary folder and renames it, so a killed or failed save leaves the
previous one intact.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from pivot_jax import files, rules
from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.hub.tensors import Lazy
from pivot_jax.models import lora, stacking


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
        self._orbax = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(preservation),
                best_fn=(lambda metrics: metrics[name]) if name else None,
                best_mode="min" if smaller else "max",
                create=True,
                enable_async_checkpointing=True,
            ),
        )

    def latest(self) -> int | None:
        """Newest complete step."""
        return self._orbax.latest_step()

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
        whole = ocp.args.StandardSave(stacking.on_host(state))
        items = ocp.args.Composite(state=whole, progress=ocp.args.JsonSave(progress))
        best = {self._best: metrics[self._best]} if self._best and metrics and self._best in metrics else None
        with _disk_errors(self.folder, step):
            self._orbax.save(step, args=items, metrics=best, force=True)

    def wait(self) -> None:
        """Blocks until everything is on disk. Raises as :meth:`save`."""
        with _disk_errors(self.folder, self._writing):
            self._orbax.wait_until_finished()
            self._orbax.check_for_errors()

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """(state, progress) of ``step``.

        Args:
          like: the state as ShapeDtypeStruct with shardings, in either layout of ``models.stacking``.
        """
        whole = ocp.args.StandardRestore(stacking.stacked(like))
        restored = self._orbax.restore(step, args=ocp.args.Composite(state=whole, progress=ocp.args.JsonRestore()))
        return stacking.split_like(like, restored["state"]), restored["progress"]

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
    """Why orbax could not write, in one line. Tensorstore's own message is long and names internal files."""
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
    folder, step = (workdir / "checkpoints").absolute(), newest(workdir, step)
    state = load_tree(folder / str(step) / "state", ("trained", "frozen"))
    params = rules.unflatten(rules.flatten(state.get("trained", {})) | rules.flatten(state.get("frozen", {})))
    return lora.merged(params) if merge else params


def lazy_run(workdir: Path, step: int | None = None) -> dict[str, Any]:
    """As :func:`load_run`, with ``hub.tensors.Lazy`` leaves, which read and merge a parameter on demand."""
    folder = (workdir / "checkpoints").absolute() / str(newest(workdir, step)) / "state"
    tree = metadata(folder)
    flat = {path: (part, leaf) for part in ("trained", "frozen") for path, leaf in rules.flatten(tree[part]).items()}

    def lazy(path: str) -> Lazy:
        names = [path]
        if lora.beside(path, lora.A) in flat and path.endswith(f"/{lora.KERNEL}"):
            names += [lora.beside(path, leaf) for leaf in lora.LEAVES]

        def read() -> Any:
            wanted: dict[str, Any] = {}
            for name in names:
                part, leaf = flat[name]
                wanted.setdefault(part, {})[name] = leaf
            found = _restore(folder, {part: rules.unflatten(leaves) for part, leaves in wanted.items()})
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


def load_tree(folder: Path, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """A saved tree as host arrays; only its top-level ``keys`` if any are named."""
    whole = metadata(folder)
    return _restore(folder, {key: whole[key] for key in keys if key in whole} if keys else whole)


def metadata(folder: Path) -> dict[str, Any]:
    """A saved tree with orbax's metadata of each array (shape, dtype) as leaves."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # orbax warns that one item of a step has no metadata of a whole step
    try:
        with ocp.PyTreeCheckpointer() as reader:
            return reader.metadata(folder).item_metadata.tree
    finally:
        logging.set_verbosity(level)


def _restore(folder: Path, wanted: Any) -> dict[str, Any]:
    """The leaves that the metadata tree ``wanted`` names, as host arrays."""
    like = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=_numpy()), wanted)
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore(folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=like, partial_restore=True))


def _numpy() -> Any:
    import numpy

    return numpy.ndarray


def saved_in_run(workdir: Path, step: int) -> dict[str, Any]:
    """Path → orbax's metadata (shape, dtype) of each saved parameter, adapters included; reads no weights."""
    tree = metadata((workdir / "checkpoints").absolute() / str(step) / "state")
    return {path: leaf for part in ("trained", "frozen") for path, leaf in rules.flatten(tree[part]).items()}
