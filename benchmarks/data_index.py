"""The pass over all rows before training: time and memory, in a first run and in a second run on the same data.

    PIVOT_SHARED_DATA=… python benchmarks/data_index.py
    PIVOT_SHARED_DATA=… python benchmarks/data_index.py --rows 20000 --worker-kind process

The rows are LLaVA's: half are captions (LLaVA-Pretrain), half questions with options and a hint (ScienceQA) whose
answer is the hint of another question; their texts are drawn again and again, each answer with its number. They are
tokenised with Qwen2.5's tokenizer. Each run is a process of its own with its own workdir; the cache of indexes is
shared and starts empty. "open" reads the JSON file, "index" is the pass or the stored result, "CPU" the process's time
in it (other programs on the machine distort it less). "peak" is the largest resident memory of the process, "before"
that after opening the file. The last runs read one row with an answer of 10 MB, and one with such a question.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
from measure import Record, Side

LONG = 10_000_000  # characters


def rows(data: Path, count: int) -> Any:
    """``count`` rows of LLaVA's format; images are those of the data."""
    captions = json.loads((data / "llava_pretrain_mini" / "data.json").read_text())
    lines = (data / "scienceqa_test_img" / "data.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    rng = random.Random(0)
    for number in range(count):
        if number % 2:
            row = rng.choice(captions)
            image, (asked, told) = row["image"], (turn["value"] for turn in row["conversations"])
            folder = "llava_pretrain_mini"
        else:
            row, other = rng.choice(questions), rng.choice(questions)
            image, folder = row["image"], "scienceqa_test_img"
            options = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCDEFGH", row["choices"], strict=False))
            asked, told = f"<image>\n{row['hint']}\n{row['question']}{options}", other["hint"] or other["question"]
        turns = [("human", asked), ("gpt", f"{told} ({number})")]
        conversation = [{"from": speaker, "value": text} for speaker, text in turns]
        yield {"id": str(number), "image": f"{folder}/{image}", "conversations": conversation}


class Reader:
    """One read of a file of rows."""

    def __init__(self, tokenizer: str, kind: str, cache: str):
        os.environ["JAX_PLATFORMS"], os.environ["XDG_CACHE_HOME"] = "cpu", cache
        from pivot_jax import config as configs
        from pivot_jax.data.processing.processor import build_processor
        from pivot_jax.data.processing.tokenizer import load_tokenizer

        self._config = configs.load("", {"data.max_bad_share": 1.0, "data.worker_kind": kind})
        self._processor = build_processor(self._config, load_tokenizer(tokenizer), "sft", patch_size=16)

    def read(self, file: str, root: str, workdir: str) -> dict[str, Any]:
        from pivot_jax.data.loading.rows import read_rows
        from pivot_jax.data.sources import read
        from pivot_jax.errors import UserError

        start = time.perf_counter()
        source = read({"format": "llava", "path": file, "image_root": root})
        opened, before, used = time.perf_counter(), peak_mib(), time.process_time()
        try:
            found = read_rows(self._config, source, self._processor, workdir=Path(workdir))
            usable, truncated = len(found), found.index.truncated
        except UserError:
            usable, truncated = 0, 0
        seconds = time.perf_counter() - opened
        return {
            "open_s": opened - start,
            "index_s": seconds,
            "index_cpu_s": time.process_time() - used,
            "before_mib": before,
            "peak_mib": peak_mib(),
            "usable": usable,
            "truncated": truncated,
        }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--worker-kind", choices=("thread", "process"), default="thread")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "data_index.json")
    args = parser.parse_args()
    data = Path(os.environ.get("PIVOT_SHARED_DATA", measure.ROOT.parent / "shared" / "data"))
    record = Record(args.json, "cpu")
    columns = {"open_s": "9.2f", "index_s": "9.2f", "index_cpu_s": "13.2f", "before_mib": "12.0f", "peak_mib": "10.0f",
               "usable": "9", "truncated": "11"}  # fmt: skip
    print(" " * 14 + "".join(f"{name:>{form.partition('.')[0]}}" for name, form in columns.items()))
    with tempfile.TemporaryDirectory() as scratch:
        many, long_answer, long_question = (Path(scratch) / f"{name}.json" for name in ("many", "answer", "question"))
        many.write_text(json.dumps(list(rows(data, args.rows))))
        words = itertools.cycle(json.loads(many.read_text())[0]["conversations"][0]["value"].split()[1:])
        text = " ".join(itertools.islice(words, LONG // 6))[:LONG]
        row = next(iter(rows(data, 1)))
        for file, turn in ((long_answer, 1), (long_question, 0)):
            turns = [dict(turn) for turn in row["conversations"]]
            turns[turn]["value"] += f" {text}"
            file.write_text(json.dumps([row | {"conversations": turns}]))
        runs = {"first": many, "second": many, "10 MB answer": long_answer, "10 MB question": long_question}
        for name, file in runs.items():
            side = Side(Reader, str(data / "qwen2_5_vl_processor"), args.worker_kind, f"{scratch}/cache")
            found = side.ask("read", str(file), str(data), f"{scratch}/workdir {name}", limit=1800.0)
            side.close()
            record.add(name, found)
            cells = "".join(f"{found[key]:{form}}" for key, form in columns.items())
            print(f"{name:>14}{cells}", flush=True)
    print(f"written: {record.path}")


if __name__ == "__main__":
    main()
