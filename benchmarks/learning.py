"""Does online RL raise the share of right answers to unseen images? From the demo's Stage 1b, by algorithm and seed.

    python benchmarks/learning.py                      # all runs of three seeds
    python benchmarks/learning.py --prompts fresh --only rloo dapo --steps 300

Each seed trains its own stages 0 to 1b (those of ``configs/demo``), from which every run starts. A run is that of
``configs/demo/grpo.py`` with another ``rl.algorithm``: no setting was searched for. Sampled answers are four to each
of the demo's 600 test questions, at temperature 1; greedy ones are those of ``pivot-jax eval``. Differences are after
minus before on the same questions, with seeds and questions resampled. One thread a run, as many runs at a time as
cores; a run that is finished is not run again.

Prompts are those of the demo's GRPO arm, ``pairs`` (1,200, half of which ask for a description), or ``fresh``:
questions about new scenes of the same world, none of which comes twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
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
DEMO = ROOT / "configs" / "demo"
BASE = "stage1b"
ANSWERS = "answers"  # of the demo's study: its greedy answers to the test questions
PROMPTS = ("pairs", "fresh")
BATCH = 16  # prompts of a rollout, as in configs/demo/grpo.py
SAMPLES = 4  # answers to a test question at temperature 1


def folder_of(name: str, prompts: str = "pairs") -> str:
    """Of a run, in its seed's folder."""
    return name.replace(", ", "-").replace(" ", "-") + ("-fresh" if prompts == "fresh" and name != BASE else "")


@dataclass(frozen=True)
class Place:
    """The folder of the benchmark: the demo's data, and a folder of runs for each seed."""

    root: Path

    @cached_property
    def graph(self) -> Any:
        from pivot_jax.study.run import open_study

        return open_study(str(DEMO / "study.py"), self.root)

    def folder(self, seed: int) -> Path:
        return self.root / f"seed{seed}"


def job(root: Path, seed: int, name: str, steps: int, prompts: str) -> None:
    """One run, or the stages that all runs of a seed start from; and its greedy answers."""
    from pivot_jax.rl.run import run
    from pivot_jax.study.measures import KINDS, Task

    place, folder = Place(root), folder_of(name, prompts)
    if name == BASE:
        for stage in ("stage0", "stage1a", BASE):
            run(base_config(place, seed, stage), place.folder(seed) / stage)
    else:
        run(config_of(place, seed, name, steps, prompts), place.folder(seed) / folder)
    settings = place.graph.study.measures["answers"] | {"path": str(place.graph.data)}
    KINDS["answers"](Task(place.folder(seed) / folder, ANSWERS, settings))
    np.save(place.folder(seed) / f"sampled-{folder}.npy", sample(place, seed, folder))


def base_config(place: Place, seed: int, stage: str) -> Any:
    from pivot_jax import config as configs

    folder = place.folder(seed)
    start = {"stage1a": {"init.vision": f"run:{folder}/stage0"}, BASE: {"init.": f"run:{folder}/stage1a"}}
    return configs.load(f"{DEMO / stage}.py:{place.graph.data}", {"seed": seed} | start.get(stage, {}))


def fresh_prompts(root: Path, steps: int) -> Path:
    """Folder of a data set with a question of its own for every prompt of ``steps`` rollouts."""
    return root / "scenes" / f"fresh{steps}" / "1.0.0"


def config_of(place: Place, seed: int, name: str, steps: int, prompts: str) -> Any:
    from pivot_jax import config as configs

    changes = RUNS[name] | {"seed": seed, "name": f"{name}, seed {seed}", "train.steps": steps}
    changes["init."] = f"run:{place.folder(seed)}/{BASE}"
    if prompts == "fresh":
        path = fresh_prompts(place.root, steps)
        changes["data.sources"] = ({"format": "tfds", "path": str(path), "split": "vqa"},)
        changes["rl.rewards"] = ({"name": "text", "extract": "whole"},)
    return configs.load(f"{DEMO}/grpo.py:{place.graph.data}", changes)


def sample(place: Place, seed: int, folder: str) -> np.ndarray:
    """1 where a sampled answer to a test question is right: [questions, SAMPLES]."""
    from pivot_jax.data.sources.prompts import prompt_example
    from pivot_jax.eval.benchmarks import suite
    from pivot_jax.eval.scoring import parse
    from pivot_jax.rl.parts import sampling_of
    from pivot_jax.rollout.engine import Prompt
    from pivot_jax.rollout.sampler import Sampler, Shape
    from pivot_jax.train.open import open_run

    model, questions = open_run(place.folder(seed) / folder), suite.examples("scenes", place.graph.data)
    examples = [prompt_example(question) for question in questions]
    prompts = [Prompt(example, model.processor.encode(example), i) for i, example in enumerate(examples)]
    sampler = Sampler(model.mllm, model.processor, Shape(slots=64))
    sampler.update(model.params, 0)
    section = config_of(place, seed, next(iter(RUNS)), 1, "pairs").rl
    found = sampler.generate(prompts, SAMPLES, sampling_of(section, model.processor), (seed, 0))
    sampler.close()
    right = [
        [parse.plain(model.processor.chat.decode(one.tokens)) == parse.plain(example.extra["answer"]) for one in own]
        for example, own in zip(examples, found.responses, strict=True)
    ]
    return np.asarray(right, float)


def start(root: Path, seed: int, name: str, steps: int, prompts: str) -> None:
    """:func:`job` in a process of one thread.

    Raises:
      RuntimeError: it failed.
    """
    from pivot_jax.study.workflow import ONE_THREAD

    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip(),
        "OMP_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str((root / "compiled").absolute()),
    }
    command = [sys.executable, __file__, "--workdir", str(root), "--steps", str(steps), "--prompts", prompts]
    command += ["--job", str(seed), name]
    started = time.perf_counter()
    log = root / f"seed{seed}" / f"{folder_of(name, prompts)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        if subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT).returncode:
            raise RuntimeError(f"{name}, seed {seed} failed; see {log}")
    print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)


def greedy(folder: Path, name: str) -> np.ndarray:
    from pivot_jax.eval.score import score_file

    return np.asarray(score_file(folder / name / "answers" / f"{ANSWERS}.jsonl", "scenes").scores, float)


def compared(root: Path, seeds: list[int], name: str) -> dict[str, Any]:
    """Accuracies before and after, percent; differences in points with their 95 % intervals."""
    from pivot_jax.eval import statistics

    folders = [root / f"seed{seed}" for seed in seeds]
    results = [json.loads((folder / name / "result.json").read_text()) for folder in folders]
    found: dict[str, Any] = {"seconds": [round(result["seconds"]) for result in results]}
    for kind, before, after in (
        (
            "sampled",
            np.asarray([np.load(folder / f"sampled-{BASE}.npy").mean(1) for folder in folders]),
            np.asarray([np.load(folder / f"sampled-{name}.npy").mean(1) for folder in folders]),
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
    parser.add_argument("--prompts", choices=PROMPTS, default="pairs")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/learning_PROMPTS.json")
    parser.add_argument("--job", nargs=2, metavar=("SEED", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job(args.workdir, int(args.job[0]), args.job[1], args.steps, args.prompts)
        return
    from pivot_jax.data import scenes
    from pivot_jax.data.scenes import World
    from pivot_jax.study import data

    record = Record(args.json or measure.RESULTS / f"learning_{args.prompts}.json", "cpu")
    record.content |= {
        "prompts": args.prompts,
        "steps": args.steps,
        "seeds": args.seeds,
        "learning_rate": RATE,
        "samples": SAMPLES,
    }
    place = Place(args.workdir)
    data.prepare(place.graph.study.data, place.graph.data)
    if args.prompts == "fresh":
        world = World(**place.graph.study.data["world"] | {"describe_share": 0.0})  # one turn a row
        name = fresh_prompts(place.root, args.steps).parent.name
        scenes.prepare(place.root, world, {"vqa": args.steps * BATCH}, 1, name=name)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda seed: start(args.workdir, seed, BASE, args.steps, args.prompts), args.seeds))
        jobs = [(name, seed) for name in args.only for seed in args.seeds]
        list(pool.map(lambda x: start(args.workdir, x[1], x[0], args.steps, args.prompts), jobs))
    for name in args.only:
        found = compared(args.workdir, args.seeds, folder_of(name, args.prompts))
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
