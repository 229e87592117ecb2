"""``pivot-jax study``: a study's data, its jobs on the workflow engine, and its report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pivot_jax import files
from pivot_jax.errors import UserError, suggest
from pivot_jax.study import data, matrix, workflow
from pivot_jax.study.expand import expand
from pivot_jax.study.graph import Graph, result_file, run_folder
from pivot_jax.train.lock import locked
from pivot_jax.words import counted

MARK = "study.json"  # says that a study wrote a folder


@dataclass(frozen=True)
class Choice:
    """What to do of a study: only these ``seeds``; the stages ``until`` and what they need; ``forcerun`` ones again.

    Of none, all are done.
    """

    seeds: tuple[int, ...] = ()
    until: tuple[str, ...] = ()
    forcerun: tuple[str, ...] = ()


def open_study(spec: str, root: Path, seeds: Sequence[int] = ()) -> Graph:
    """The graph of a study file, to be done in ``root``, with all of its seeds or with some.

    Raises:
      UserError: no study, a seed that it does not declare, or a stage's config is wrong.
    """
    study = matrix.read(spec)
    if unknown := [seed for seed in seeds if seed not in study.seeds]:
        known = ", ".join(map(str, study.seeds))
        raise UserError(f"--seeds: {unknown[0]} is no seed of {study.file} (there are: {known})")
    return expand(replace(study, seeds=tuple(seeds)) if seeds else study, root)


def run(spec: str, workdir: str | Path, choice: Choice | None = None, options: workflow.Options | None = None) -> Path:
    """Does what is left of a study and writes its report; returns the report's path.

    Raises:
      UserError: a job failed (the others are done first; the message gives each reason), another process runs the
        study, or the folder holds files that no study wrote.
      workflow.Stopped: stopped by a signal, after saving.
    """
    choice, options = choice or Choice(), options or workflow.Options()
    graph = open_study(spec, Path(workdir), choice.seeds)
    claim(graph.root)
    with locked(graph.root, "a study is running"):
        files.write_text(graph.root / MARK, f'{{"study": "{graph.study.file.name}"}}\n')
        data.prepare(graph.study.data, graph.data)
        graph.link()
        force(graph, choice.forcerun)
        jobs = graph.needed(targets(graph, choice.until))
        print(f"study in {graph.root}: {counted(len(jobs), 'job')} of {len(graph.jobs)} to do", flush=True)
        began = time.time()
        try:
            failed = workflow.run(graph, jobs, options) if jobs else []
        finally:
            note_time(graph.root, time.time() - began)
        if failed:
            raise UserError(workflow.explain(graph, failed, began))
        if choice.until:
            return graph.root
        from pivot_jax.study.report import write_report

        page = write_report(graph)
    print(f"report: {page}")
    return page


def report(spec: str, workdir: str | Path, seeds: Sequence[int] = ()) -> Path:
    """Writes the report of what is finished, with all seeds or some, and returns its path.

    Raises:
      UserError: nothing is finished.
    """
    from pivot_jax.study.report import write_report

    graph = open_study(spec, Path(workdir), seeds)
    if not any(graph.trained(key) for key in graph.runs):
        raise UserError(f"{workdir}: no run of {spec} is finished there; run `pivot-jax study {spec}` first")
    return write_report(graph)


def note_time(root: Path, seconds: float) -> None:
    """Adds to ``seconds.json``, the wall time of all calls for this study."""
    path = root / "seconds.json"
    before = json.loads(path.read_text()) if path.exists() else 0.0
    files.write_text(path, json.dumps(before + seconds))


def claim(root: Path) -> None:
    """Raises UserError: a folder with files that no study wrote."""
    names = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
    foreign = [name for name in names if not name.startswith(".")]
    if foreign and MARK not in names:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise UserError(f"{root} holds files that no study wrote ({shown}); name a new or an empty folder")


def targets(graph: Graph, until: Sequence[str]) -> list[str] | None:
    """The runs of these stages; None: of all."""
    for name in until:
        _known(graph, name, "--until")
    return [key for key, run in graph.runs.items() if run.stage in until] if until else None


def force(graph: Graph, stages: Sequence[str]) -> list[str]:
    """Sets aside the results and checkpoints of these stages' runs and of all runs after them. Returns their keys."""
    for name in stages:
        _known(graph, name, "--forcerun")
    again: list[str] = []
    for key, run in graph.runs.items():
        if run.stage in stages or any(one in again for one in run.sources):
            again.append(key)
    aside = graph.root / "replaced" / time.strftime("%Y%m%d-%H%M%S")
    for key in again:
        results = [result_file(graph.root, name) for name in (key, *(m.result for m in graph.runs[key].measurements))]
        for path in (*results, run_folder(graph.root, key)):
            if path.exists() or path.is_symlink():
                aside.mkdir(parents=True, exist_ok=True)
                path.rename(aside / path.name)
    if aside.exists():
        print(f"results and checkpoints of {counted(len(again), 'run')} moved to {aside}", flush=True)
    return again


def _known(graph: Graph, name: str, option: str) -> None:
    stages = sorted({run.stage for run in graph.runs.values()})
    if name not in stages:
        raise UserError(f"{option}: '{name}' is no stage of this study{suggest(name, stages)} ({', '.join(stages)})")
