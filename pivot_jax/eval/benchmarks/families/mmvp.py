"""MMVP (Tong et al. 2024): 300 questions in 150 pairs.

Both questions of a pair have the same two options, and two images that CLIP hardly tells apart. A pair counts where
both answers are right.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from pivot_jax.data.sources.base import ImageRoot, rooted
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Variant, contents, existing_folder, question_rows
from pivot_jax.eval.benchmarks.prompts import LETTER, asked, lettered
from pivot_jax.eval.scoring.aggregate import PAIRS

COLUMNS = ("Index", "Question", "Options", "Correct Answer")
_OPTIONS = re.compile(r"\(a\)\s*(?P<a>.*?)\s*\(b\)\s*(?P<b>.*?)\s*$", re.DOTALL)


def read(path: str | Path) -> list[Item]:
    """Questions of a folder.

    It holds ``data.json`` (id, images, question "... Options: (a) ... (b) ...", answer "(a)"), or the published
    ``Questions.csv`` beside ``MMVP Images``.

    Raises:
      UserError: neither of them, or a question that is not of this form.
    """
    folder = existing_folder(path, "MMVP")
    if (folder / "data.json").is_file():
        rows = question_rows(folder / "data.json", "MMVP", ("id", "question", "answer", "images"))
        entries = [(str(row["id"]), row["question"], row["answer"], row["images"][0]) for row in rows]
    elif (folder / "Questions.csv").is_file():
        entries = _published(folder)
    else:
        raise UserError(f"MMVP: {folder} holds neither data.json nor Questions.csv{contents(folder)}")
    return [_item(*entry, ImageRoot(str(folder))) for entry in entries]


def _published(folder: Path) -> list[tuple[str, str, str, str]]:
    with (folder / "Questions.csv").open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
    if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
        raise UserError(f"MMVP: {folder}/Questions.csv has no column '{missing[0]}'; get the published file")
    return [
        (
            row["Index"],
            f"{row['Question']} Options: {row['Options']}",
            row["Correct Answer"],
            f"MMVP Images/{row['Index']}.jpg",
        )
        for row in rows
    ]


def _item(question_id: str, text: str, answer: str, image: str, root: ImageRoot) -> Item:
    question, _, options = text.replace("<image>", "").strip().partition("Options:")
    found = _OPTIONS.search(options)
    if found is None:
        raise UserError(f"MMVP question {question_id}: no options '(a) ... (b) ...' in {text!r}")
    if not question_id.isdigit():
        raise UserError(f"MMVP question '{question_id}': ids are numbers from 1, because two in a row make a pair")
    return Item(
        question_id,
        question.strip(),
        rooted(image, root, question_id),
        choices=(found["a"], found["b"]),
        answers=(answer.strip().strip("()").upper(),),
        unit=(int(question_id) - 1) // 2,
    )


def _cambrian(item: Item) -> str:
    return asked(item, f"{item.question} Options:{lettered(item.choices)}{LETTER}")


BENCHMARKS = {
    "mmvp": Benchmark(
        read,
        {
            "ours": Variant(_cambrian, "strict_letter", PAIRS, max_new_tokens=16),
            "cambrian": Variant(_cambrian, "letter_or_text", PAIRS, max_new_tokens=512),
        },
        answer_format="letter",
        option_form="letter",
        questions=300,
    )
}
