"""A study's file expanded to its graph: every run of every cell, the same ones shared, grouped into jobs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax.config.load import find, result_keys
from pivot_jax.data.sources import check as check_source
from pivot_jax.errors import UserError
from pivot_jax.study import budget
from pivot_jax.study.graph import Cell, Graph, Job, Measurement, Rows, Run, content_hash
from pivot_jax.study.matrix import ARM, INPUT, Levels, Stage, Study, inputs_of

EQUAL, ROWS = "equal", "rows"  # settings that are no keys of a config: another stage's budget, rows of the data


def expand(study: Study, root: Path) -> Graph:
    """The graph of a study in the folder ``root``.

    Raises:
      UserError: a stage's config is not valid; the message names the stage.
    """
    graph = Graph(study, root)
    known: dict[str, str] = {}
    for levels in study.cells():
        graph.cells.append(_Expansion(graph, levels, known).cell())
    _group(graph)
    return graph


class _Expansion:
    """The runs of one cell, added to a graph that may have them already.

    Args:
      known: what earlier cells declared → the key of its run. Loading a config takes 20 ms, and most cells share.
    """

    def __init__(self, graph: Graph, levels: Levels, known: dict[str, str]):
        self._graph, self._study, self._levels, self._known = graph, graph.study, levels, known
        self._keys: dict[str, str] = {}

    def cell(self) -> Cell:
        arm = self._study.arms[self._levels[ARM]].stage
        controls = {stage for stage, _, _ in self._study.controls.values()}
        for name in (arm, *(s for s in self._study.stages if self._follows_arm(s) or s in controls)):
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
            trials = tuple(self._add(name, stage, tried) for tried in stage.sweep)
            self._keys[name] = self._choice(name, stage, trials) if trials else self._add(name, stage)
        return self._keys[name]

    def _add(self, name: str, stage: Stage, tried: Mapping[str, Any] | None = None) -> str:
        """The key of a run; ``tried``: the settings of a trial, which takes only the measurement that decides."""
        sources = {prefix: self._resolved(text) for prefix, text in stage.init.items()}
        own = self._study.settings(name, self._levels) | dict(tried or {})
        inputs = self._inputs(_used(stage) | inputs_of(own))
        settings = _map_texts(self._resolved, own)
        rows = Rows(settings.pop(ROWS, stage.rows), *stage.row)
        like = self._key(settings[EQUAL][1]) if EQUAL in settings else ""
        declared = json.dumps([name, self._resolved(stage.config), sources, settings, rows.count, like], default=str)
        if declared in self._known:
            return self._known[declared]
        config = self._config(name, stage, sources, settings, rows)
        key = self._known[declared] = f"{name}-{content_hash(_own_keys(config), self._graph.root)}"
        if key not in self._graph.runs:
            taken = stage.chosen_by[:1] if tried is not None else stage.measures
            measured = tuple(self._measurement(one, key) for one in taken)
            content = json.loads(configs.to_json(config))
            cost = budget.steps(config, rows), budget.flops(config, rows)
            self._graph.runs[key] = Run(key, name, self._levels, content, inputs, measured, rows, *cost)
        return key

    def _choice(self, name: str, stage: Stage, trials: tuple[str, ...]) -> str:
        key = f"{name}-{content_hash([trials, stage.chosen_by])}"
        if key not in self._graph.runs:
            measured = tuple(self._measurement(one, key) for one in stage.measures)
            self._graph.runs[key] = Run(
                key, name, self._levels, {}, (), measured, trials=trials, chosen_by=stage.chosen_by
            )
        return key

    def _config(
        self, name: str, stage: Stage, sources: Mapping[str, str], settings: Mapping[str, Any], rows: Rows
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
            for source in config.data.sources:
                check_source(source)
            return config
        except UserError as error:
            raise UserError(f"{self._study.file}: stages.{name}: {error}") from None

    def _title(self, name: str) -> str:
        return ", ".join([name, *(f"{factor} {level}" for factor, level in self._levels.items() if factor != ARM)])

    def _measurement(self, name: str, key: str) -> Measurement:
        declared = dict(self._study.measures[name])
        kind = declared.pop("kind", name)
        settings = _map_texts(self._resolved, declared)
        inputs = tuple(one for one in self._inputs(inputs_of(declared)) if one != key)
        mark = content_hash([key, kind, settings], self._graph.root)
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


def _own_keys(config: Any) -> dict[str, Any]:
    """The keys of a config that differ from the defaults.

    A result then still belongs to its run when a later version has a new key. The study of docs/study is the test that
    no change of a default takes a result for that of another run.
    """
    return {key: value for key, value in result_keys(config).items() if value != _defaults().get(key)}


@functools.cache
def _defaults() -> dict[str, Any]:
    return result_keys(configs.base())


def _map_texts(change: Callable[[str], str], content: Any) -> Any:
    """A nested value with every text changed."""
    if isinstance(content, Mapping):
        return {key: _map_texts(change, value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_map_texts(change, value) for value in content]
    return change(content) if isinstance(content, str) else content


def _used(stage: Stage) -> set[str]:
    """Names in braces of what a stage declares, the levels' keys left out."""
    return inputs_of([stage.config, stage.init, stage.set])


def _group(graph: Graph) -> None:
    """Jobs: a run and those before it whose stage ``joins`` its stage and that nothing else starts from."""
    users: dict[str, list[str]] = {key: [] for key in graph.runs}
    for run in graph.runs.values():
        for source in set(run.sources):
            users[source].append(run.key)

    def joins(key: str) -> bool:
        into = graph.study.stages[graph.runs[key].stage].joins
        return len(users[key]) == 1 and graph.runs[users[key][0]].stage == into

    members: dict[str, list[str]] = {}
    home: dict[str, str] = {}
    for key in reversed(list(graph.runs)):  # users come after what they use
        home[key] = home[users[key][0]] if joins(key) else key
        members.setdefault(home[key], []).insert(0, key)
    for key in graph.runs:
        if home[key] != key:
            continue
        sources = {one for member in members[key] for one in graph.runs[member].sources}
        needs = tuple(dict.fromkeys(home[one] for one in graph.runs if one in sources and home[one] != key))
        graph.jobs[key] = Job(key, tuple(members[key]), needs)
