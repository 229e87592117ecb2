"""A file of predictions. Answers are appended as they come, so that a killed evaluation resumes where it stopped.

One JSON object per line with Cambrian's field names: ``question_id, prompt, answer, gt_answer, category, model_id``,
and ours: ``benchmark, questions`` (how many it has), ``data`` (path of its files), ``toolkit, control, choices, unit,
fields`` (what else a scorer reads), ``finished, settings`` (what an answer depends on besides model and prompt),
``ranked`` (letter or text of the most likely option) and ``ranking`` (how likelihoods were normalised).

The file holds one row per question, all made under the settings of one evaluation, so that other programs can score it.
Answers made under other settings are kept in ``NAME.others.jsonl`` beside it, and are restored when their settings are
used again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.words import counted

REQUIRED = ("question_id", "answer", "gt_answer")


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file.

    Raises:
      UserError: no such file, a line that is no JSON object, or one without a required field; the message names the
        line.
    """
    if not path.is_file():
        raise UserError(f"predictions file {path} does not exist")
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        row = _parsed(line)
        if row is None:
            raise UserError(
                f"{path}, line {number}: no JSON object; remove the line (eval then asks its question again)"
            )
        if missing := [name for name in REQUIRED if name not in row]:
            raise UserError(f"{path}, line {number}: field '{missing[0]}' is missing")
        rows.append(row)
    return rows


def complete_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that another process may be appending to: its incomplete last line is left out."""
    complete, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    rows = (_parsed(line) for line in complete.split("\n"))
    return [row for row in rows if row is not None]


def resume(
    path: Path, prompts: Mapping[str, str], model_id: str, settings: Mapping[str, Any], benchmark: str = ""
) -> dict[str, dict[str, Any]]:
    """Existing answers under these settings, by question id. Afterwards the file holds only them.

    A last line that a kill left incomplete is removed. Answers under other settings move to :func:`others`, and those
    there that were made under these settings are restored.

    Args:
      prompts: question id → prompt as it would be asked now.
      settings: of the answers; rows with equal ``settings`` are reused.
      benchmark: name in the rows of a file that may be continued; rows without a name may be, too.

    Raises:
      UserError: the file answers another benchmark or other prompts, or is another model's; continuing would mix two
        evaluations.
    """
    if not path.exists():
        return {}
    complete, _, incomplete = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    _check_ours(path, complete.split("\n") if complete else [], incomplete)
    if incomplete:
        files.write_text(path, complete and complete + "\n")
    rows = read(path)
    for row in rows:
        if benchmark and row.get("benchmark", benchmark) != benchmark:
            raise UserError(
                f"{path} holds answers to {row['benchmark']}, not to {benchmark}; name another file (--out)"
            )
        question_id, other = str(row["question_id"]), row.get("model_id", "")
        if other != model_id:
            raise UserError(f"{path} holds answers of model '{other}', not '{model_id}'; name another file (--out)")
        if question_id in prompts and row.get("prompt") != prompts[question_id]:
            raise UserError(
                f"{path}: question '{question_id}' was asked with another prompt; name another file (--out)"
            )
    if rows and all(row.get("settings") == dict(settings) for row in rows):
        return {str(row["question_id"]): row for row in rows}
    return _swap(path, rows, prompts, model_id, dict(settings))


def _check_ours(path: Path, lines: list[str], incomplete: str) -> None:
    """Raises UserError for a file that no evaluation wrote, before anything in it is changed.

    ``incomplete`` is what a killed evaluation left of its last line; it begins as every line does.
    """
    first = next((line for line in lines if line.strip()), "")
    ours = "question_id" in (_parsed(first) or {}) if first else not incomplete or incomplete.startswith("{")
    if not ours:
        raise UserError(f"{path}: not a file of answers, so it was left as it is; name another or a new file (--out)")


def others(path: Path) -> Path:
    """Path of a file's answers under other settings: ``NAME.others.jsonl``."""
    return path.with_name(f"{path.stem}.others.jsonl")


def _swap(
    path: Path, rows: list[dict[str, Any]], prompts: Mapping[str, str], model_id: str, settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Keeps all rows in :func:`others`, and writes those of ``settings`` to ``path``; returns as :func:`resume`."""
    aside = others(path)
    known = {}
    for row in [*(read(aside) if aside.exists() else ()), *rows]:
        settings_text = json.dumps(row.get("settings"), sort_keys=True)
        known[row.get("model_id", ""), settings_text, str(row["question_id"])] = row
    if known:  # before ``path``: a kill between the two writes leaves rows twice, and loses none
        write(aside, known.values())
    restored = {
        key: row
        for (model, _, key), row in known.items()
        if model == model_id
        and row.get("settings") == settings
        and row.get("prompt") == prompts.get(key, row.get("prompt"))
    }
    write(path, restored.values())
    different = [row for row in rows if row.get("settings") != settings]
    if different:
        logging.getLogger("pivot_jax").info(
            f"{path}: {counted(len(different), 'answer')} made under other settings ({_changes(different, settings)}) "
            f"not used, but kept in {aside}"
        )
    return restored


def _changes(rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """``max_new_tokens 8 → 16, …`` of the first of these rows."""
    old = rows[0].get("settings")
    if not isinstance(old, dict):
        return "the rows do not say which"
    names = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
    return ", ".join(f"{name} {old.get(name, '(none)')} → {settings.get(name, '(none)')}" for name in names)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replaces the file's content by these rows, whole or not at all.

    Raises:
      UserError: the file could not be written; it is then as it was.
    """
    files.write_text(path, "".join(map(_line, rows)))


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows to the file and hands them to the system at once.

    Raises:
      UserError: the file could not be written; the rows that fitted are there.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(map(_line, rows))
    except OSError as error:
        raise files.not_written(path, error) from error


def _line(row: dict[str, Any]) -> str:
    # ASCII only: an answer may hold line separators that readers split at, or halves of surrogate pairs.
    return json.dumps(row) + "\n"


def _parsed(line: str | bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        return None
    return row if isinstance(row, dict) else None
