"""What a study declares: arms, factors, seeds, the stages that train them, and what is measured on each.

A study is a Python file with ``get_config(arg="") -> dict``, as a config is; ``configs/demo/study.py`` is the shortest
one. Its keys are the fields of :class:`Study`, :class:`Stage` and :class:`Arm`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pivot_jax.config.load import find, read_file
from pivot_jax.errors import UserError, suggest

ARM, SEED = "arm", "seed"
WITHOUT = "without"  # of a table: stages that it does not need
INPUT = re.compile(r"\{(\w+)\}")  # {stage} in the text of a source: the folder of that stage's run in the same cell
Levels = Mapping[str, str]  # factor → level


@dataclass(frozen=True)
class Arm:
    """One of the things compared: the run of ``stage`` is its model."""

    stage: str
    title: str


@dataclass(frozen=True)
class Stage:
    """A training run of each cell.

    Attributes:
      config: FILE[:argument] of its config, relative to the study's file; ``{data}`` is the folder of the data.
      init: replaces the config's ``init``; ``run:{stage1b}`` is the run of that stage in the same cell, ``pack:{arm}``
        the pack of the arm's run.
      set: other keys of the config; ``{data}`` in a text is the folder of the data, ``{stage}`` that of a stage's run
        in the same cell, as in a factor's keys.
      measures: names of ``Study.measures``, taken on the finished run.
      only: factor → levels, also ``arm`` and ``seed``; cells with another level do without this stage.
      joins: the stage whose job this one is part of, where only one run of that stage starts from it.
      sweep: settings that are tried, each a dict as ``set``; the run with the best ``chosen_by`` is the stage's.
      chosen_by: (measure, metric) on validation data.
      row: mean (tokens, targets) of a row, images included: for FLOPs before anything has run.
      rows: rows of its data, for the number of steps of ``train.epochs``.
      minutes: expected time on the study's machine; 0: from the FLOPs.
      resources: of its job on a cluster, by the names of Snakemake and its executor: mem_mb, runtime (minutes), nodes,
        gpu, slurm_partition, …; ``mpi: srun`` with ``tasks`` for a job of several processes.
    """

    config: str
    init: Mapping[str, str] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = ()
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    joins: str = ""
    sweep: tuple[Mapping[str, Any], ...] = ()
    chosen_by: tuple[str, str] = ("", "")
    row: tuple[float, float] = (0.0, 0.0)
    rows: int = 0
    minutes: float = 0.0
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study file's content.

    Attributes:
      title, subtitle, scope: of the report; ``scope`` says what the study does not show.
      data: ``kind`` (a name of ``data.KINDS``) and its settings; {}: the configs name data of their own.
      arms: name → arm. The first is the one without post-training, ``baseline`` the one that others are compared with.
      factors: name → level → {pattern of stage names: keys of their configs}. Every cell has one level of each. Beside
        config keys, ``equal: (unit, stage)`` gives as many steps as cost what that stage does (``budget.UNITS``), and
        ``rows`` replaces the stage's.
      seeds: training seeds; all arms of a seed share what comes before them.
      stages: name → stage, each after those that it starts from.
      measures: name → ``kind`` (a name of ``measures.KINDS``) and its settings.
      endpoints: group → title → (stage or ``arm``, measure, metric): what the arms are compared by. The first group is
        the study's question, its first entry the primary endpoint, by which the summary answers it.
      controls: title → (stage, measure, metric), shown first: whether the models use their images at all.
      published: group → title of an endpoint → (levels and arm, percent): numbers of a paper with the same setting,
        which the report shows beside ours.
      tables: title → {factor: levels}: the cells of each; ``without`` names stages that it does not need. {}: every
        combination is one table.
      machine: chips, chip, mfu (full size) or flops_per_s (a CPU), for hours.
      threads: of a job on this machine; 1 makes numbers independent of the number of cores.
      platform: JAX's platform of a job, ``cpu``; "": the machine's own.
    """

    file: Path
    title: str
    arms: Mapping[str, Arm]
    stages: Mapping[str, Stage]
    seeds: tuple[int, ...]
    baseline: str
    measures: Mapping[str, Mapping[str, Any]]
    endpoints: Mapping[str, Mapping[str, tuple[str, str, str]]]
    subtitle: str = ""
    scope: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    controls: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, Sequence[tuple[Mapping[str, str], float]]]] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    platform: str = ""

    def cells(self) -> Iterator[Levels]:
        """Every combination of levels that a table names, each once, seeds innermost."""
        seen = set()
        for table in self.tables.values() or ({},):
            for levels in self.conditions(table):
                for seed in self.seeds:
                    cell = {**levels, SEED: str(seed)}
                    if (key := tuple(cell.items())) not in seen:
                        seen.add(key)
                        yield cell

    def conditions(self, chosen: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
        """Combinations of the chosen levels (of a factor that is not chosen, all), without the seed."""
        axes = {name: tuple(levels) for name, levels in self.factors.items()} | {ARM: tuple(self.arms)}
        axes |= {name: tuple(levels) for name, levels in chosen.items() if name != WITHOUT}
        for levels in itertools.product(*axes.values()):
            yield dict(zip(axes, levels, strict=True))

    def settings(self, stage: str, levels: Levels) -> dict[str, Any]:
        """The keys that a stage's own ``set``, the levels of a cell and its seed give the stage's config."""
        keys: dict[str, Any] = dict(self.stages[stage].set)
        for factor, by_stage in self.factors.items():
            for pattern, content in by_stage[levels[factor]].items():
                if re.fullmatch(pattern, stage):
                    keys |= content
        return keys | {"seed": int(levels[SEED])}

    def applies(self, stage: str, levels: Levels) -> bool:
        """Whether the cell has this stage: its levels allow it, and a table that the cell is of needs it."""
        if any(levels[factor] not in allowed for factor, allowed in self.stages[stage].only.items()):
            return False
        tables = [one for one in self.tables.values() if holds(one, levels)]
        return not tables or any(stage not in one.get(WITHOUT, ()) for one in tables)


def holds(table: Mapping[str, Sequence[str]], levels: Levels) -> bool:
    """Whether a cell is one of the table's."""
    return all(levels[factor] in allowed for factor, allowed in table.items() if factor != WITHOUT)


def inputs_of(content: Any) -> set[str]:
    """Names in braces in all texts of a nested value: stages, ``arm``, ``data``, factors."""
    if isinstance(content, Mapping):
        return set().union(*map(inputs_of, content.values()))
    if isinstance(content, list | tuple):
        return set().union(*map(inputs_of, content))
    return set(INPUT.findall(content)) if isinstance(content, str) else set()


def study_name(file: Path) -> str:
    """``demo/study.py``: how a packaged study is named on the command line."""
    return f"{file.parent.name}/{file.name}"


def read(spec: str) -> Study:
    """The study of ``FILE[:arg]``, or of the packaged study of that name.

    Raises:
      UserError: not a study: an unknown or missing key, or a name that is not declared.
    """
    file, _ = find(spec)
    content = dict(read_file(spec))
    where = str(file)
    try:
        content["stages"] = {k: _make(Stage, v, f"{where}: stages.{k}") for k, v in content.get("stages", {}).items()}
        content["arms"] = {k: Arm(*v) for k, v in content.get("arms", {}).items()}
        content["factors"] = {k: _levels(v) for k, v in content.get("factors", {}).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: {error}") from None
    content["seeds"] = tuple(content.get("seeds", ()))
    study = _make(Study, {"file": file, **content}, where)
    _check(study, where)
    return study


def _levels(declared: Any) -> dict[str, Mapping[str, Any]]:
    """Level → {stage pattern: keys}; a tuple of names has levels without keys."""
    if isinstance(declared, Mapping):
        return {str(name): dict(content) for name, content in declared.items()}
    return {str(name): {} for name in declared}


def _make(cls: type, content: Mapping[str, Any], where: str) -> Any:
    fields = {one.name: one for one in dataclasses.fields(cls)}
    if unknown := [name for name in content if name not in fields]:
        raise UserError(f"{where}: unknown key '{unknown[0]}'{suggest(unknown[0], fields)} (keys: {', '.join(fields)})")
    required = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [n for n, one in fields.items() if (one.default, one.default_factory) == required and n not in content]
    if missing:
        raise UserError(f"{where}: '{missing[0]}' is missing")
    return cls(**content)


def _check(study: Study, where: str) -> None:
    """Every name that the study uses is declared."""
    if not study.seeds or not study.arms:
        raise UserError(f"{where}: a study needs at least one arm and one seed")
    _known(study.baseline, study.arms, f"{where}: baseline")
    known = {*study.stages, ARM, "data", *study.factors}
    for name, arm in study.arms.items():
        _known(arm.stage, study.stages, f"{where}: arms.{name}")
    for name, stage in study.stages.items():
        if stage.joins:
            _known(stage.joins, study.stages, f"{where}: stages.{name}.joins")
        if bool(stage.sweep) != bool(stage.chosen_by[0]):
            raise UserError(f"{where}: stages.{name}: 'sweep' and 'chosen_by' are given together or not at all")
        for measure in (*stage.measures, *filter(None, stage.chosen_by[:1])):
            _known(measure, study.measures, f"{where}: stages.{name}")
        for used in inputs_of([stage.config, stage.init, stage.set]):
            _known(used, known, f"{where}: stages.{name}")
        _chosen(study, stage.only, f"{where}: stages.{name}.only", {SEED: tuple(map(str, study.seeds))})
    for named in (*study.endpoints.values(), study.controls):
        for title, (used, measure, _) in named.items():
            _known(used, {*study.stages, ARM}, f"{where}: {title}")
            _known(measure, study.measures, f"{where}: {title}")
    for group, by_title in study.published.items():
        _known(group, study.endpoints, f"{where}: published")
        for title, numbers in by_title.items():
            _known(title, study.endpoints[group], f"{where}: published.{group}")
            for levels, _ in numbers:
                _chosen(study, {k: (level,) for k, level in levels.items()}, f"{where}: published.{group}.{title}")
    for title, table in study.tables.items():
        for unused in table.get(WITHOUT, ()):
            _known(unused, study.stages, f"{where}: tables.{title}.{WITHOUT}")
        _chosen(study, {k: v for k, v in table.items() if k != WITHOUT}, f"{where}: tables.{title}")


def _chosen(
    study: Study, chosen: Mapping[str, Sequence[str]], where: str, more: Mapping[str, Sequence[str]] | None = None
) -> None:
    axes: dict[str, Any] = {**study.factors, ARM: study.arms, **(more or {})}
    for factor, levels in chosen.items():
        _known(factor, axes, where)
        for level in levels:
            _known(level, axes[factor], f"{where}: {factor}")


def _known(name: str, names: Any, where: str) -> None:
    if name not in names:
        raise UserError(f"{where}: '{name}' is not declared{suggest(name, names)} (there are: {', '.join(names)})")
