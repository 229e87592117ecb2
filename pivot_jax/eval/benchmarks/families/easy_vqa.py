"""easy-VQA (Zhou 2019): questions about the shape and the color of one shape; 13 answers, exact match.

``pivot-jax prepare easy-vqa`` writes the files. Intervals draw images, because an image has several questions. The
category is the kind of question: color, shape, presence ("is there a red shape?"), absence ("is there not …?").
"""

from __future__ import annotations

from pathlib import Path

from pivot_jax.data.easy_vqa import COLORS, SHAPES
from pivot_jax.data.sources.base import ImageRoot, rooted
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Variant, question_file, question_rows
from pivot_jax.eval.benchmarks.prompts import with_tail
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN

CHOICES = {"color": COLORS, "shape": SHAPES, "presence": ("yes", "no"), "absence": ("yes", "no")}


def read(path: str | Path) -> list[Item]:
    """Questions of a prepared folder's ``test.jsonl``, or of a file of that form (``val.jsonl``).

    Raises:
      UserError: no such file, or a row that is no such question.
    """
    file = question_file(path, "easy-VQA", "test.jsonl")
    rows = question_rows(file, "easy-VQA", ("id", "image", "question", "answer", "kind"))
    root = ImageRoot(str(file.parent))
    return [
        Item(
            str(row["id"]),
            str(row["question"]),
            rooted(row["image"], root, str(row["id"])),
            choices=tuple(CHOICES.get(row["kind"], ())),
            answers=(str(row["answer"]),),
            category=str(row["kind"]),
            unit=str(row["image"]),
        )
        for row in rows
    ]


BENCHMARKS = {
    "easy-vqa": Benchmark(
        read,
        {"ours": Variant(with_tail(), "exact", CLUSTERED_MEAN, max_new_tokens=8)},
        answer_format="short",
        option_form="text",
    )
}
