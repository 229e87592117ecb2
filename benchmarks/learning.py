"""Does online RL raise the share of right answers to unseen images? From the demo's Stage 1b, by algorithm and seed.

    python benchmarks/learning.py                          # all runs of three seeds
    python benchmarks/learning.py --only rloo dapo --steps 300

Each seed trains its own stages 0 to 1b (those of ``configs/demo``), from which every run starts. A run is that of
``configs/demo/grpo.py`` with another ``rl.algorithm``: no setting was searched for. Sampled answers are four to each
of the demo's 600 test questions, at temperature 1; greedy ones are those of ``pivot-jax eval``. Differences are after
minus before on the same questions, with seeds and questions resampled. One thread a run, as many runs at a time as
cores; a run that is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import ROOT, Record

RATE = 3e-4
RUNS: dict[str, dict[str, Any]] = {
    "reinforce++": {"rl.algorithm": "reinforce++"},
    "rloo": {"rl.algorithm": "rloo"},
    "trl-grpo": {"rl.algorithm": "trl-grpo"},
    "dapo": {"rl.algorithm": "dapo"},
    "trl-grpo, encoder frozen": {
        "rl.algorithm": "trl-grpo",
        "optimizer.rules": (("vision/.*", "frozen"), (".*", RATE)),
    },
}
BASE = "stage1b"
SAMPLES = 4  # answers to a test question at temperature 1


def folder_of(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def job(root: Path, seed: int, name: str, steps: int) -> None:
    """One run, or the stages that all runs of a seed start from; and its greedy answers."""
    from pivot_jax import config as configs
    from pivot_jax.rl.run import run
    from pivot_jax.study import measure as answers
    from pivot_jax.study import training
    from pivot_jax.study.settings import Study

    study = Study.open(root, ROOT / "configs" / "demo")
    if name == BASE:
        for stage in ("stage0", "stage1a", BASE):
            training.train(study, stage, seed)
    else:
        test = {"format": "tfds", "path": str(study.data), "split": "test"}
        changes = RUNS[name] | {
            "seed": seed,
            "name": f"{name}, seed {seed}",
            "train.steps": steps,
            "rl.heldout.sources": (test,),
            "rl.heldout.responses": SAMPLES,
            "eval.every": steps // 3,
            "eval.at_start": True,
        }
        config = configs.load(f"{study.configs}/grpo.py:{study.folder(seed)}", changes)
        run(config, study.folder(seed) / folder_of(name))
    answers.answers(study, seed, folder_of(name), blank=False)


def start(root: Path, seed: int, name: str, steps: int) -> float:
    """:func:`job` in a process of one thread; its seconds.

    Raises:
      RuntimeError: it failed.
    """
    from pivot_jax.study.demo import ONE_THREAD

    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip(),
        "OMP_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str((root / "compiled").absolute()),
    }
    command = [sys.executable, __file__, "--workdir", str(root), "--steps", str(steps), "--job", str(seed), name]
    started = time.perf_counter()
    log = root / f"seed{seed}" / f"{folder_of(name)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        if subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT).returncode:
            raise RuntimeError(f"{name}, seed {seed} failed; see {log}")
    seconds = time.perf_counter() - started
    print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
    return seconds


def sampled(workdir: Path, step: int) -> np.ndarray:
    """Share of right answers among those sampled to each test question: [questions]."""
    found: dict[str, list[float]] = {}
    for line in (workdir / "eval" / f"heldout-{step}.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["id"], []).append(float(row["reward"]))
    return np.asarray([np.mean(found[key]) for key in sorted(found)])


def greedy(folder: Path, name: str) -> np.ndarray:
    from pivot_jax.eval.score import score_file

    return np.asarray(score_file(folder / "answers" / f"{folder_of(name)}.jsonl", "scenes").scores, float)


def compared(root: Path, seeds: list[int], name: str, steps: int) -> dict[str, Any]:
    """Accuracies before and after, percent; differences in points with their 95 % intervals."""
    from pivot_jax.eval import statistics

    folders = [root / f"seed{seed}" for seed in seeds]
    found: dict[str, Any] = {}
    for kind, before, after in (
        (
            "sampled",
            np.asarray([sampled(folder / folder_of(name), 0) for folder in folders]),
            np.asarray([sampled(folder / folder_of(name), steps) for folder in folders]),
        ),
        (
            "greedy",
            np.asarray([greedy(folder, BASE) for folder in folders]),
            np.asarray([greedy(folder, name) for folder in folders]),
        ),
    ):
        gap = statistics.difference(after, before).scaled(100)
        found[kind] = {
            "before": round(100 * float(before.mean()), 1),
            "after": round(100 * float(after.mean()), 1),
            "difference": [round(gap.value, 1), round(gap.low, 1), round(gap.high, 1)],
            "of each seed": [round(100 * float(x), 1) for x in (after - before).mean(1)],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=ROOT / "runs" / "learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="default: all")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "learning.json")
    parser.add_argument("--job", nargs=2, metavar=("SEED", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job(args.workdir, int(args.job[0]), args.job[1], args.steps)
        return
    from pivot_jax.study import demo
    from pivot_jax.study.settings import Study

    record = Record(args.json, "cpu")
    record.content |= {"steps": args.steps, "seeds": args.seeds, "learning_rate": RATE, "samples": SAMPLES}
    demo.prepare(Study.open(args.workdir, ROOT / "configs" / "demo"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda seed: start(args.workdir, seed, BASE, args.steps), args.seeds))
        jobs = [(name, seed) for name in args.only for seed in args.seeds]
        seconds = dict(zip(jobs, pool.map(lambda x: start(args.workdir, x[1], x[0], args.steps), jobs), strict=True))
    for name in args.only:
        took = [round(seconds[name, seed]) for seed in args.seeds]
        found = compared(args.workdir, args.seeds, name, args.steps) | {"seconds": took}
        record.add(name, found)
        for kind in ("sampled", "greedy"):
            one = found[kind]
            gap, low, high = one["difference"]
            print(
                f"{name:26}{kind:9}{one['before']:5.1f} → {one['after']:5.1f} %  {gap:+.1f} [{low:+.1f}, {high:+.1f}]"
            )
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
