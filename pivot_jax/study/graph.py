"""A study as a graph of training runs, each with its measurements, grouped into jobs.

A run's key is a hash of what it computes: its config, with the keys of the runs that it starts from and of its data in
the place of their folders. So cells that need the same run share it, across arms, factors and tables, and a change of
the study's file makes new only what it changes. Everything lies in the study's folder::

    data-HASH/                    images, texts, tokenizer
    runs/KEY/                     a run's workdir, with pack/ and what measurements leave to look at
    results/KEY.json              what a run did: steps, seconds, FLOPs, last metrics
    results/KEY.MEASURE-HASH.json a measurement: numbers, and scores of single items
    jobs/KEY.json                 a finished job: its time
    graph.json                    the graph, for the processes of the jobs
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.study.matrix import SEED, Levels, Study

# Kinds of measurements that leave what other runs start from, and where in the run's folder.
LEFT = {"extract": "pack", "responses": "responses/{name}"}


@dataclass(frozen=True)
class Measurement:
    """One measurement of a run; ``kind`` names its function in ``measures.KINDS``."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    result: str  # name of its file in results/
    inputs: tuple[str, ...]  # other runs whose checkpoints it reads


@dataclass(frozen=True)
class Rows:
    """A run's data, as its stage declares it: number of rows, mean tokens and targets of one; 0: not declared."""

    count: int = 0
    tokens: float = 0.0
    targets: float = 0.0


@dataclass(frozen=True)
class Run:
    """One training run, or (``trials``) the choice among runs of the same stage with different settings."""

    key: str
    stage: str
    levels: Levels  # of the first cell that needs it
    config: Mapping[str, Any]
    inputs: tuple[str, ...]  # runs whose checkpoints it starts from
    measurements: tuple[Measurement, ...]
    rows: Rows = field(default_factory=Rows)
    steps: int = 0  # expected
    flops: float = 0.0  # expected, of training; 0: not known
    trials: tuple[str, ...] = ()
    chosen_by: tuple[str, str] = ("", "")  # measure and metric

    @property
    def sources(self) -> tuple[str, ...]:
        """Runs whose checkpoints it or its measurements read."""
        return (*self.inputs, *self.trials, *(one for m in self.measurements for one in m.inputs))


@dataclass(frozen=True)
class Job:
    """Runs that one process does one after the other, with their measurements. Its key is that of the last run."""

    key: str
    runs: tuple[str, ...]
    needs: tuple[str, ...]  # jobs


@dataclass(frozen=True)
class Cell:
    """One combination of levels and a seed, with the key of each of its runs."""

    levels: Levels
    runs: Mapping[str, str]  # stage → key

    @property
    def name(self) -> str:
        """``dpo,seed0``"""
        return ",".join(level for factor, level in self.levels.items() if factor != SEED) + f",seed{self.levels[SEED]}"


@dataclass
class Graph:
    """All runs, jobs and cells of a study. Keys are in an order in which they can be done."""

    study: Study
    root: Path
    runs: dict[str, Run] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.root / f"data-{content_hash(self.study.data)}"

    def folder(self, key: str) -> Path:
        return run_folder(self.root, key)

    # What is there ---------------------------------------------------------------------------------------------------

    def trained(self, key: str) -> bool:
        """Whether the result of a run is there (its checkpoint may be gone)."""
        return result_file(self.root, key).is_file()

    def available(self, key: str) -> bool:
        """Whether a run's checkpoint is there, with what its measurements leave for other runs."""
        folder = self.folder(key)
        return is_finished(self.root, key) and all(
            left_there(folder, one.kind, one.name) for one in self.runs[key].measurements
        )

    def missing(self, key: str) -> list[Measurement]:
        """Measurements of a run without a result."""
        return [m for m in self.runs[key].measurements if not result_file(self.root, m.result).is_file()]

    def needed(self, targets: list[str] | None = None) -> list[Job]:
        """The jobs that something is left to do of, in order, each with only those of its runs.

        They are what ``targets`` (run keys; None: all) lack, and before them every run whose checkpoint these need. A
        finished result counts even where its checkpoint is gone.
        """
        wanted: set[str] = set()

        def visit(key: str, checkpoint: bool) -> None:
            lacking = self.missing(key)
            train = not self.available(key) and (checkpoint or bool(lacking) or not self.trained(key))
            if not train and not lacking:
                return
            wanted.add(key)
            run = self.runs[key]
            for source in (*run.inputs, *run.trials) if train else ():
                visit(source, True)
            for source in (source for one in lacking for source in one.inputs):
                visit(source, True)

        for key in targets if targets is not None else self.runs:
            visit(key, False)
        left = {job: tuple(key for key in job.runs if key in wanted) for job in self.jobs.values()}
        return [replace(job, runs=runs) for job, runs in left.items() if runs]

    def link(self) -> None:
        """``cells/LEVELS/STAGE`` for people: links to the runs of each cell, and ``data`` to the data."""
        for cell in self.cells:
            folder = self.root / "cells" / cell.name
            folder.mkdir(parents=True, exist_ok=True)
            for stage, key in cell.runs.items():
                _point(folder / stage, Path("..", "..", "runs", key))
        if self.data.is_dir():
            _point(self.root / "data", Path(self.data.name))

    # For the processes of the jobs -----------------------------------------------------------------------------------

    def write(self, jobs: list[Job]) -> None:
        """``graph.json``: what a job's process, and the workflow engine, need to know of these jobs."""
        keys = {job.key for job in jobs}
        content = {
            "folder": str(Path.cwd()),  # paths in configs are relative to it
            "root": str(self.root),
            "platform": self.study.platform,
            "stages": {
                name: {
                    "threads": self.study.threads,
                    "resources": dict(self.study.stages[name].resources),
                    "launch": _launch(self.study.stages[name].resources),
                }
                for name in dict.fromkeys(self.runs[job.key].stage for job in jobs)
            },
            "jobs": {job.key: {"runs": job.runs, "needs": [one for one in job.needs if one in keys]} for job in jobs},
            "runs": {key: self._plain(self.runs[key]) for job in jobs for key in job.runs},
        }
        files.write_text(self.root / "graph.json", json.dumps(content, indent=1))

    def _plain(self, run: Run) -> dict[str, Any]:
        """A run for ``graph.json``; ``trials`` as key → name of the result that the choice among them is made by."""
        measurements = [{**vars(one), "settings": dict(one.settings)} for one in run.measurements]
        chosen = {
            key: one.result for key in run.trials for one in self.runs[key].measurements if one.name == run.chosen_by[0]
        }
        plain = {**vars(run), "levels": dict(run.levels), "measurements": measurements, "rows": vars(run.rows)}
        return plain | {"trials": chosen}


def _point(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)


def run_folder(root: Path, key: str) -> Path:
    return root / "runs" / key


def left_there(folder: Path, kind: str, name: str) -> bool:
    """Whether a run's folder has what a measurement leaves for other runs."""
    return kind not in LEFT or (folder / LEFT[kind].format(name=name)).is_dir()


def result_file(root: Path, name: str) -> Path:
    return root / "results" / f"{name}.json"


def is_finished(root: Path, key: str) -> bool:
    return (run_folder(root, key) / "finished.json").is_file()


def _launch(resources: Mapping[str, Any]) -> str:
    """What starts the processes of a job over several nodes: Snakemake's resource ``mpi``, such as srun."""
    if "mpi" not in resources:
        return ""
    tasks = resources.get("tasks", 1)
    return f"env PIVOT_DISTRIBUTED=auto {resources['mpi']} --ntasks={tasks} --nodes={resources.get('nodes', tasks)}"


def content_hash(content: Any, root: Path | None = None) -> str:
    """8 hex digits of a content, in which the study's folder does not count."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256((text.replace(f"{root}/", "") if root else text).encode()).hexdigest()[:8]
