"""MATH-Vision (Wang et al. 2024): mathematics with an image, free answers and multiple choice, asked step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivot_jax.data.sources.base import ImageRoot, rooted, with_images
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Variant, question_file, question_rows
from pivot_jax.eval.benchmarks.prompts import lettered
from pivot_jax.eval.scoring.parse import LETTERS

# The authors' own request.
PROMPT_HEAD = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". '
    'If it is a multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)


def read(path: str | Path) -> list[Item]:
    """Questions of a file, or of ``data.jsonl`` in a folder: id, question, options, answer, subject, level, image.

    The category is the subject.

    Raises:
      UserError: no such file, or a row that lacks a field.
    """
    file = question_file(path, "MATH-Vision")
    rows = question_rows(file, "MATH-Vision", ("id", "question", "answer", "image"))
    return [_item(row, file.parent) for row in rows]


def _item(row: dict[str, Any], folder: Path) -> Item:
    return Item(
        str(row["id"]),
        str(row["question"]),
        rooted(row["image"], ImageRoot(str(folder)), str(row["id"])),
        choices=tuple(map(str, row.get("options") or ())),
        answers=(str(row["answer"]),),
        category=str(row.get("subject", "")),
    )


def _prompt(item: Item) -> str:
    # Options that are only the letters name parts of the image; repeating them as a list would say nothing.
    options = "" if item.choices == tuple(LETTERS[: len(item.choices)]) else lettered(item.choices)
    question = with_images(f"{item.question}{options}", 1).removeprefix("<image>\n")
    return f"<image>\n{PROMPT_HEAD}{question}"


BENCHMARKS = {
    "mathvision": Benchmark(read, {"ours": Variant(_prompt, "mathvision", max_new_tokens=512)}, answer_format="short")
}
