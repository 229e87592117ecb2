"""A file of predictions: appended to as answers come, so that a killed evaluation goes on where it was.

One JSON object per line with Cambrian's field names: ``question_id, prompt, answer, gt_answer, category, model_id``,
and ours: ``benchmark, choices, unit, finished, ranked`` (letter or text of the most likely option).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError

NEEDED = ("question_id", "answer", "gt_answer")


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file.

    Raises:
      UserError: no such file, a line that is no JSON object, or one that lacks a field; the message names the line.
    """
    if not path.is_file():
        raise UserError(f"predictions file {path} does not exist")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        row = _parsed(line)
        if row is None:
            raise UserError(f"{path}, line {number}: no JSON object; remove the line (its question is asked again)")
        if missing := [name for name in NEEDED if name not in row]:
            raise UserError(f"{path}, line {number}: field '{missing[0]}' is missing")
        rows.append(row)
    return rows


def resume(path: Path, prompts: dict[str, str], model_id: str) -> dict[str, dict[str, Any]]:
    """Answers that are already there, by question id; a last line that a kill cut in half is removed from the file.

    Args:
      prompts: question id → prompt as it would be asked now.

    Raises:
      UserError: the file answers other prompts or is another model's; going on would mix two evaluations.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole, _, cut = text.rpartition("\n")
    if cut:
        path.write_text(whole and whole + "\n", encoding="utf-8")
    rows = {str(row["question_id"]): row for row in read(path)}
    for question_id, row in rows.items():
        if row.get("model_id", "") != model_id:
            theirs = row.get("model_id", "")
            raise UserError(f"{path} holds answers of model '{theirs}', not '{model_id}'; choose another file")
        if question_id in prompts and row.get("prompt") != prompts[question_id]:
            raise UserError(f"{path}: question '{question_id}' was asked with another prompt; choose another file")
    return rows


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows behind the file's end and hands them to the system at once."""
    with path.open("a", encoding="utf-8") as file:
        # ASCII only: an answer may hold line separators that readers split at, or halves of surrogate pairs.
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None
