"""Time and memory of the evaluation scheme on logs of the size that MAYE's would have been, with recorded correctness.

    python benchmarks/scheme.py                        # 5 runs x 100 epochs x 896 responses: 448,000 texts
    python benchmarks/scheme.py --epochs 4             # a try

The responses are worked solutions of random length (some 1,200 characters, as in MAYE's runs), in which one of the
scheme's reflection words occurs now and then. The command runs as a process of its own, as a user starts it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

QUESTIONS, RUNS = 896, 5
TEXT = "so the angle of triangle is equal to sum and we have side then area by the theorem which gives length"
REFLECTIVE = ("wait", "re-check", "let me verify", "however", "reconsider")


def write_run(path: Path, seed: int, epochs: int) -> int:
    """A run's log; returns its bytes."""
    generator, words_of_text = np.random.default_rng(seed), TEXT.split()
    with path.open("w", encoding="utf-8") as file:
        for epoch in range(epochs):
            lengths = generator.integers(80, 400, QUESTIONS)
            right = generator.random(QUESTIONS) < 0.3 + 0.2 * epoch / epochs
            for question in range(QUESTIONS):
                words = generator.choice(words_of_text, lengths[question]).tolist()
                if generator.random() < 0.15:
                    words[len(words) // 2] = str(generator.choice(REFLECTIVE))
                row = {
                    "question": question, "text": " ".join(words), "step": epoch, "correct": bool(right[question]),
                    "tokens": int(lengths[question]), "split": "test", "setting": "T=1",
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"run{seed}.jsonl" for seed in range(RUNS)]
        size = sum(write_run(log, seed, options.epochs) for seed, log in enumerate(logs))
        command = [sys.executable, "-m", "pivot_jax.cli", "scheme", "--out", f"{folder}/report"]
        command += [*(f"rl={log}" for log in logs), "--columns"]
        command += [f"{name}={name}" for name in ("question", "text", "step", "correct", "tokens", "split", "setting")]
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=measure.ROOT, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    texts = RUNS * options.epochs * QUESTIONS
    print(f"{texts:,} responses ({size / 2**20:.0f} MiB): {seconds:.1f} s, {peak:.2f} GiB at most")


if __name__ == "__main__":
    main()
