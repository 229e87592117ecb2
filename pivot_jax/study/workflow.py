"""The jobs of a study on Snakemake: on the cores of this machine, or through a profile on SLURM or Kubernetes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.study.graph import Graph, Job
from pivot_jax.study.progress import Progress
from pivot_jax.study.tasks import FAILED, STUDY_PROCESS
from pivot_jax.train.signals import Interrupted, stopping
from pivot_jax.words import counted

POLL_S = 0.5
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
LOG, SNAKEFILE = "snakemake.txt", "Snakefile"
JOBS = 100  # at a time on a cluster


@dataclass(frozen=True)
class Options:
    """How jobs run: ``cores`` of this machine (0: all), or a Snakemake ``profile``, ``jobs`` at a time."""

    cores: int = 0
    profile: str = ""
    jobs: int = JOBS


class Stopped(Interrupted):
    """A signal stopped the study after its runs had saved."""

    def __str__(self) -> str:
        return "stopped; finished runs and checkpoints are saved, run the same command again to continue"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(graph: Graph, jobs: Sequence[Job], options: Options) -> list[Job]:
    """Does the jobs, each after those that it needs, and shows their progress. Returns those that failed.

    A failed job keeps only the jobs after it from running.

    Raises:
      UserError: Snakemake itself failed.
      Stopped: a signal came; the jobs have saved.
    """
    for job in jobs:
        (graph.root / "jobs" / f"{job.key}.json").unlink(missing_ok=True)  # says that nothing is left to do
    graph.write(list(jobs))
    # A copy in the study's folder: executors that send sources to other machines take only files below it.
    files.write_text(graph.root / SNAKEFILE, Path(__file__).with_name(SNAKEFILE).read_text())
    began = time.time()
    log = graph.root / "logs" / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out, _Stop() as stop, Progress(graph, jobs) as progress:
        process = subprocess.Popen(
            command(graph.root, options), stdout=out, stderr=subprocess.STDOUT,
            env=environment(graph), start_new_session=True,
        )  # fmt: skip
        stop.group = process.pid
        while process.poll() is None:
            time.sleep(POLL_S)
            progress.update()
        stop.group = 0
    if stop.received:
        raise Stopped(0, stop.received)
    failed = [job for job in jobs if not (graph.root / "jobs" / f"{job.key}.json").is_file()]
    if process.returncode and not any(_reason(graph.root, job, began) for job in failed):
        raise UserError(f"Snakemake stopped: {_last_line(log)} (see {log})")
    return failed


def command(root: Path, options: Options) -> list[str]:
    """Snakemake's command line."""
    where = ["--cores", str(options.cores or cores()), "--executor", "local"]
    if options.profile:
        where = ["--profile", options.profile, "--jobs", str(options.jobs)]
        if "default-storage-provider" in _profile(options.profile):
            # Without a shared file system Snakemake keeps its files there; in the study's folder we see them too.
            where += ["--default-storage-prefix", str(root.absolute())]
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(root / SNAKEFILE),
        "--directory", str(root), "--scheduler", "greedy", "--keep-going", "--nolock", "--rerun-incomplete",
        "--rerun-triggers", "mtime", "--nocolor", *where, "--config", f"root={root.absolute()}",
    ]  # fmt: skip


def _profile(folder: str) -> dict[str, Any]:
    """The settings of a Snakemake profile. Raises UserError: no such profile, or not YAML."""
    path = Path(folder, "config.yaml")
    if not path.is_file():
        raise UserError(f"--profile: {folder} holds no config.yaml; see launch/snakemake for two to copy")
    try:
        return dict(yaml.safe_load(path.read_text()) or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a Snakemake profile ({' '.join(str(error).split())[:120]})") from None


def environment(graph: Graph) -> dict[str, str]:
    """Of the jobs: a compilation cache for all, and one thread where the study says so."""
    own = {
        "JAX_COMPILATION_CACHE_DIR": str((graph.root / "compiled").absolute()),
        **os.environ,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "TOKENIZERS_PARALLELISM": "false",
        STUDY_PROCESS: str(os.getpid()),
    }
    if graph.study.threads == 1:
        own |= {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip(), "OMP_NUM_THREADS": "1"}
    return own


def explain(graph: Graph, failed: Sequence[Job], since: float) -> str:
    """One line for each job that failed by itself after the time ``since``, and how many it kept from starting."""
    reasons = {job.key: _reason(graph.root, job, since) for job in failed}
    own = [f"{key}: {reason} (see {graph.root / 'logs' / key}.txt)" for key, reason in reasons.items() if reason]
    after = len(failed) - len(own)
    return "\n".join([*own, *([f"{counted(after, 'job')} after them could not start"] if after else [])])


def _reason(root: Path, job: Job, since: float) -> str:
    """Why a job ended, from its log; "" where it did not start."""
    log = root / "logs" / f"{job.key}.txt"
    started = log.is_file() and log.stat().st_mtime >= since
    lines = log.read_text(errors="replace").splitlines() if started else []
    reasons = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)]
    return reasons[-1] if reasons else next((line for line in reversed(lines) if line.strip()), "")


def _last_line(log: Path) -> str:
    return next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "no output")


class _Stop:
    """Passes a signal that stops a run on to Snakemake and its jobs: they save, and it starts no others."""

    group = 0
    received = 0

    def __enter__(self) -> _Stop:
        self._handlers = {number: signal.signal(number, self._note) for number in stopping()}
        return self

    def _note(self, number: int, frame: Any) -> None:
        del frame
        self.received = number
        if self.group:
            os.killpg(self.group, signal.SIGTERM)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
