"""A folder of predictions files: which benchmark, toolkit and control each one answers, and its score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.eval.judge import Judge
from pivot_jax.eval.score import Rules, Score, checked, score_rows

BLANK = "blank-images"


@dataclass(frozen=True)
class Answered:
    """A predictions file.

    Attributes:
      control: name of the control under which it was asked; "": none.
      label: benchmark, and the toolkit where it is not ours; the file's name where several files share that.
    """

    file: Path
    rows: tuple[dict[str, Any], ...]
    score: Score
    control: str
    label: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a control and the plain run have in common: benchmark, toolkit, model."""
        return self.score.benchmark, self.score.toolkit, str(self.rows[0].get("model_id", ""))


def read(
    path: str | Path,
    rules: Rules | None = None,
    name: str = "",
    *,
    data: str | Path = "",
    judge: Judge | None = None,
) -> list[Answered]:
    """The predictions files of a folder, or one file; arguments as of ``score.score_file``, for every file.

    Raises:
      UserError: no predictions, or a file that cannot be scored.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.glob("*.jsonl")) if not file.name.endswith(".others.jsonl")]
    if not files:
        raise UserError(f"{path}: holds no predictions (.jsonl); name the folder 'eval' of a run, or a file")
    found = [_answered(file, *checked(file, name, rules, data=data, judge=judge), rules) for file in files]
    labels = [one.label for one in found if not one.control]
    return [
        Answered(one.file, one.rows, one.score, one.control, one.file.stem) if labels.count(one.label) > 1 else one
        for one in found
    ]


def _answered(file: Path, name: str, rows: list[dict[str, Any]], rules: Rules | None) -> Answered:
    score = score_rows(name, rows, rules)
    settings = rows[0].get("settings") or {}
    control = str(rows[0].get("control") or (BLANK if settings.get("blank_images") else ""))
    label = name if score.toolkit == "ours" else f"{name}, {score.toolkit}"
    return Answered(file, tuple(rows), score, control, label)
