"""Prediction files of other toolkits, as rows of ours (:mod:`predictions`), so that they can be scored here.

A file is recognised by its columns, which are those of lmms-eval 0.7 (``*_samples_TASK.jsonl``), VLMEvalKit at e8e78f05
(``MODEL_DATASET.xlsx``, ``.tsv``, ``.json``), Cambrian at 539ffc32 and LLaVA-1.5 (jsonl).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax.config.paths import nearest
from pivot_jax.data.sources.raw_files import optional
from pivot_jax.data.sources.rows import MemoryRows, Rows, open_rows
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks.base import Items
from pivot_jax.eval.benchmarks.cells import NAN, is_missing, literal_list, options, shown
from pivot_jax.eval.scoring.parse import LETTERS

Row = dict[str, Any]
ROTATION = 10**6  # VLMEvalKit: the k-th rotation of a question's options has its index plus k times this
NOT_A_SHEET = (OSError, ValueError, KeyError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error)


def read(path: str | Path) -> tuple[str, list[Row]]:
    """A file of answers.

    Returns:
      The toolkit that wrote it ("cambrian", "llava", "lmms-eval", "ours", "vlmevalkit"), and its rows:
      ``question_id`` (text), ``answer`` (text), ``choices`` (texts of the options), ``category``, ``prompt`` where the
      file has it, ``gt_answer`` (a text, or a list of accepted ones) except where the file has none (LLaVA's: golds are
      those of the benchmark's own questions), ``unit`` of rotated questions, and the file's other columns.

    Raises:
      UserError: no such file, none of these forms, or a malformed row; the message names file, row and column.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of answers{nearest(path, files=True)}")
    rows = _open(path)
    if not len(rows):
        raise UserError(f"{path}: it holds no answers")
    form = _form(path, rows[0])
    found = []
    for index in range(len(rows)):
        row, where = rows[index], str(path.parent / rows.location(index))
        if missing := [name for name in form.columns if name not in row]:
            raise UserError(
                f"{where}: column '{missing[0]}' is missing (of {form.toolkit}'s {', '.join(form.columns)})"
            )
        found.append(form.convert(row, where))
    return form.toolkit, form.finish(found, path)


def toolkit_of(path: str | Path) -> str:
    """The toolkit that wrote a file of answers, "" where the file is not one, or cannot be read."""
    try:
        rows = _open(Path(path))
        return _form(Path(path), rows[0]).toolkit if len(rows) else ""
    except (OSError, UserError, RowError):
        return ""


def with_golds(rows: list[Row], toolkit: str, items: Items, path: str | Path) -> list[Row]:
    """Rows with the correct answer, options, category and unit of the benchmark's own questions.

    Args:
      items: the questions. lmms-eval numbers them by position; in other files their ids are the benchmark's.

    Raises:
      UserError: an answer to a question that the benchmark does not have.
    """
    by_id = {}
    for index in range(len(items)):
        item = items[index]
        by_id[str(index) if toolkit == "lmms-eval" else item.id] = item
    found = []
    for row in rows:
        if row["question_id"] not in by_id:
            raise UserError(f"{path}: question '{row['question_id']}' is not among the {len(by_id)} of the benchmark")
        item = by_id[row["question_id"]]
        extra = item.example("").extra
        own = {"gt_answer": extra["answer"], "question_id": item.id}
        found.append(
            row | own | {name: extra[name] for name in ("choices", "category", "unit", "fields") if name in extra}
        )
    return found


def _open(path: Path) -> Rows:
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    return _Sheet(path) if zipped else open_rows(path)


class _Sheet(MemoryRows):
    """The first sheet of an Excel file; its first row names the columns.

    Texts are as VLMEvalKit reads them back: a carriage return stays Excel's ``_x000D_``.
    """

    def __init__(self, path: Path):
        openpyxl = optional("openpyxl", path)
        try:
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            header, *rows = [list(cells) for cells in book.worksheets[0].iter_rows(values_only=True)] or [[]]
        except NOT_A_SHEET as error:
            raise UserError(f"{path}: not a whole Excel file ({error}); copy it again") from None
        names = [name for name in header if name is not None]
        if len(names) != len(header) or len(set(names)) != len(names):
            raise UserError(f"{path}:1: a column without a name, or two with the same ({header}); repair the header")
        self._numbers = [number for number, cells in enumerate(rows, 2) if any(cell is not None for cell in cells)]
        kept = [dict(zip(map(str, names), rows[number - 2], strict=False)) for number in self._numbers]
        super().__init__(kept, path.name)

    def location(self, index: int) -> str:
        """``file.xlsx:ROW``, as Excel counts."""
        return f"{self.name}:{self._numbers[index]}"


def _text(row: Mapping[str, Any], column: str, where: str, empty: bool = False) -> str:
    """A cell as text; tables hold numbers as such, and an empty answer as an empty cell (``empty``)."""
    value = row[column]
    if empty and is_missing(value):
        return ""
    if is_missing(value, ()) or isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: column '{column}' is {shown(value)}, not text")
    return str(value)


def _gold(value: Any, literal: bool = False) -> dict[str, Any]:
    """``gt_answer``. A list of accepted texts may be written as a ``literal``: by VLMEvalKit and lmms-eval it is."""
    if is_missing(value):
        return {}
    listed = literal_list(value) if literal and isinstance(value, str) else value
    if isinstance(listed, list) and listed and (listed is value or all(isinstance(one, str) for one in listed)):
        return {"gt_answer": [str(one) for one in listed]}
    return {"gt_answer": str(value)}


def _in_order(letters: Mapping[str, str]) -> list[str]:
    """Options in the order of the letters, "" for a letter that is left out."""
    return [letters.get(letter, "") for letter in LETTERS[: LETTERS.index(max(letters)) + 1]] if letters else []


def _without(row: Row, *names: str) -> Row:
    """The other columns; NaN, which is how pandas writes an empty cell as JSON, becomes None."""
    return {name: None if is_missing(value, ()) else value for name, value in row.items() if name not in names}


def _tabular(gold: str) -> Callable[[Row, str], Row]:
    """Converts VLMEvalKit's columns, of which Cambrian's MMBench files have another name for the gold."""

    def convert(row: Row, where: str) -> Row:
        rest = _without(row, "index", "question", "prediction", "image", gold, *LETTERS)
        prompt = {} if is_missing(row.get("question")) else {"prompt": str(row["question"])}
        return rest | prompt | _gold(row.get(gold), literal=True) | {
            "question_id": _text(row, "index", where),
            "answer": _text(row, "prediction", where, empty=True),
            "category": "" if is_missing(row.get("category"), NAN) else str(row["category"]),
            "choices": _in_order(options(row, where, missing=NAN)),
        }  # fmt: skip

    return convert


def _with_units(rows: list[Row], path: Path) -> list[Row]:
    """Rotations of one question get the same ``unit``."""
    if "g_index" in rows[0]:
        return [row | {"unit": row["g_index"]} for row in rows]
    numbers = [int(row["question_id"]) if row["question_id"].isdecimal() else -1 for row in rows]
    if max(numbers) < ROTATION or min(numbers) < 0:
        return rows
    return [row | {"unit": number % ROTATION} for row, number in zip(rows, numbers, strict=True)]


def _lmms_eval(row: Row, where: str) -> Row:
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    prompt = {"prompt": row["input"]} if isinstance(row.get("input"), str) else {}
    listed = next((name for name in ("options", "choices") if _is_list(doc.get(name))), "")
    rest = _without(row, "doc_id", "target", "input", "resps")
    return rest | prompt | _gold(row["target"], literal=True) | {
        "question_id": _text(row, "doc_id", where),
        "answer": _response(row, where),
        "category": str(doc.get("category") or ""),
        "choices": _in_order(options(doc, where, listed, NAN)),
    }  # fmt: skip


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and literal_list(value) is not None)


def _response(row: Row, where: str) -> str:
    """The model's own text; ``resps`` is left out of a row whose filter changed nothing."""
    for value in (row.get("resps", row["filtered_resps"]), row["filtered_resps"]):
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            return value
    raise UserError(
        f"{where}: column 'filtered_resps' is {shown(row['filtered_resps'])}, not one text; log-likelihoods and "
        "several answers to a question cannot be scored again"
    )


def _first_of_filters(rows: list[Row], path: Path) -> list[Row]:
    """lmms-eval writes a question once for each of the task's filters; the model's text is the same in all."""
    found: dict[str, Row] = {}
    for row in rows:
        first = found.setdefault(row["question_id"], row)
        if first["answer"] != row["answer"]:
            raise UserError(f"{path}: doc_id {row['question_id']} has two different answers; keep one of the rows")
    return list(found.values())


def _keyed(key: str, answer: str) -> Callable[[Row, str], Row]:
    """Converts rows whose id and answer have these names, and the rest ours."""

    def convert(row: Row, where: str) -> Row:
        choices: list[Any] = next((row[name] for name in ("choices", "options") if isinstance(row.get(name), list)), [])
        return _without(row, key, answer, "options") | _gold(row.get("gt_answer")) | {
            "question_id": _text(row, key, where),
            "answer": _text(row, answer, where),
            "category": "" if is_missing(row.get("category")) else str(row["category"]),
            "choices": [str(choice) for choice in choices],
        }  # fmt: skip

    return convert


@dataclass(frozen=True)
class Form:
    """One form of file: the columns that tell it from the others, which each of its rows has."""

    toolkit: str
    columns: tuple[str, ...]
    convert: Callable[[Row, str], Row]  # (row, its file and line)
    finish: Callable[[list[Row], Path], list[Row]] = lambda rows, path: rows


FORMS = (
    Form("lmms-eval", ("doc_id", "target", "filtered_resps"), _lmms_eval, _first_of_filters),
    Form("cambrian", ("index", "prediction", "gt_answer"), _tabular("gt_answer"), _with_units),  # its MMBench
    Form("vlmevalkit", ("index", "prediction"), _tabular("answer"), _with_units),
    Form("llava", ("question_id", "prompt", "text"), _keyed("question_id", "text")),
    Form("llava", ("question_id", "prediction"), _keyed("question_id", "prediction")),  # its SEED-Bench submission
    Form("ours", ("question_id", "answer", "gt_answer", "benchmark"), _keyed("question_id", "answer")),
    Form("cambrian", ("question_id", "answer", "model_id"), _keyed("question_id", "answer")),
    Form("cambrian", ("questionId", "answer", "model_id"), _keyed("questionId", "answer")),  # CV-Bench, DocVQA
    Form("cambrian", ("idx", "answer", "model_id"), _keyed("idx", "answer")),  # VizWiz
)


def _form(path: Path, row: Row) -> Form:
    for form in FORMS:
        if set(form.columns) <= set(row):
            return form
    known = "; ".join(f"{form.toolkit}: {', '.join(form.columns)}" for form in FORMS)
    raise UserError(
        f"{path}: not a file of answers that is known, by the columns of its first row ({', '.join(map(str, row))}); "
        f"a file has at least, of {known}"
    )
