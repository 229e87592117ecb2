"""Benchmark questions as examples: published files → prompts as Cambrian's evaluation code asks them.

Every example ends with a user turn; what it is scored against is in ``extra``: ``answer`` (text, or list of accepted
texts), ``choices`` (option texts), ``category``, ``unit`` (what has to be right together, such as an MMVP pair).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.config import paths
from pivot_jax.data import sources
from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import with_images
from pivot_jax.data.sources.rows import open_rows, row_id_of
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.scoring.parse import LETTERS

SHOWN = 6  # names of what a wrong folder holds
LETTER_TAIL = "\nAnswer with the option's letter from the given choices directly."
# MATH-Vision's own request (Wang et al. 2024).
BOXED_HEAD = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". '
    'If it is a multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)
MMVP_COLUMNS = ("Index", "Question", "Options", "Correct Answer")
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
        rows = _rows(folder / "data.json", "MMVP", ("id", "question", "answer", "images"))
        entries = [(str(row["id"]), row["question"], row["answer"], folder / row["images"][0]) for row in rows]
    elif (folder / "Questions.csv").is_file():
        with (folder / "Questions.csv").open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            rows = list(table)
        if lacking := [name for name in MMVP_COLUMNS if name not in (table.fieldnames or ())]:
            raise UserError(f"MMVP: {folder}/Questions.csv has no column '{lacking[0]}'; get the published file")
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
        raise UserError(f"MMVP: {folder} holds neither data.json nor Questions.csv{_contents(folder)}")
    return [_mmvp_example(*entry) for entry in entries]


def _mmvp_example(question_id: str, text: str, answer: str, image: Path) -> Example:
    question, _, options = text.replace("<image>", "").strip().partition("Options:")
    found = _MMVP_OPTIONS.search(options)
    if found is None:
        raise UserError(f"MMVP question {question_id}: no options '(a) ... (b) ...' in {text!r}")
    if not question_id.isdigit():
        raise UserError(f"MMVP question '{question_id}': ids are numbers from 1, because two in a row make a pair")
    letter = answer.strip().strip("()").upper()
    choices = [found["a"], found["b"]]
    prompt = f"<image>\n{question.strip()} Options:{_lettered(choices)}{LETTER_TAIL}"
    extra = {"answer": letter, "choices": choices, "unit": (int(question_id) - 1) // 2}
    return Example(question_id, (Message("user", prompt),), (str(image),), extra=extra)


def scienceqa(path: str | Path) -> Questions:
    """ScienceQA rows with an image, asked as Cambrian does; the file or its folder (``data.jsonl``)."""
    file = _file(path, "ScienceQA")
    source = sources.read({"format": "scienceqa", "path": str(file)})
    _first(source, file, "ScienceQA", "id, question, choices, answer and mostly image and hint")
    return source


def mathvision(path: str | Path) -> list[Example]:
    """MATH-Vision: the file or its folder (``data.jsonl``: id, question, options, answer, subject, level, image)."""
    file = _file(path, "MATH-Vision")
    rows = _rows(file, "MATH-Vision", ("id", "question", "answer", "image"))
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
    folder = _folder(path, "scenes")
    if not (folder / "dataset_info.json").is_file():
        raise UserError(
            f"scenes: {folder} holds no dataset_info.json{_contents(folder)}; name the folder of a prepared data set, "
            "such as the demo's WORKDIR/data/…"
        )
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
        near = paths.nearest(folder)
        raise UserError(f"{what}: no folder at '{folder}'{near or '; name the one with its questions'}")
    return folder


def _file(path: str | Path, what: str) -> Path:
    """The file of questions: ``path``, or its ``data.jsonl``."""
    place = Path(path)
    file = place / "data.jsonl" if place.is_dir() else place
    if file.is_file():
        return file
    mend = "name the file of questions, or its folder"
    if place.is_dir():
        raise UserError(f"{what}: {place} holds no data.jsonl{_contents(place)}; {mend}")
    raise UserError(f"{what}: {place} does not exist{paths.nearest(place, files=True) or f'; {mend}'}")


def _short(error: RowError) -> str:
    """The reason without its mend, which is for a single bad row."""
    return error.reason.partition("; ")[0]


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = ", …" if len(names) > SHOWN else ""
    return f" (it holds: {', '.join(names[:SHOWN]) or 'nothing'}{more})"


def _rows(file: Path, what: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of a file, each of which has the fields.

    Raises:
      UserError: names the row and what it lacks.
    """
    found, out = open_rows(file), []
    _first(found, file, what, ", ".join(fields))
    for index in range(len(found)):
        row = found[index]
        if lacking := [name for name in fields if row.get(name) in (None, "", [])]:
            row_id = row_id_of(row, found, index)
            raise UserError(f"{what}: {file}, row '{row_id}': no '{lacking[0]}'; a question has {', '.join(fields)}")
        out.append(row)
    return out


def _first(rows: Any, file: Path, what: str, fields: str) -> Any:
    """The first row; UserError where it is none, because then the whole file is another one than was meant."""
    if not len(rows):
        raise UserError(f"{what}: {file} is empty")
    try:
        return rows[0]
    except RowError as error:
        raise UserError(
            f"{what}: {file} is no file of its questions ({_short(error)}); a question has {fields}"
        ) from None
