"""The checkpoints of a run: which are kept, written in the background, and restored when it resumes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.models import stacking
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.peers import failed_collective
from pivot_jax.train import checkpoint, digests

log = logging.getLogger(__name__)
DAMAGED = "damaged"  # folder of a workdir: checkpoints that were set aside


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
        """All checkpoint.complete steps, in order."""
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
        saved = checkpoint.read_digests(folder)
        self._check_fits(folder, saved, wanted)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted), progress=ocp.args.JsonRestore())
        try:
            restored = self._orbax.restore(step, args=items)
            state, progress = restored["state"], dict(restored["progress"])
        except Exception as error:
            raise checkpoint.unreadable(folder, error) from None
        if saved is not None:
            checkpoint.compare(folder, saved.arrays, digests.of_tree(state))
            if digests.hash_of(progress) != saved.progress:
                raise checkpoint.DamagedCheckpoint(folder, "its progress is not what was saved")
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
            except checkpoint.DamagedCheckpoint as error:
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
                found = {path: tuple(leaf.shape) for path, leaf in digests.paths(checkpoint.metadata(folder / "state"))}
            except Exception as error:
                raise checkpoint.unreadable(folder, error) from None
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
        if isinstance(error, (OSError, ValueError)) and not failed_collective(error):
            steps = checkpoint.complete(self.folder.parent)
            left = f"complete checkpoints: {', '.join(map(str, steps))}" if steps else "none before it"
            raise UserError(
                f"checkpoint {self.step} could not be written to {self.folder}: {checkpoint.reason(error)}; {left}. "
                f"{files.FIX.capitalize()}"
            ) from error
