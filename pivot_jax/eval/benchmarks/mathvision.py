"""MATH-Vision (Wang et al. 2024): mathematics with an image, free answers and multiple choice, asked step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import ImageRoot, rooted, with_images
from pivot_jax.eval.benchmarks.base import Benchmark, lettered, question_file, question_rows
from pivot_jax.eval.scoring import math
from pivot_jax.eval.scoring.parse import LETTERS

# The authors' own request.
PROMPT_HEAD = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". '
    'If it is a multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)


def read(path: str | Path) -> list[Example]:
    """Questions of a file, or of ``data.jsonl`` in a folder: id, question, options, answer, subject, level, image.

    The category is the subject.

    Raises:
      UserError: no such file, or a row that lacks a field.
    """
    file = question_file(path, "MATH-Vision")
    rows = question_rows(file, "MATH-Vision", ("id", "question", "answer", "image"))
    return [_example(row, file.parent) for row in rows]


def _example(row: dict[str, Any], folder: Path) -> Example:
    choices = list(map(str, row.get("options") or ()))
    # Options that are only the letters name parts of the image; repeating them as a list would say nothing.
    options = "" if choices == list(LETTERS[: len(choices)]) else lettered(choices)
    prompt = with_images(f"{row['question']}{options}", 1).removeprefix("<image>\n")
    extra = {"answer": str(row["answer"]), "choices": choices, "category": row.get("subject", "")}
    message = Message("user", f"<image>\n{PROMPT_HEAD}{prompt}")
    images = rooted(row["image"], ImageRoot(str(folder)), str(row["id"]))
    return Example(str(row["id"]), (message,), images, extra=extra)


BENCHMARKS = {"mathvision": Benchmark(read, math.mathvision, answer_format="short", max_new_tokens=512)}
