"""The type of a benchmark, and the readers that several families of benchmarks share.

A family's file holds everything about it: how its published files become questions with the benchmark's prompt, how an
answer is scored, which questions count together, and the requested format of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.config import paths
from pivot_jax.data.example import Example
from pivot_jax.data.sources.rows import open_rows, row_id_of
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.scoring.parse import LETTERS
from pivot_jax.eval.scoring.scorers import Scorer

LISTS = ("images", "choices", "options")  # fields of a question that hold several values
LISTED = 6  # names of a wrong folder's content in a message


class Questions(Protocol):
    """Examples by index.

    Each ends with a user turn, or with the answer as an assistant turn, which is not asked. ``extra`` holds the
    inputs of the scorer: ``answer`` (a text, or a list of accepted texts), ``choices`` (texts of the options),
    ``category``, ``unit`` (questions that count together, such as an MMVP pair).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True)
class Benchmark:
    """One benchmark."""

    read: Callable[[str | Path], Questions]  # from the path of its files
    scorer: Scorer
    answer_format: str  # requested format of an answer (see ``parse.format_compliance``)
    max_new_tokens: int
    option_form: str = ""  # "letter" | "text": form in which options are ranked by likelihood; "": there are no options
    by_unit: bool = False  # the score is the share of units (pairs) in which every answer is right
    clustered: bool = False  # questions of one unit (an image) are not independent: intervals draw units whole
    strict_scorer: Scorer | None = None  # a second scorer, reported beside the first
    questions: int = 0  # how many it has, where every publication of it has the same; 0: not known


def lettered(choices: Sequence[str]) -> str:
    """Options as lines ``\\nA. first\\nB. second``."""
    return "".join(f"\n{LETTERS[index]}. {choice}" for index, choice in enumerate(choices))


def existing_folder(path: str | Path, family: str) -> Path:
    """Raises UserError where ``path`` is not a folder; names the nearest one."""
    folder = Path(path)
    if not folder.is_dir():
        near = paths.nearest(folder)
        raise UserError(f"{family}: no folder at '{folder}'{near or '; name the one with its questions'}")
    return folder


def question_file(path: str | Path, family: str, name: str = "data.jsonl") -> Path:
    """The file of questions: ``path`` itself, or the file ``name`` in it.

    Raises:
      UserError: there is none; the message lists the content of the folder, or names the nearest file.
    """
    path = Path(path)
    file = path / name if path.is_dir() else path
    if file.is_file():
        return file
    fix = "name the file of questions, or its folder"
    if path.is_dir():
        raise UserError(f"{family}: {path} holds no {name}{contents(path)}; {fix}")
    raise UserError(f"{family}: {path} does not exist{paths.nearest(path, files=True) or f'; {fix}'}")


def question_rows(file: Path, family: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of a file, each of which has the fields; all but :data:`LISTS` are texts or numbers.

    Raises:
      UserError: a row without one of the fields, or with a list or object in it (the message names row and field); or
        as :func:`check_first`.
    """
    source, rows = open_rows(file), []
    check_first(source, file, family, ", ".join(fields))
    for index in range(len(source)):
        row = source[index]
        if missing := [name for name in fields if row.get(name) in (None, "", [])]:
            row_id = row_id_of(row, source, index)
            raise UserError(f"{family}: {file}, row '{row_id}': no '{missing[0]}'; a question has {', '.join(fields)}")
        if wrong := [name for name in fields if name not in LISTS and isinstance(row[name], (list, dict))]:
            row_id, kind = row_id_of(row, source, index), type(row[wrong[0]]).__name__
            raise UserError(f"{family}: {file}, row '{row_id}': '{wrong[0]}' is a {kind}; write a text or a number")
        rows.append(row)
    return rows


def check_first(rows: Any, file: Path, family: str, fields: str) -> None:
    """Raises UserError where the first row is not a question: then the path names the wrong file."""
    if not len(rows):
        raise UserError(f"{family}: {file} is empty")
    try:
        rows[0]
    except RowError as error:
        reason = error.reason.partition("; ")[0]  # the fix after it is for a single bad row
        raise UserError(
            f"{family}: {file} is not a file of its questions ({reason}); a question has {fields}"
        ) from None


def contents(folder: Path) -> str:
    """`` (it holds: a, b, …)``, for a message about a wrong folder."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = ", …" if len(names) > LISTED else ""
    return f" (it holds: {', '.join(names[:LISTED]) or 'nothing'}{more})"
