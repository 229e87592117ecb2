"""One job of a study in its own process, started by the workflow engine: ``… -m pivot_jax.study.tasks ROOT JOB DONE``.

DONE is the file that says that nothing of the job is left to do.

What is done already is kept: a finished run, a finished measurement, the checkpoints of a run that was stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pivot_jax import config as configs
from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.study import store
from pivot_jax.study.graph import is_finished, left_there, result_file, run_folder
from pivot_jax.study.store import Outcome

FAILED = "error: "  # prefix of the log line with the reason of a failure
STARTED = "PIVOT_JOB_STARTED"  # variable: seconds since 1970 at which the engine started the process
STUDY_PROCESS = "PIVOT_STUDY_PROCESS"  # variable: with whose death Snakemake ends, and with it the jobs, which save
POINTS = 100  # of a training curve in a result
_PARENT_DEATH_SIGNAL = 1  # of Linux' prctl


def main(arguments: list[str]) -> int:
    root, job, done = Path(arguments[0]), arguments[1], Path(arguments[2])
    end_with_parent(signal.SIGTERM)
    content = json.loads((root / "graph.json").read_text())
    if content["platform"]:
        os.environ["JAX_PLATFORMS"] = content["platform"]
    from pivot_jax.parallel import hosts, runtime

    runtime.keep_freed_memory()
    # The line of a process that ends because of another one has the prefix too.
    peers = hosts.start(configs.load().train.peer_timeout_s, FAILED.rstrip(": "))
    from pivot_jax.train.signals import Interrupted

    def work() -> int:
        try:
            _perform_all(root, job, content, done)
        except Interrupted as stop:
            print(f"stopped after step {stop.step}", flush=True)
            return 128 + stop.signum
        return 0

    try:
        return peers.run(work) if peers else work()
    except UserError as error:
        print(f"{FAILED}{error}", flush=True)
        return 1


def _perform_all(root: Path, job: str, content: dict[str, Any], done: Path) -> None:
    """The runs of a job, and the file that says so."""
    from pivot_jax.parallel.hosts import is_first

    with _alone(root, job):
        began = time.time()
        for key in content["jobs"][job]["runs"]:
            perform(root, content["runs"][key])
        if is_first():
            ended, started = time.time(), float(os.environ.get(STARTED, began))
            spent = {"started": started, "startup_s": began - started, "work_s": ended - began, "ended": ended}
            files.write_text(done, json.dumps(spent))


def end_with_parent(number: int) -> None:
    """Linux: this process gets the signal when the one that started it dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(number))


@contextlib.contextmanager
def _alone(root: Path, job: str) -> Iterator[None]:
    """Waits for an earlier process of the same job, which is saving its state after the study was stopped."""
    folder = root / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{job}.lock").open("a") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def perform(root: Path, run: Mapping[str, Any]) -> None:
    """Trains a run unless that is done, and takes the measurements that are missing."""
    from pivot_jax.parallel import hosts
    from pivot_jax.study import measures

    key, folder = run["key"], run_folder(root, run["key"])
    if not is_finished(root, key):
        outcome = _choose(root, run) if run["trials"] else _train(folder, run)
        if hosts.is_first():
            _keep(result_file(root, key), outcome)
            files.write_text(folder / "finished.json", "{}")
    if not hosts.is_first():  # measurements are taken by one process
        return
    for one in run["measurements"]:
        kept = result_file(root, one["result"])
        if kept.is_file() and left_there(folder, one["kind"], one["name"]):
            continue
        began = time.perf_counter()
        print(f"{key}: {one['name']}", flush=True)
        outcome = measures.KINDS[one["kind"]](measures.Task(folder, one["name"], one["settings"]))
        seconds = round(time.perf_counter() - began, 2)
        _keep(kept, Outcome({**outcome.numbers, "seconds": seconds}, outcome.items))


def _keep(path: Path, outcome: Outcome) -> None:
    """Saves a result. One that is there, of a run whose checkpoint is gone, stays: reports may have its numbers."""
    if not path.is_file():
        store.save(path, outcome)


def _train(folder: Path, run: Mapping[str, Any]) -> Outcome:
    """Trains a run, or resumes it after an interruption."""
    from pivot_jax.rl.run import run as train
    from pivot_jax.train.metrics import read

    config = configs.from_json(json.dumps(run["config"]), f"{run['key']} in graph.json")
    print(f"{run['key']}: training", flush=True)
    result = train(config, folder)
    lines = read(folder / "metrics.jsonl")
    # From all log lines: after a resume, this process has seen only the last ones.
    spans = [line["step"] - before for line, before in zip(lines, [0, *(x["step"] for x in lines)], strict=False)]
    seconds = [line["perf/step_time_s"] * span for line, span in zip(lines, spans, strict=True)]
    flops = sum(line["perf/tflops_per_s"] * 1e12 * time for line, time in zip(lines, seconds, strict=True))
    return Outcome(
        {
            "stage": run["stage"],
            "levels": run["levels"],
            "steps": result.step,
            "samples": result.step * config.data.batch_size,
            "metrics": result.metrics,
            "seconds": round(sum(seconds), 2),
            "flops": flops,
            "trained": json.loads((folder / "trained_parameters.json").read_text()),
            "config": configs.fingerprint(config),
            "curves": _curves(lines),
        }
    )


def _curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Logged metrics by name, at most :data:`POINTS` of each: for the report, where the run's folder is gone."""
    kept = lines[:: -(-len(lines) // POINTS)] if lines else []
    names = [name for name in lines[0] if all(isinstance(line.get(name), int | float) for line in kept)] if kept else []
    return {n: [float(f"{line[n]:.6g}") for line in kept] for n in names if not n.startswith("perf/")}


def _choose(root: Path, run: Mapping[str, Any]) -> Outcome:
    """The best of several runs on validation data, which becomes this one's folder."""
    measure, metric = run["chosen_by"]
    scores = {key: float(store.load(result_file(root, name)).numbers[metric]) for key, name in run["trials"].items()}
    best = max(scores, key=lambda key: scores[key])
    folder = run_folder(root, run["key"])
    if not folder.is_symlink():
        folder.symlink_to(best, target_is_directory=True)
    numbers = store.load(result_file(root, best)).numbers
    return Outcome({**numbers, "chosen": best, "by": f"{measure}: {metric}", "scores": scores})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
