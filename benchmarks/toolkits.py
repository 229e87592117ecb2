"""Seconds to answer MMVP with lmms-eval's own class of Hugging Face's LLaVA, and with `pivot-jax eval`.

    python benchmarks/toolkits.py --mmvp FOLDER --python TOOLKITS/bin/python [--workdir RUN] [--questions 300]

Both answer the same questions in lmms-eval's words with the same weights: those of a run, which is exported as a LLaVA
folder, or of a small random model (`--workdir` left out). Sides take turns, each as a user starts it: a process that
imports, loads, compiles, answers and scores. Of lmms-eval also the seconds that it counts itself, of `generate` alone.
The answers have to be equal; those that are not are counted and shown. `--python` is that of an environment with
lmms-eval 0.7, PyTorch and decord.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import measure
from measure import ROOT, Record, SideError

TASK = """\
include: {installed}/tasks/mmvp/mmvp.yaml
task: mmvp_local
dataset_path: parquet
dataset_kwargs:
  data_files: {{train: {file}}}
"""
BATCH = 16
CONFIG = {
    "name": "random",
    "model.vision": {"image_size": 224, "patch_size": 16, "width": 192, "depth": 6, "heads": 3, "mlp_dim": 768},
    "model.decoder": {
        "vocab_size": 2048, "width": 256, "depth": 6, "heads": 8, "kv_heads": 4, "mlp_dim": 768,
    },
    "data.image.size": 224,
    "data.batch_size": 1,
    "data.max_length": 512,
    "train.steps": 1,
    "optimizer.rules": ((".*", 0.0),),
}  # fmt: skip


@dataclass(frozen=True)
class Questions:
    """The first questions of MMVP: for us a folder with ``data.json``, for lmms-eval one with a task file."""

    ours: Path
    tasks: Path
    count: int


def command(argv: list[Any], made: str = "", **environment: str) -> float:
    """Seconds of a process. Raises SideError where it fails, or does not write the file ``made``.

    lmms-eval ends with code 0 after an error.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode or (made and not glob.glob(made, recursive=True)):
        raise SideError(f"{argv[:4]} ended with code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return seconds


def questions(mmvp: Path, count: int, installed: str, folder: Path) -> Questions:
    rows = json.loads((mmvp / "data.json").read_text())[:count]
    ours, tasks = folder / "mmvp", folder / "tasks"
    ours.mkdir()
    tasks.mkdir()
    (ours / "images").symlink_to((mmvp / "images").resolve())
    (ours / "data.json").write_text(json.dumps(rows))
    published = []
    for row in rows:
        question, _, options = row["question"].replace("<image>", "").strip().partition(" Options: ")
        image = {"bytes": (mmvp / row["images"][0]).read_bytes(), "path": Path(row["images"][0]).name}
        published.append(
            {"Index": int(row["id"]), "Question": question, "Options": options, "Correct Answer": row["answer"],
             "image": image}
        )  # fmt: skip
    table = datasets.Dataset.from_list(published).cast_column("image", datasets.Image())
    table.to_parquet(tasks / "mmvp.parquet")
    (tasks / "mmvp_local.yaml").write_text(TASK.format(installed=installed, file=tasks / "mmvp.parquet"))
    return Questions(ours, tasks, len(rows))


def random_run(asked: Questions, folder: Path) -> Path:
    """A run of one step that changes nothing: random weights, and a tokenizer of the questions."""
    from pivot_jax.data.processing.tokenizer import train_bpe

    rows = json.loads((asked.ours / "data.json").read_text())
    turns = [
        {"id": row["id"], "image": row["images"][0],
         "conversations": [{"from": "human", "value": row["question"]}, {"from": "gpt", "value": row["answer"]}]}
        for row in rows[:4]
    ]  # fmt: skip
    (asked.ours / "turns.json").write_text(json.dumps(turns))
    words = train_bpe([row["question"] for row in rows] * 4, 2000, folder / "tokenizer")
    sources = ({"format": "llava", "path": str(asked.ours / "turns.json")},)
    config = CONFIG | {"tokenizer.path": str(words), "data.sources": sources}
    (folder / "random.py").write_text(f"def get_config():\n    return {config!r}\n")
    command([sys.executable, "-m", "pivot_jax.cli", "train", "--config", folder / "random.py", "--workdir",
             folder / "run"])  # fmt: skip
    return folder / "run"


def ours(workdir: Path, asked: Questions, out: Path) -> tuple[dict[str, float], list[str]]:
    argv = [sys.executable, "-m", "pivot_jax.cli", "eval", "--workdir", workdir, "--benchmark", "mmvp"]
    argv += ["--data", asked.ours, "--toolkit", "lmms-eval", "--out", out / "ours.jsonl"]
    seconds = command([*argv, f"--config.eval.batch_size={BATCH}"])
    rows = map(json.loads, (out / "ours.jsonl").read_text().splitlines())
    return {"command_s": seconds}, [row["answer"] for row in sorted(rows, key=lambda row: int(row["question_id"]))]


def theirs(python: Path, exported: Path, asked: Questions, out: Path) -> tuple[dict[str, float], list[str]]:
    argv = [python, "-m", "lmms_eval", "--model", "llava_hf", "--tasks", "mmvp_local", "--include_path", asked.tasks]
    argv += ["--model_args", f"pretrained={exported},device=cpu,device_map=cpu,dtype=float32", "--batch_size", "1"]
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(asked.tasks / "hf")}
    made = f"{out}/**/*_samples_mmvp_local.jsonl"
    seconds = command([*argv, "--log_samples", "--output_path", out], made, **offline)
    (samples,) = out.rglob("*_samples_mmvp_local.jsonl")
    (results,) = out.rglob("*_results.json")
    counted = json.loads(results.read_text())["throughput"]["total_elapsed_time"]
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    return {"command_s": seconds, "generate_s": counted}, [row["filtered_resps"] for row in rows]


def run(args: argparse.Namespace, record: Record, folder: Path) -> None:
    where = "import lmms_eval, os; print(os.path.dirname(lmms_eval.__file__))"
    installed = subprocess.run([args.python, "-c", where], capture_output=True, text=True, check=True).stdout.split()[
        -1
    ]
    asked = questions(args.mmvp, args.questions, installed, folder)
    workdir = args.workdir or random_run(asked, folder)
    exported = folder / "llava"
    command([sys.executable, "-m", "pivot_jax.cli", "export-hf", "--workdir", workdir, "--out", exported])
    sides = {
        "ours": lambda out: ours(workdir, asked, out),
        "lmms_eval": lambda out: theirs(args.python, exported, asked, out),
    }
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for turn in range(args.rounds):
        said = {}
        for name, answer in sides.items():
            out = folder / f"{name}-{turn}"
            out.mkdir()
            seconds, said[name] = answer(out)
            for key, value in seconds.items():
                taken[name].setdefault(key, []).append(value)
            print(f"round {turn}, {name}: {seconds}", flush=True)
        differ = [pair for pair in zip(*said.values(), strict=True) if pair[0].strip() != pair[1].strip()]
        print(f"{len(differ)} of {asked.count} answers differ", *map(repr, differ[:5]), sep="\n  ", flush=True)
        summaries = {name: {key: measure.summary(each) for key, each in one.items()} for name, one in taken.items()}
        record.add("mmvp", {"questions": asked.count, "answers_that_differ": len(differ)} | summaries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmvp", type=Path, required=True, help="folder with data.json and images")
    parser.add_argument("--python", type=Path, required=True, help="of the environment with lmms-eval")
    parser.add_argument("--workdir", type=Path, help="a run; default: a small random model")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "toolkits.json")
    args = parser.parse_args()
    record = Record(args.out, os.environ.get("JAX_PLATFORMS") or "default")
    with tempfile.TemporaryDirectory(prefix="pivot-toolkits-") as folder:
        run(args, record, Path(folder))


if __name__ == "__main__":
    main()
