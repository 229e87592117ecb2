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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax import files
from pivot_jax.config.load import find, result_keys
from pivot_jax.errors import UserError
from pivot_jax.study import budget
from pivot_jax.study.matrix import ARM, INPUT, SEED, Levels, Stage, Study

PACK = "extract"  # the measurement that leaves a pack
EQUAL, ROWS = "equal", "rows"  # settings that are no keys of a config: another stage's budget, rows of the data


@dataclass(frozen=True)
class Measurement:
    """One measurement of a run; ``kind`` names its function in ``measures.KINDS``."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    result: str  # name of its file in results/
    inputs: tuple[str, ...]  # other runs whose checkpoints it reads


@dataclass(frozen=True)
class Run:
    """One training run, or (``trials``) the choice among runs with different settings."""

    key: str
    stage: str
    levels: Levels  # of the first cell that needs it
    config: Mapping[str, Any]
    inputs: tuple[str, ...]  # runs whose checkpoints it starts from
    measurements: tuple[Measurement, ...]
    rows: budget.Rows = field(default_factory=budget.Rows)
    trials: tuple[str, ...] = ()
    chosen_by: tuple[str, str] = ("", "")


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
        return self.root / f"data-{_hash(self.study.data)}"

    def folder(self, key: str) -> Path:
        return run_folder(self.root, key)

    def job_of(self, key: str) -> Job:
        """The job that does a run."""
        return next(job for job in self.jobs.values() if key in job.runs)

    # What is there ---------------------------------------------------------------------------------------------------

    def trained(self, key: str) -> bool:
        """Whether the result of a run is there (its checkpoint may be gone)."""
        return result_file(self.root, key).is_file()

    def available(self, key: str) -> bool:
        """Whether a run's checkpoint is there, and its pack where it has one."""
        packed = any(one.kind == PACK for one in self.runs[key].measurements)
        return is_finished(self.root, key) and (not packed or pack_of(self.root, key).is_dir())

    def missing(self, key: str) -> list[Measurement]:
        """Measurements of a run without a result."""
        return [m for m in self.runs[key].measurements if not result_file(self.root, m.result).is_file()]

    def needed(self, targets: list[str] | None = None) -> list[Job]:
        """The jobs that something is left to do of, in order: those of ``targets`` (run keys; None: all), and before
        them every job whose checkpoints these need. A finished result counts even where its checkpoint is gone."""
        wanted: dict[str, None] = {}

        def visit(key: str, checkpoint: bool) -> None:
            lacking = self.missing(key)
            train = not self.available(key) and (checkpoint or bool(lacking) or not self.trained(key))
            if not train and not lacking:
                return
            wanted[self.job_of(key).key] = None
            run = self.runs[key]
            for source in (*run.inputs, *run.trials) if train else ():
                visit(source, True)
            for source in (source for one in lacking for source in one.inputs):
                visit(source, True)

        for key in targets if targets is not None else self.runs:
            visit(key, False)
        return [job for key, job in self.jobs.items() if key in wanted]

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
                    "resources": dict(self.study.stage_of(name).resources),
                    "launch": _launch(self.study.stage_of(name).resources),
                }
                for name in dict.fromkeys(self.runs[job.key].stage for job in jobs)
            },
            "jobs": {job.key: {"runs": job.runs, "needs": [one for one in job.needs if one in keys]} for job in jobs},
            "runs": {key: _plain(self.runs[key]) for job in jobs for key in job.runs},
        }
        files.write_text(self.root / "graph.json", json.dumps(content, indent=1))


def _point(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)


def run_folder(root: Path, key: str) -> Path:
    return root / "runs" / key


def pack_of(root: Path, key: str) -> Path:
    return run_folder(root, key) / "pack"


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


def _plain(run: Run) -> dict[str, Any]:
    measurements = [{**vars(one), "settings": dict(one.settings)} for one in run.measurements]
    return {**vars(run), "levels": dict(run.levels), "measurements": measurements, "rows": vars(run.rows)}


def _hash(content: Any, root: Path | None = None) -> str:
    """8 hex digits of a content, in which the study's folder does not count."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256((text.replace(f"{root}/", "") if root else text).encode()).hexdigest()[:8]


def expand(study: Study, root: Path) -> Graph:
    """The graph of a study in the folder ``root``.

    Raises:
      UserError: a stage's config is not valid; the message names the stage.
    """
    graph = Graph(study, root)
    for levels in study.cells():
        graph.cells.append(_Expansion(graph, levels).cell())
    _group(graph)
    return graph


class _Expansion:
    """The runs of one cell, added to a graph that may have them already."""

    def __init__(self, graph: Graph, levels: Levels):
        self._graph, self._study, self._levels = graph, graph.study, levels
        self._keys: dict[str, str] = {}

    def cell(self) -> Cell:
        arm = self._study.arms[self._levels[ARM]].stage
        for name in (arm, *(s for s in self._study.stages if self._follows_arm(s))):
            if self._study.applies(name, self._levels):
                self._key(name)
        return Cell(self._levels, dict(self._keys))

    def _follows_arm(self, name: str) -> bool:
        """Whether a stage starts, directly or not, from whatever the arm's run is."""
        used = _used(self._study.stages[name])
        return ARM in used or any(self._follows_arm(one) for one in used if one in self._study.stages)

    def _key(self, name: str) -> str:
        """The key of this cell's run of a stage, which is added with all before it."""
        if name not in self._keys:
            stage = self._study.stages[name]
            trials = tuple(self._add(f"{name}_{i}", stage, tried, True) for i, tried in enumerate(stage.sweep))
            self._keys[name] = self._choice(name, stage, trials) if trials else self._add(name, stage, {}, False)
        return self._keys[name]

    def _add(self, name: str, stage: Stage, tried: Mapping[str, Any], trial: bool) -> str:
        sources = {prefix: self._resolved(text) for prefix, text in stage.init.items()}
        inputs = self._inputs(_used(stage))
        settings = self._study.settings(name if not trial else name.rpartition("_")[0], self._levels) | dict(tried)
        rows = budget.Rows(settings.pop(ROWS, stage.rows), *stage.row)
        config = self._config(name, stage, sources, settings, rows)
        key = f"{name}-{_hash(result_keys(config), self._graph.root)}"
        if key not in self._graph.runs:
            taken = (stage.chosen_by[0],) if trial else stage.measures
            measured = tuple(self._measurement(one, key) for one in taken)
            content = json.loads(configs.to_json(config))
            self._graph.runs[key] = Run(key, name, self._levels, content, inputs, measured, rows)
        return key

    def _choice(self, name: str, stage: Stage, trials: tuple[str, ...]) -> str:
        key = f"{name}-{_hash([trials, stage.chosen_by])}"
        if key not in self._graph.runs:
            measured = tuple(self._measurement(one, key) for one in stage.measures)
            self._graph.runs[key] = Run(
                key, name, self._levels, {}, (), measured, trials=trials, chosen_by=stage.chosen_by
            )
        return key

    def _config(
        self, name: str, stage: Stage, sources: Mapping[str, str], settings: Mapping[str, Any], rows: budget.Rows
    ) -> Any:
        file, _, argument = stage.config.partition(":")
        path, _ = find(str(self._study.file.parent / file))
        spec = f"{path}:{self._resolved(argument)}" if argument else str(path)
        overrides: dict[str, Any] = dict(settings) | {"name": self._title(name)}
        if sources:
            overrides = {"init": "{}", **{f"init.{prefix}": text for prefix, text in sources.items()}, **overrides}
        equal = overrides.pop(EQUAL, None)
        try:
            config = configs.load(spec, overrides)
            if equal:
                unit, other = equal
                like = self._graph.runs[self._key(other)]
                count = budget.equal_steps(config, rows, configs.from_json(json.dumps(like.config)), like.rows, unit)
                config = configs.load(spec, overrides | {"train.steps": count})
            return config
        except UserError as error:
            raise UserError(f"{self._study.file}: stages.{name}: {error}") from None

    def _title(self, name: str) -> str:
        return ", ".join([name, *(f"{factor} {level}" for factor, level in self._levels.items() if factor != ARM)])

    def _measurement(self, name: str, key: str) -> Measurement:
        declared = dict(self._study.measures[name])
        kind = declared.pop("kind", name)
        used = {one for text in _texts(declared) for one in INPUT.findall(text)}
        settings = _map_texts(self._resolved, declared)
        inputs = tuple(one for one in self._inputs(used) if one != key)
        mark = _hash([key, kind, settings], self._graph.root)
        return Measurement(name, kind, settings, f"{key}.{name}-{mark}", inputs)

    def _inputs(self, used: set[str]) -> tuple[str, ...]:
        arm = self._study.arms[self._levels[ARM]].stage
        stages = [arm if one == ARM else one for one in sorted(used)]
        return tuple(self._key(one) for one in stages if one in self._study.stages)

    def _resolved(self, text: str) -> str:
        """A text with folders and levels in the place of ``{name}``."""

        def one(found: Any) -> str:
            name = found[1]
            if name == "data":
                return str(self._graph.data)
            if name in self._study.factors:
                return self._levels[name]
            if name != ARM and name not in self._study.stages:
                return found[0]
            stage = self._study.arms[self._levels[ARM]].stage if name == ARM else name
            folder = self._graph.folder(self._key(stage))
            return str(folder / "pack") if text.startswith("pack:") else str(folder)

        return INPUT.sub(one, text)


def _map_texts(change: Callable[[str], str], content: Any) -> Any:
    """A nested value with every text changed."""
    if isinstance(content, Mapping):
        return {key: _map_texts(change, value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_map_texts(change, value) for value in content]
    return change(content) if isinstance(content, str) else content


def _texts(content: Any) -> list[str]:
    """All texts of a nested value."""
    if isinstance(content, Mapping):
        return [text for value in content.values() for text in _texts(value)]
    if isinstance(content, list | tuple):
        return [text for value in content for text in _texts(value)]
    return [content] if isinstance(content, str) else []


def _used(stage: Stage) -> set[str]:
    return {name for text in (stage.config, *stage.init.values()) for name in INPUT.findall(text)}


def _group(graph: Graph) -> None:
    """Jobs: a run and those before it whose stage ``joins`` its stage and that nothing else starts from."""
    users: dict[str, list[str]] = {key: [] for key in graph.runs}
    for run in graph.runs.values():
        for source in {*run.inputs, *run.trials, *(one for m in run.measurements for one in m.inputs)}:
            users[source].append(run.key)

    def joins(key: str) -> bool:
        stage = graph.study.stages.get(graph.runs[key].stage)
        wanted = [user for user in users[key] if stage and graph.runs[user].stage == stage.joins]
        return len(wanted) == 1 and wanted == users[key]

    members: dict[str, list[str]] = {}
    home: dict[str, str] = {}
    for key in reversed(list(graph.runs)):  # users come after what they use
        home[key] = home[users[key][0]] if joins(key) else key
        members.setdefault(home[key], []).insert(0, key)
    for key in graph.runs:
        if home[key] != key:
            continue
        sources = {
            one
            for member in members[key]
            for one in (
                *graph.runs[member].inputs,
                *graph.runs[member].trials,
                *(x for m in graph.runs[member].measurements for x in m.inputs),
            )
        }
        needs = tuple(dict.fromkeys(home[one] for one in graph.runs if one in sources and home[one] != key))
        graph.jobs[key] = Job(key, tuple(members[key]), needs)
