"""Cells of a benchmark's published rows: images, options, answers and ids, in the forms that they are published in.

Each reader raises RowError with the row, the column, what was found and the fix. ``row_id`` is how messages name the
row; :func:`row_name` gives file, line and index.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pivot_jax.data.sources.rows import Rows
from pivot_jax.errors import RowError
from pivot_jax.eval.scoring.parse import LETTERS

SHOWN = 80  # characters of a wrong value in a message
EMPTY = frozenset({""})
NAN = EMPTY | {"nan"}  # as lmms-eval reads MMBench
# What pandas takes for an empty cell by default, and so VLMEvalKit: an option "None" is then no option.
PANDAS = EMPTY | {
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.):]?")


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


def row_name(row: Mapping[str, Any], rows: Rows, index: int, key: str = "index") -> str:
    """``MMBench.tsv:15, index 241``: how messages name a row of a file."""
    own = row.get(key)
    return rows.location(index) if own is None else f"{rows.location(index)}, {key} {own}"


def unique_ids(rows: Rows, key: str = "index") -> dict[str, int]:
    """Id of each row → its position.

    Raises:
      RowError: a row without an id, or two rows with one.
    """
    found: dict[str, int] = {}
    for position in range(len(rows)):
        value = rows[position].get(key)
        where = rows.location(position)
        if is_missing(value):
            raise RowError(where, f"column '{key}' is empty or missing; give each row an id of its own")
        if str(value) in found:
            first = rows.location(found[str(value)])
            raise RowError(where, f"column '{key}' is {value}, as in row '{first}'; remove one of the two rows")
        found[str(value)] = position
    return found


def is_missing(value: Any, missing: Collection[str] = EMPTY) -> bool:
    """Whether a cell is empty: None, NaN, or one of the texts."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or (
        isinstance(value, str) and value in missing
    )  # fmt: skip


def optional_text(row: Mapping[str, Any], name: str, row_id: str) -> str:
    """The cell's text without blanks around it; "" for an empty one, a missing column, and the text "nan".

    Raises:
      RowError: a list or an object.
    """
    value = row.get(name)
    if is_missing(value, NAN):
        return ""
    if not isinstance(value, str | int | float):
        raise RowError(row_id, f"column '{name}' is {type(value).__name__}, not text")
    return str(value).strip()


def options(row: Mapping[str, Any], row_id: str, column: str = "", missing: Collection[str] = EMPTY) -> dict[str, str]:
    """Options by letter, in their order; {} where there are none.

    Args:
      column: it holds a list, or one as JSON or as a Python literal (MMMU: ``"['It\\'s 3', '5']"``). "": the columns
        A, B, C, … hold an option each.
      missing: texts in columns A, B, … that mean that there is no such option (:data:`EMPTY`, :data:`NAN`,
        :data:`PANDAS`). An empty column between two options leaves its letter out.

    Raises:
      RowError: text that is no list, an option that is empty or no text, or more options than letters.
    """
    if not column:
        return {letter: str(row[letter]) for letter in LETTERS if not is_missing(row.get(letter), missing)}
    value = row.get(column)
    if is_missing(value):
        return {}
    listed = literal_list(value) if isinstance(value, str) else value
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise RowError(row_id, f"column '{column}' is {shown(value)}, not a list of options (also as JSON or Python)")
    if len(listed) > len(LETTERS):
        raise RowError(
            row_id, f"column '{column}' has {len(listed)} options, and there are {len(LETTERS)} letters; leave some out"
        )
    for option in listed:
        if is_missing(option) or not isinstance(option, str | int | float):
            raise RowError(row_id, f"column '{column}' has the option {shown(option)}; each is a text or a number")
    return {letter: str(option) for letter, option in zip(LETTERS, listed, strict=False)}


def literal_list(text: str) -> list[Any] | None:
    """The list that a text writes in JSON or as a Python literal, None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, list) else None
    return None


def letter_answer(
    value: Any, choices: Mapping[str, str] | Sequence[str], row_id: str, form: str = "", column: str = "answer"
) -> str:
    """The letter of the right option.

    Args:
      value: index from 0 (number or digits), letter (``B``, ``(b)``, ``B.``), or the option's text.
      choices: options by letter, or in the order of the letters.
      form: which of the three it is: "index", "letter" or "text". "": whichever fits; to be used only where an option
        cannot read like a letter or an index.

    Raises:
      RowError: the answer is none of the options, or several.
    """
    if form and form not in _FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(_FORMS)}")
    known = dict(choices) if isinstance(choices, Mapping) else dict(zip(LETTERS, map(str, choices), strict=False))
    found = sorted({letter for name, read in _FORMS.items() if form in ("", name) for letter in read(value, known)})
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{letter}: {text}" for letter, text in known.items())
    if found:
        raise RowError(
            row_id,
            f"column '{column}' is {shown(value)}, which can be {' or '.join(found)} ({shown(listed)}); state whether "
            "answers are an index, a letter or a text, or correct it",
        )
    raise RowError(
        row_id, f"column '{column}' is {shown(value)}, which is none of the options ({shown(listed)}); correct it"
    )


def _by_index(value: Any, known: Mapping[str, str]) -> list[str]:
    digits = isinstance(value, str) and value.strip().isascii() and value.strip().isdigit()
    if isinstance(value, bool) or not (isinstance(value, int) or digits):
        return []
    return list(known)[int(value) :][:1] if int(value) >= 0 else []


def _by_letter(value: Any, known: Mapping[str, str]) -> list[str]:
    found = _LETTER.fullmatch(value.strip()) if isinstance(value, str) else None
    return [found[1].upper()] if found and found[1].upper() in known else []


def _by_text(value: Any, known: Mapping[str, str]) -> list[str]:
    if not isinstance(value, str | int | float):
        return []
    text = str(value).strip()
    exact = [letter for letter, option in known.items() if option.strip() == text]
    return exact or [letter for letter, option in known.items() if option.strip().casefold() == text.casefold()]


_FORMS = {"index": _by_index, "letter": _by_letter, "text": _by_text}
