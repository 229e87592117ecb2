"""Write golden/prompts_llava.json: what LLaVA-1.5's scripts ask, run where they build the text, else as recorded.

Takes the checkout from $LLAVA. Only MMBench's prompt is built by code (options and suffix); the other scripts read
question files with the whole prompt in them. Their prompts are recorded in the published answers of LLaVA-1.5-13B:
under ``recorded``, by question id, with the image that the script puts before them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.eval.benchmarks import published_rows
from tests.toolkits import golden, scripts

LOADER = 128  # max_new_tokens of model_vqa_loader.py, which runs all but MMBench and ScienceQA
SCIENCE = 1024
FILE = "Its text is in a question file, not in code: see recorded"
SKIPPED = dict.fromkeys(("mme", "gqa", "pope", "scienceqa", "textvqa"), FILE) | {
    "seed": "Its text is in a question file, and its published answers hold no prompts"
}


class Model:
    """Answers nothing, so that the script goes on to the next question."""

    config = scripts.MODEL_CONFIG

    def generate(self, *rest: Any, **more: Any) -> str:
        return ""

    def batch_decode(self, *rest: Any, **more: Any) -> list[str]:
        return [""]


def mmbench(checkout: Path, folder: Path) -> dict[str, Any]:
    """The script as LLaVA's mmbench.sh calls it, on a TSV where each row holds its image."""
    images = {row["index"]: row["image"] for row in published_rows.TSV["mmbench"]}
    rows = [row | {"image": images.get(row["image"], row["image"])} for row in published_rows.TSV["mmbench"]]
    table = published_rows.write_tsv("mmbench", folder, rows=rows)
    options = ["--question-file", str(table), "--answers-file", str(folder / "answers" / "llava.jsonl")]
    options += ["--single-pred-prompt", "--temperature", "0", "--conv-mode", "vicuna_v1"]
    names = scripts.run(checkout / "llava" / "eval" / "model_vqa_mmbench.py", options)
    names["load_pretrained_model"] = lambda *rest: (Model(), Model(), None, 2048)
    names["eval_model"](names["args"])
    return {str(at): golden.entry(scripts.question(names, at), 1024) for at in range(len(names["prompts"]))}


def lines(name: str) -> Iterator[dict[str, Any]]:
    return map(json.loads, golden.answers(name).splitlines())


def recorded(count: int = 4) -> dict[str, Any]:
    """The first prompts of each published answer file."""
    answers = "eval_outputs/llava15_13b"
    files = {
        "mme": f"{answers}/MME_answers.jsonl.gz",
        "gqa": "eval_outputs_more/gqa/llava-v1.5-13b.jsonl.gz",
        "pope": f"{answers}/POPE_answers.jsonl.gz",
        "textvqa": f"{answers}/TextVQA_answers.jsonl.gz",
    }
    found: dict[str, Any] = {}
    for name, file in files.items():
        rows = [row for row, _ in zip(lines(file), range(count), strict=False)]
        found[name] = [
            {"id": row["question_id"]} | golden.entry(golden.joined([None, row["prompt"]]), LOADER) for row in rows
        ]
    science = json.loads(golden.answers(f"{answers}/llava-v1.5-13b_output.jsonl.gz"))["correct"]
    found["scienceqa"] = [
        {"id": row["question_id"]} | golden.entry(row["question"], SCIENCE)
        for row in sorted(science, key=lambda row: len(row["question"]))[: 20 * count : 20]
    ]
    return found


def main(path: Path) -> None:
    checkout = Path(os.environ.get("LLAVA", ""))
    if not (checkout / "llava" / "eval").is_dir():
        raise SystemExit("no LLaVA: set LLAVA to a checkout of github.com/haotian-liu/LLaVA")
    scripts.open_package("llava", checkout)
    with tempfile.TemporaryDirectory() as folder:
        benchmarks = {"mmbench": mmbench(checkout, Path(folder))}
    about = {"toolkit": "LLaVA", "version": scripts.version(checkout), "model": "template left off"}
    golden.write(path, about, benchmarks, SKIPPED, recorded=recorded())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else golden.FOLDER / "prompts_llava.json")
