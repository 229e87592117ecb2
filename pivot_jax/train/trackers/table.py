"""All trackers by name, and those of a run: ``metrics.jsonl``, which has to be written, and copies, which may fail."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pivot_jax.errors import UserError
from pivot_jax.train.lock import locked
from pivot_jax.train.metrics import FILE, JsonLines, lines_of
from pivot_jax.train.trackers.base import FOLDER, Bundle, Facts, Memory, TextTable, Tracker
from pivot_jax.train.trackers.feed import HURRY, PATIENCE, Feed, Known, Line, Mark


class Kind(NamedTuple):
    """A tracker that can be chosen.

    Attributes:
      open: makes one; imports the library.
      library: what it imports.
      variables: of the library's environment, saying where it keeps a run. With other values it begins a new one.
      rewinds: whether steps that are written again replace what it had of them.
    """

    open: Callable[[Facts], Tracker]
    library: str
    variables: tuple[str, ...] = ()
    rewinds: bool = False


def _tensorboard(facts: Facts) -> Tracker:
    from pivot_jax.train.trackers.tensorboard import TensorBoard

    return TensorBoard(facts)


def _wandb(facts: Facts) -> Tracker:
    from pivot_jax.train.trackers.wandb import Wandb

    return Wandb(facts)


def _mlflow(facts: Facts) -> Tracker:
    from pivot_jax.train.trackers.mlflow import MLflow

    return MLflow(facts)


def _trackio(facts: Facts) -> Tracker:
    from pivot_jax.train.trackers.trackio import Trackio

    return Trackio(facts)


TRACKERS: Mapping[str, Kind] = {
    "tensorboard": Kind(_tensorboard, "tensorboardX", rewinds=True),
    "wandb": Kind(_wandb, "wandb", ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID")),
    "mlflow": Kind(
        _mlflow, "mlflow", ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")
    ),
    "trackio": Kind(_trackio, "trackio", ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")),
}


def check_installed(names: Iterable[str]) -> None:
    """Raises UserError for a tracker whose library is not installed. Imports none."""
    for name in names:
        library = TRACKERS[name].library
        found = importlib.util.find_spec(library)
        if found is None or found.origin is None:  # a folder of that name, such as W&B's logs, is no library
            raise UserError(
                f"train.trackers: '{name}' needs the package {library}; pip install 'pivot-jax[trackers]', or remove it"
            )


class Trackers:
    """The log of a run and its copies."""

    def __init__(self, log: JsonLines, feeds: Sequence[Feed]):
        self._log, self._feeds = log, feeds
        lines = _marked(log.kept)
        self._last = lines[-1].mark if lines else Mark(0, 0)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a line. Raises UserError if ``metrics.jsonl`` cannot be written."""
        self._log.write(step, metrics)
        self._last = self._last.next(step)
        for feed in self._feeds:
            feed.write(Line(self._last, dict(metrics)))

    def show(self, step: int, table: TextTable) -> None:
        for feed in self._feeds:
            feed.show(step, table)

    def close(self, finished: bool, bundle: Bundle | None = None) -> None:
        """Ends all of them; never raises. ``bundle`` is kept first."""
        self._log.close()
        _end(self._feeds, finished, bundle)


def open_trackers(config: Any, workdir: Path, resumed_step: int) -> Trackers:
    """The log and the trackers of a run. Lines that an earlier process logged after ``resumed_step`` no longer count.

    Raises:
      UserError: ``metrics.jsonl`` could not be opened, or what a tracker remembers is damaged.
    """
    log = JsonLines(workdir / FILE, resumed_step)
    return Trackers(log, _feeds(config, workdir, log.kept, resumed_step))


def publish(config: Any, workdir: Path, bundle: Bundle, *, finished: bool) -> None:
    """Hands files of a run that is not in progress to its trackers, and log lines that they lack.

    Args:
      finished: whether the run has taken its last step.

    Raises:
      UserError: a library is not installed, or the run is in progress.
    """
    check_installed(config.train.trackers)
    with locked(workdir):
        lines = lines_of(workdir / FILE)
        last = lines[-1]["step"] if lines else 0
        _end(_feeds(config, workdir, lines, last), finished, bundle)


def _feeds(config: Any, workdir: Path, log: Sequence[Mapping[str, Any]], resumed_step: int) -> list[Feed]:
    feeds, lines = [], _marked(log)
    kinds = [(name, TRACKERS[name]) for name in config.train.trackers]
    for _, kind in kinds:
        # Here, not in several threads at once: Python 3.11 then fails in its parser at random ("AST constructor
        # recursion depth mismatch"). An error is raised again, and reported, where the tracker is opened.
        with contextlib.suppress(Exception):
            importlib.import_module(kind.library)
    for name, kind in kinds:
        memory = Memory(workdir / FOLDER / f"{name}.json", _place(kind, config.train.tracker_project))
        mark, shown = Mark(*memory.get("mark", Mark(0, 0))), memory.get("shown", 0)
        if kind.rewinds:
            mark, shown = min(mark, lines[-1].mark if lines else Mark(0, 0)), min(shown, resumed_step)
        behind = [line for line in lines if line.mark > mark]
        facts = Facts(
            workdir=workdir,
            name=config.name,
            project=config.train.tracker_project,
            config=config.to_dict(),
            first_step=behind[0].mark.step + (behind[0].mark.line > 1) if behind else resumed_step + 1,
            memory=memory,
        )
        feeds.append(Feed(name, partial(kind.open, facts), memory, behind, Known(mark, shown)))
    return feeds


def _end(feeds: Sequence[Feed], finished: bool, bundle: Bundle | None) -> None:
    for feed in feeds:
        if bundle is not None:
            feed.keep(bundle)
        feed.end(finished)
    until = time.monotonic() + (PATIENCE if finished else HURRY)  # of all of them together
    for feed in feeds:
        feed.close(until)


def _place(kind: Kind, project: str) -> dict[str, str]:
    """Where the tracker keeps the run; MLflow without an address writes to the working directory."""
    place = {name: os.environ[name] for name in kind.variables if os.environ.get(name)}
    if kind is TRACKERS["mlflow"] and "MLFLOW_TRACKING_URI" not in place:
        place["folder"] = os.getcwd()
    return place | ({"project": project} if project else {})


def _marked(log: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Rows of ``metrics.jsonl`` as they were written: null is NaN."""
    lines, mark = [], Mark(0, 0)
    for row in log:
        mark = mark.next(row["step"])
        metrics = {name: math.nan if value is None else value for name, value in row.items() if name != "step"}
        lines.append(Line(mark, metrics))
    return lines
