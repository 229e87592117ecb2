"""What a rollout leaves on disk: completions to look at, and what a stopped update needs to resume.

``completions/NUMBER.jsonl`` has a line per response: all that were sampled in this rollout, and the surplus of earlier
ones that its update trains with. ``rollouts/NUMBER.npz`` has the groups of one policy update with their log-probs and
advantages, and the surplus. It is written before the first optimizer step of the
update, so every checkpoint of that update finds it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.rl.completions import COMPLETIONS, Answered, as_text, completion_lines
from pivot_jax.rl.groups import Group
from pivot_jax.rollout.engine import Response

ROLLOUTS = "rollouts"
_PER_TOKEN = ("tokens", "logps", "sampling_logps")


@dataclass(frozen=True)
class Stored:
    """An update phase as it is stored.

    Attributes:
      groups: what is trained with.
      values: of each response (groups after each other), float32 [t], by the name of the batch's field.
      surplus: groups for the next update.
    """

    groups: Sequence[Group]
    values: Mapping[str, Sequence[np.ndarray]]
    surplus: Sequence[Group] = field(default=())


class Records:
    """The files of a workdir. Each of the processes has its own; a run may be resumed with another number of them."""

    def __init__(self, workdir: Path, process: int = 0, processes: int = 1):
        self.workdir, self.process, self.processes = workdir, process, processes

    def save(self, number: int, stored: Stored) -> None:
        """Writes the update phase of a rollout.

        Raises:
          UserError: it could not be written.
        """
        arrays: dict[str, Any] = {"trained": len(stored.groups), "processes": self.processes}
        arrays["names"] = np.asarray(sorted(stored.values), dtype=str)
        arrays |= _packed([*stored.groups, *stored.surplus])
        for name, values in stored.values.items():
            arrays[f"values/{name}"] = np.concatenate([np.zeros(0, np.float32), *values])
        with files.whole(self._path(number)) as partial:
            np.savez(partial, **arrays)

    def load(self, number: int, prompt: Any) -> Stored:
        """The update phase of a rollout: what this process wrote, or its share if another number of them did.

        Args:
          prompt: number of a prompt → (example, row), from the data.

        Raises:
          UserError: a file is missing or damaged.
        """
        processes = int(self._read(number, 0, ("processes",)).get("processes", self.processes))
        if processes == self.processes:
            return _stored(self._read(number, self.process), prompt)
        return self._share([_stored(self._read(number, process), prompt) for process in range(processes)])

    def _share(self, parts: Sequence[Stored]) -> Stored:
        """This process's part of an update; the order of all groups is that of the data, as it is in a rollout."""
        groups = [group for part in parts for group in part.groups]
        surplus = [group for part in parts for group in part.surplus]
        size, more = (-(-len(every) // self.processes) for every in (groups, surplus))
        first = self.process * size
        own = groups[first : first + size]
        begin = sum(len(group.responses) for group in groups[:first])
        end = begin + sum(len(group.responses) for group in own)
        values = {name: [v for part in parts for v in part.values[name]][begin:end] for name in parts[0].values}
        return Stored(own, values, surplus[self.process * more : (self.process + 1) * more])

    def _read(self, number: int, process: int, names: Sequence[str] = ()) -> dict[str, Any]:
        """The arrays of a file, all or those of these names; raises as :meth:`load`."""
        path = self._path(number, process)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if not names or name in names}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} cannot be read ({error}); the run was stopped in the update of this rollout and needs it: put "
                "it back, or remove the newest checkpoint to resume from the one before"
            ) from None

    def forget(self, oldest: int) -> None:
        """Removes the ``rollouts`` files before number ``oldest``: no checkpoint resumes inside their updates."""
        for path in (self.workdir / ROLLOUTS).glob("*.npz"):
            number, _, process = path.stem.partition("-")
            mine = process == (str(self.process) if self.process else "")
            gone = self.process == 0 and process.isdigit() and int(process) >= self.processes
            if number.isdigit() and int(number) < oldest and (mine or gone):
                path.unlink(missing_ok=True)

    def write_completions(self, number: int, answered: Sequence[Answered], thumbnails: bool = False) -> None:
        """Writes the responses of a rollout; an earlier file of this rollout is replaced.

        Args:
          thumbnails: images that are not files are written too, small, to ``completions/images``.
        """
        lines = completion_lines(answered, self.images if thumbnails else None)
        self._write_lines(self.workdir / COMPLETIONS / f"{number:06d}", lines)

    def write_heldout(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Writes the responses to held-out prompts after ``step`` optimizer steps."""
        self._write_lines(self.workdir / "eval" / f"heldout-{step}", lines)

    def _write_lines(self, name: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        ending = f"-{self.process}" if self.process else ""
        files.write_text(name.with_name(f"{name.name}{ending}.jsonl"), as_text(lines))
        if self.process == 0:  # of more processes, before the run was resumed with these
            for path in name.parent.glob(f"{name.name}-*.jsonl"):
                process = path.stem.removeprefix(f"{name.name}-")
                if process.isdigit() and int(process) >= self.processes:
                    path.unlink(missing_ok=True)

    @property
    def images(self) -> Path:
        """Folder of thumbnails."""
        return self.workdir / COMPLETIONS / "images"

    def _path(self, number: int, process: int | None = None) -> Path:
        process = self.process if process is None else process
        return self.workdir / ROLLOUTS / f"{number:06d}{f'-{process}' if process else ''}.npz"


def _stored(arrays: Mapping[str, Any], prompt: Any) -> Stored:
    """An update phase from the arrays of its file."""
    groups, trained = _unpacked(arrays, prompt), int(arrays["trained"])
    ends = np.cumsum([len(one.tokens) for group in groups[:trained] for one in group.responses])
    names = [str(name) for name in arrays["names"]]
    values = {name: np.split(arrays[f"values/{name}"], ends[:-1]) if trained else [] for name in names}
    return Stored(groups[:trained], values, groups[trained:])


def _packed(groups: Sequence[Group]) -> dict[str, Any]:
    responses = [one for group in groups for one in group.responses]
    arrays: dict[str, Any] = {
        "numbers": np.asarray([group.number for group in groups], np.int64),
        "versions": np.asarray([group.version for group in groups], np.int64),
        "counts": np.asarray([len(group.responses) for group in groups], np.int64),
        "lengths": np.asarray([len(one.tokens) for one in responses], np.int64),
        "stopped": np.asarray([one.finish == "stop" for one in responses], bool),
        "total": np.concatenate([np.zeros(0), *(group.total for group in groups)]),
        "labels": np.asarray(list(groups[0].rewards) if groups else [], dtype=str),
    }
    for label in groups[0].rewards if groups else ():
        arrays[f"reward/{label}"] = np.concatenate([group.rewards[label] for group in groups])
    for name in _PER_TOKEN:
        arrays[name] = np.concatenate([np.zeros(0, np.float32), *(getattr(one, name) for one in responses)])
    return arrays


def _unpacked(arrays: Mapping[str, Any], prompt: Any) -> list[Group]:
    ends, labels = np.cumsum(arrays["lengths"]), [str(label) for label in arrays["labels"]]
    per_token = [np.split(arrays[name], ends[:-1]) for name in _PER_TOKEN]
    groups, first = [], 0
    for number, version, count in zip(arrays["numbers"], arrays["versions"], arrays["counts"], strict=True):
        own = slice(first, first + count)
        parts = zip(*(values[own] for values in per_token), arrays["stopped"][own], strict=True)
        responses = tuple(
            Response(tokens.astype(np.int32), logps, sampling, "stop" if stopped else "length")
            for tokens, logps, sampling, stopped in parts
        )
        rewards = {label: arrays[f"reward/{label}"][own] for label in labels}
        example, row = prompt(int(number))
        groups.append(Group(int(number), example, row, responses, int(version), arrays["total"][own], rewards))
        first += count
    return groups
