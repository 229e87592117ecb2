"""A file of predictions: appended to as answers come, so that a killed evaluation goes on where it was.

One JSON object per line with Cambrian's field names: ``question_id, prompt, answer, gt_answer, category, model_id``,
and ours: ``benchmark, choices, unit, finished, settings`` (what the answer depends on beside model and prompt) and
``ranked`` (letter or text of the most likely option).

The file holds one row per question, all of one evaluation's settings, so that other programs can score it. Answers that
were made under other settings stand in ``NAME.others.jsonl`` beside it, from where they come back when asked for.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
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


def resume(
    path: Path, prompts: Mapping[str, str], model_id: str, settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Answers that are already there under these settings, by question id; afterwards the file holds only them.

    A last line that a kill cut in half is removed. Answers under other settings move to :func:`others`, and those made
    under these settings that stand there come back.

    Args:
      prompts: question id → prompt as it would be asked now.
      settings: what the answers depend on, equal to the rows' ``settings`` where they can be reused.

    Raises:
      UserError: the file answers other prompts or is another model's; going on would mix two evaluations.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole, _, cut = text.rpartition("\n")
    if cut:
        path.write_text(whole and whole + "\n", encoding="utf-8")
    here = read(path)
    for row in here:
        question_id, theirs = str(row["question_id"]), row.get("model_id", "")
        if theirs != model_id:
            raise UserError(f"{path} holds answers of model '{theirs}', not '{model_id}'; name another file (--out)")
        if question_id in prompts and row.get("prompt") != prompts[question_id]:
            raise UserError(
                f"{path}: question '{question_id}' was asked with another prompt; name another file (--out)"
            )
    if here and all(row.get("settings") == dict(settings) for row in here):
        return {str(row["question_id"]): row for row in here}
    return _swap(path, here, prompts, model_id, dict(settings))


def others(path: Path) -> Path:
    """Where a file's answers under other settings are kept: ``NAME.others.jsonl``."""
    return path.with_name(f"{path.stem}.others.jsonl")


def _swap(
    path: Path, here: list[dict[str, Any]], prompts: Mapping[str, str], model_id: str, settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Keeps all rows in :func:`others` and writes those of ``settings`` to ``path``; the rows as :func:`resume`."""
    aside = others(path)
    known = {}
    for row in [*(read(aside) if aside.exists() else ()), *here]:
        settings_text = json.dumps(row.get("settings"), sort_keys=True)
        known[row.get("model_id", ""), settings_text, str(row["question_id"])] = row
    if known:  # aside first: a kill between the two writes leaves rows twice, and never loses one
        write(aside, known.values())
    mine = {
        key: row
        for (whose, _, key), row in known.items()
        if whose == model_id
        and row.get("settings") == settings
        and row.get("prompt") == prompts.get(key, row.get("prompt"))
    }
    write(path, mine.values())
    different = [row for row in here if row.get("settings") != settings]
    if different:
        logging.getLogger("pivot_jax").info(
            f"{path}: {len(different)} answers were made under other settings ({_changes(different, settings)}) "
            f"and are not used; they are kept in {aside}"
        )
    return mine


def _changes(rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """``max_new_tokens 8 → 16, …`` of the first of these rows."""
    old = rows[0].get("settings")
    if not isinstance(old, dict):
        return "the rows do not say which"
    names = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
    return ", ".join(f"{name} {old.get(name, '(none)')} → {settings.get(name, '(none)')}" for name in names)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replaces a file by these rows, whole or not at all."""
    draft = path.with_name(path.name + ".partial")
    draft.unlink(missing_ok=True)
    append(draft, rows)
    os.replace(draft, path)


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
