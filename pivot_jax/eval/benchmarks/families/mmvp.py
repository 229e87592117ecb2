"""MMVP (Tong et al. 2024): 300 questions in 150 pairs.

Both questions of a pair have the same two options, and two images that CLIP hardly tells apart. A pair counts where
both answers are right.

The correct answers of questions 99 and 100, and of 279 and 280, are swapped in the data set as it was published
(github.com/tsb0601/MMVP, issue 30): in MMVP/MMVP on the hub, in its copies with ``data.json``, and, as far as known, in
VLMEvalKit's MMVP.tsv. lmms-lab-eval/MMVP, which lmms-eval reads, has them right. The benchmark ``mmvp`` takes the
answers of the file that it is given; ``mmvp-corrected`` takes the corrected four whatever the file.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pivot_jax.data.sources.base import ImageRoot, rooted
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Variant, contents, existing_folder, question_rows
from pivot_jax.eval.benchmarks.choice_prompts import cambrian_choice, vlmevalkit_variant
from pivot_jax.eval.benchmarks.prompts import LETTER, asked, lettered
from pivot_jax.eval.benchmarks.published import is_published, published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP
from pivot_jax.eval.scoring.aggregate import PAIRS

COLUMNS = ("Index", "Question", "Options", "Correct Answer")
CORRECTED = {"99": "B", "100": "A", "279": "B", "280": "A"}
_OPTIONS = re.compile(r"\(a\)\s*(?P<a>.*?)\s*\(b\)\s*(?P<b>.*?)\s*$", re.DOTALL)


def read(path: str | Path) -> list[Item]:
    """Questions of a folder, with the correct answers that are in it.

    It holds ``data.json`` (id, images, question "... Options: (a) ... (b) ...", answer "(a)"), the published
    ``Questions.csv`` beside ``MMVP Images``, the Parquet files of lmms-lab-eval/MMVP, or VLMEvalKit's MMVP.tsv.
    The last two may be named as well. Ids are the numbers from 1.

    Raises:
      UserError: none of them, or a question that is not of this form.
    """
    if not any((Path(path) / name).is_file() for name in ("data.json", "Questions.csv")) and is_published(path):
        return _of_rows(path)
    folder = existing_folder(path, "MMVP")
    if (folder / "data.json").is_file():
        rows = question_rows(folder / "data.json", "MMVP", ("id", "question", "answer", "images"))
        entries = [(str(row["id"]), row["question"], row["answer"], row["images"][0]) for row in rows]
    elif (folder / "Questions.csv").is_file():
        entries = _published(folder)
    else:
        raise UserError(
            f"MMVP: {folder} holds neither data.json nor Questions.csv, nor MMVP.tsv or Parquet files{contents(folder)}"
        )
    return [_item(*entry, ImageRoot(str(folder))) for entry in entries]


def read_corrected(path: str | Path) -> list[Item]:
    """As :func:`read`, with the corrected answers of questions 99, 100, 279 and 280."""
    return [replace(item, answers=(CORRECTED.get(item.id, item.answers[0]),)) for item in read(path)]


def _of_rows(path: str | Path) -> list[Item]:
    items = published(path, "MMVP", hf=_hub, tsv=_tsv, split="train", tsv_file="MMVP", id_key="Index")
    found = [items[position] for position in range(len(items))]
    first = min(int(item.id) for item in found)
    if first not in (0, 1):
        raise UserError(f"MMVP: {path}: the lowest index is {first}; it is 0 or 1, because two in a row make a pair")
    return [replace(item, id=str(int(item.id) - first + 1), unit=(int(item.id) - first) // 2) for item in found]


def _hub(row: Row) -> Item:
    text = f"{row.text('Question')} Options: {row.text('Options')}"
    return _question(_number(row), text, row.text("Correct Answer"), row.images())


def _tsv(row: Row) -> Item:
    return replace(tsv_item(row), id=_number(row))


def _number(row: Row) -> str:
    if not row.id.isdecimal():
        raise RowError(row.name, f"the index is '{row.id}'; it is a number, because two in a row make a pair")
    return row.id


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
    return _question(question_id, text, answer, rooted(image, root, question_id))


def _question(question_id: str, text: str, answer: str, images: tuple[Any, ...]) -> Item:
    question, _, options = text.replace("<image>", "").strip().partition("Options:")
    found = _OPTIONS.search(options)
    if found is None:
        raise UserError(f"MMVP question {question_id}: no options '(a) ... (b) ...' in {text!r}")
    if not question_id.isdigit():
        raise UserError(f"MMVP question '{question_id}': ids are numbers from 1, because two in a row make a pair")
    return Item(
        question_id,
        question.strip(),
        images,
        choices=(found["a"], found["b"]),
        answers=(answer.strip().strip("()").upper(),),
        unit=(int(question_id) - 1) // 2,
    )


def _lmms_eval(item: Item) -> str:
    """Its reader of options leaves out one that holds a bracket, and so moves the letters of those after it."""
    kept = [option for option in item.choices if "(" not in option]
    return asked(item, f"{item.question}{lettered(kept)}{LETTER}")


_VARIANTS = {
    "ours": Variant(cambrian_choice, "strict_letter", PAIRS, max_new_tokens=16),
    "cambrian": Variant(cambrian_choice, "letter_or_text", PAIRS, max_new_tokens=512),
    "lmms-eval": Variant(_lmms_eval, "mmvp_lmms_eval", PAIRS, 16, LMMS_EVAL_STOP),
    "vlmevalkit": vlmevalkit_variant(PAIRS),
}
BENCHMARKS = {
    "mmvp": Benchmark(read, _VARIANTS, answer_format="letter", option_form="letter", questions=300),
    "mmvp-corrected": Benchmark(read_corrected, _VARIANTS, answer_format="letter", option_form="letter", questions=300),
}
