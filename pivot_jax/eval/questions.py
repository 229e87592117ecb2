"""Benchmark questions as examples: published files → prompts as Cambrian's evaluation code asks them.

Every example ends with a user turn; what it is scored against is in ``extra``: ``answer`` (text, or list of accepted
texts), ``choices`` (option texts), ``category``, ``unit`` (what has to be right together, such as an MMVP pair).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.data import sources
from pivot_jax.data.batch import Example, Message
from pivot_jax.data.sources.base import with_images
from pivot_jax.errors import UserError
from pivot_jax.eval.answers import LETTERS

LETTER_TAIL = "\nAnswer with the option's letter from the given choices directly."
# MATH-Vision's own request (Wang et al. 2024).
BOXED_HEAD = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". '
    'If it is a multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)
_MMVP_OPTIONS = re.compile(r"\(a\)\s*(?P<a>.*?)\s*\(b\)\s*(?P<b>.*?)\s*$", re.DOTALL)


class Questions(Protocol):
    """Examples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def mmvp(path: str | Path) -> list[Example]:
    """MMVP (Tong et al. 2024): 300 questions in 150 pairs; both of a pair have the same two options.

    Reads a folder with ``data.json`` (id, images, question "... Options: (a) ... (b) ...", answer "(a)"), or the
    published ``Questions.csv`` beside ``MMVP Images``.
    """
    folder = _folder(path, "MMVP")
    if (folder / "data.json").is_file():
        rows = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        entries = [(str(row["id"]), row["question"], row["answer"], folder / row["images"][0]) for row in rows]
    elif (folder / "Questions.csv").is_file():
        with (folder / "Questions.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        entries = [
            (
                row["Index"],
                f"{row['Question']} Options: {row['Options']}",
                row["Correct Answer"],
                folder / "MMVP Images" / f"{row['Index']}.jpg",
            )
            for row in rows
        ]
    else:
        raise UserError(f"MMVP: {folder} holds neither data.json nor Questions.csv")
    return [_mmvp_example(*entry) for entry in entries]


def _mmvp_example(question_id: str, text: str, answer: str, image: Path) -> Example:
    question, _, options = text.replace("<image>", "").strip().partition("Options:")
    found = _MMVP_OPTIONS.search(options)
    if found is None:
        raise UserError(f"MMVP question {question_id}: no options '(a) ... (b) ...' in {text!r}")
    letter = answer.strip().strip("()").upper()
    choices = [found["a"], found["b"]]
    prompt = f"<image>\n{question.strip()} Options:{_lettered(choices)}{LETTER_TAIL}"
    extra = {"answer": letter, "choices": choices, "unit": (int(question_id) - 1) // 2}
    return Example(question_id, (Message("user", prompt),), (str(image),), extra=extra)


def scienceqa(path: str | Path) -> Questions:
    """ScienceQA rows with an image, asked as Cambrian does; the file or its folder (``data.jsonl``)."""
    file = Path(path) / "data.jsonl" if Path(path).is_dir() else Path(path)
    return sources.read({"format": "scienceqa", "path": str(file)})


def mathvision(path: str | Path) -> list[Example]:
    """MATH-Vision: the file or its folder (``data.jsonl``: id, question, options, answer, subject, level, image)."""
    file = Path(path) / "data.jsonl" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"MATH-Vision: {file} does not exist")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [_mathvision_example(row, file.parent) for row in rows]


def _mathvision_example(row: dict[str, Any], folder: Path) -> Example:
    choices = list(map(str, row.get("options") or ()))
    # Options that are only the letters name parts of the picture; repeating them as a list would say nothing.
    listed = "" if choices == list(LETTERS[: len(choices)]) else _lettered(choices)
    prompt = with_images(f"{row['question']}{listed}", 1).removeprefix("<image>\n")
    extra = {"answer": str(row["answer"]), "choices": choices, "category": row.get("subject", "")}
    message = Message("user", f"<image>\n{BOXED_HEAD}{prompt}")
    return Example(str(row["id"]), (message,), (str(folder / row["image"]),), extra=extra)


def scenes(path: str | Path) -> Questions:
    """The test split of the built-in scenes data set, from its prepared folder; category is the kind of question."""
    return _Categorised(sources.read({"format": "tfds", "path": str(path), "split": "test"}), "kind")


class _Categorised:
    """A source whose extra field ``field`` is the category."""

    def __init__(self, source: Questions, field: str):
        self.source, self.field = source, field

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        extra = {**example.extra, "category": example.extra.get(self.field, "")}
        return Example(example.id, example.messages, example.images, extra=extra)


def _lettered(choices: Sequence[str]) -> str:
    return "".join(f"\n{LETTERS[index]}. {choice}" for index, choice in enumerate(choices))


def _folder(path: str | Path, what: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{what}: no folder at '{folder}'; name the one with its questions")
    return folder
