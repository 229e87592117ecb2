"""``pivot-jax demo``: the whole study in miniature. Data and tokenizer, then one process per seed, then the report.

The seeds are independent from stage 0 on, and the models are so small that one core per seed is the fastest use of
several cores. With one thread per process the numbers do not depend on the number of cores. A stopped demo resumes: its
data sets, finished tasks and checkpoints are kept.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.study.settings import Study
from pivot_jax.study.watch import Watch
from pivot_jax.study.worker import FAILED
from pivot_jax.train.signals import Interrupted, stopping
from pivot_jax.words import counted

POLL_S = 0.5
LOG = "log.txt"
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def run(workdir: str | Path, configs: Path | None = None) -> Path:
    """Runs or resumes the demo in ``workdir`` and returns the report's path.

    Raises:
      UserError: a stage failed (the message gives the reason), or the folder holds another study.
      train.signals.Interrupted: stopped by a signal, after saving.
    """
    started = time.perf_counter()
    study = Study.open(Path(workdir), configs)
    study.claim()
    seeds = study.settings.seeds
    print(f"demo in {study.root}: {counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))})", flush=True)
    prepare(study)
    _seeds(study)
    from pivot_jax.study.page import write_report

    report = write_report(study, _total_seconds(study, time.perf_counter() - started))
    print(f"report: {report}")
    return report


def prepare(study: Study) -> None:
    """Draws the images and trains the tokenizer, unless they exist."""
    from pivot_jax.data import scenes
    from pivot_jax.data.processing.tokenizer import train_bpe

    settings = study.settings
    if not (study.data / "dataset_info.json").is_file():
        print(f"drawing {sum(settings.sizes.values()):,} images", flush=True)
    scenes.prepare(study.root, settings.world, settings.sizes, settings.data_seed, name="demo")
    if not (study.tokenizer / "tokenizer.json").is_file():
        train_bpe(_corpus(study), settings.vocabulary, study.tokenizer)


def _corpus(study: Study) -> list[str]:
    """Training texts for the tokenizer, none from a test split."""
    from pivot_jax.data import scenes

    texts = []
    for split in ("caption", "vqa", "preference"):
        rows = scenes.open_split(study.data, split, images=False)
        for index in range(min(len(rows), 1000)):
            row = rows[index]
            if row["conversations"]:
                texts += [turn["value"].removeprefix("<image>\n") for turn in json.loads(row["conversations"])]
            else:
                texts += [row[key].decode().removeprefix("<image>\n") for key in ("prompt", "chosen", "rejected")]
    return texts


class Stopped(Interrupted):
    """A signal stopped the demo after its runs had saved."""

    def __str__(self) -> str:
        return "stopped; finished tasks and checkpoints are saved, run the same command again to continue"


@dataclass
class _Worker:
    seed: int
    process: subprocess.Popen[bytes]
    log: Path


def _seeds(study: Study) -> None:
    """Runs all seeds, as many at a time as there are cores, and shows their progress."""
    waiting = list(study.settings.seeds)
    running: list[_Worker] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with _Forward(running) as stop, Watch(study, cores) as watch:
        while waiting or running:
            while waiting and len(running) < cores and not stop.received:
                running.append(_start(study, waiting.pop(0)))
            time.sleep(POLL_S)
            watch.update()
            for worker in [w for w in running if w.process.poll() is not None]:
                running.remove(worker)
                if worker.process.returncode and not stop.received:
                    _stop(running)
                    raise UserError(_why(worker))
            if stop.received and not running:
                break
    if stop.received:
        raise Stopped(0, stop.received)


def _start(study: Study, seed: int) -> _Worker:
    folder = study.folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str((study.root / "compiled").absolute()),
        **os.environ,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "JAX_PLATFORMS": "cpu",  # a GPU would be slower at this size, and would round differently
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip(),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "pivot_jax.study.worker", str(study.root), str(seed), str(study.configs)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    return _Worker(seed, process, log)


class _Forward:
    """Ends the workers, which save first, at a signal that stops a run."""

    def __init__(self, running: list[_Worker]):
        self._running, self.received = running, 0

    def __enter__(self) -> _Forward:
        self._handlers = {n: signal.signal(n, self._note) for n in stopping()}
        return self

    def _note(self, number: int, frame: Any) -> None:
        del frame
        self.received = number
        for worker in self._running:
            worker.process.send_signal(signal.SIGTERM)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        _stop(self._running)


def _stop(running: list[_Worker]) -> None:
    """Ends the workers. One that is training saves a checkpoint first."""
    for worker in running:
        worker.process.terminate()
    for worker in running:
        worker.process.wait()
    running.clear()


def _why(worker: _Worker) -> str:
    """Why a worker ended, from its log."""
    lines = worker.log.read_text(errors="replace").splitlines()
    reasons = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)]
    reason = reasons[-1] if reasons else next((line for line in reversed(lines) if line.strip()), "no output")
    return f"seed {worker.seed} stopped: {reason} (see {worker.log})"


def _total_seconds(study: Study, seconds: float) -> float:
    """Wall time of all calls for this study."""
    path = study.root / "seconds.json"
    before = json.loads(path.read_text()) if path.exists() else 0.0
    files.write_text(path, json.dumps(before + seconds))
    return before + seconds
