"""Logs of sampled responses, of this project and of others, as a stream of responses.

=============  ======================================================================================================
``pivot``      a workdir of online RL: its ``completions/`` (training prompts) and ``eval/heldout-STEP.jsonl``
``trl``        TRL's ``completions/completions_STEP.parquet``: step, prompt, completion, a column per reward
``verl``       verl's ``STEP.jsonl`` (``trainer.validation_data_dir``, ``rollout_data_dir``): input, output, gts, score
``easyr1``     EasyR1's ``generations.log``: [prompt], [output], [ground_truth], [score]
``vlm-r1``     VLM-R1's evaluation JSON: results with question, ground_truth, model_output, is_correct
``columns``    JSON lines, JSON or Parquet with columns of your own
=============  ======================================================================================================

JSON may be compressed (``.gz``). A step that the rows do not have is the number in the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pivot_jax.errors import UserError, suggest
from pivot_jax.rl.scheme.log_formats import FORMATS, Format, Row, number_of, recognised

TOP = "length"  # value of a column for ``truncated`` that says so


class Response(NamedTuple):
    """A sampled response as its log has it.

    Attributes:
      question: what tells questions apart: an id, or the prompt.
      text: the response.
      step: training step, or epoch.
      correct: the recorded score; None: not recorded.
      gold: the right answer; None: not recorded.
      split: ``train``, ``val``, ``test``, or another name; "": unknown.
      setting: how it was sampled, such as ``T=1``; "": unknown.
      tokens: number of tokens; 0: unknown.
      truncated: whether it ended at the limit of tokens; None: unknown.
      prompt, images: to show it.
    """

    question: str
    text: str
    step: float = 0.0
    correct: float | None = None
    gold: Any = None
    split: str = ""
    setting: str = ""
    tokens: int = 0
    truncated: bool | None = None
    prompt: str = ""
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogSettings:
    """How a log is read.

    Attributes:
      format: a key of ``FORMATS``; "": what the files look like.
      columns: field of a :class:`Response` → column of the log, ``a.b`` for one inside another; they replace those of
        the format, such as ``correct`` = the name of a reward.
      split, setting: of responses whose log does not say.

    Raises:
      UserError: an unknown format or field.
    """

    format: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    setting: str = ""

    def __post_init__(self) -> None:
        if self.format and self.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise UserError(f"format '{self.format}' is unknown{suggest(self.format, FORMATS)} (there are: {known})")
        for name in self.columns:
            if name not in Response._fields:
                known = ", ".join(Response._fields)
                raise UserError(f"columns: no field '{name}'{suggest(name, Response._fields)} (there are: {known})")


DEFAULT = LogSettings()


def read(path: str | Path, settings: LogSettings = DEFAULT) -> Iterator[Response]:
    """The responses of a log, in the order of its files.

    Raises:
      UserError: nothing is there, the format is not recognised, or a row is malformed; the message names the file,
        the line and the column or field.
    """
    path = Path(path)
    own = {"question", "text"} <= set(settings.columns)
    name = settings.format or ("columns" if own else recognised(path))
    if not path.exists():
        raise UserError(f"{path} does not exist")
    form, found = FORMATS[name], False
    columns = {**form.columns, **settings.columns}
    for file in form.files(path):
        unsaid = {"step": number_of(file), "split": _split(form, file) or settings.split, "setting": settings.setting}
        for where, row in form.rows(file):
            found = True
            yield _response(row, columns, unsaid, where)
    if not found:
        raise UserError(f"{path}: no responses in format '{name}'; --format names another ({', '.join(FORMATS)})")


def _split(form: Format, file: Path) -> str:
    return next((split for part, split in form.splits.items() if part in f"{file.parent.name}/{file.name}"), "")


def _response(
    row: Row, columns: Mapping[str, str | tuple[str, ...]], unsaid: Mapping[str, Any], where: str
) -> Response:
    """The response of a row; ``unsaid`` are values of fields that the row does not have."""
    values = dict(unsaid)
    for name, column in columns.items():
        names = (column,) if isinstance(column, str) else column
        used = next((one for one in names if _value(row, one) is not None), "")
        if not used and name in ("question", "text"):
            there = ", ".join(map(str, row)) or "none"
            raise UserError(
                f"{where}: field '{names[0]}' is missing; --columns {name}=COLUMN names it (there: {there})"
            )
        if used:
            values[name] = CONVERSIONS[name](_value(row, used), f"{where}: {used}")
    for name in ("question", "text"):
        if name not in values:
            raise UserError(f"{where}: no column for '{name}'; name it with --columns {name}=COLUMN")
    return Response(**values)


def _value(row: Row, column: str) -> Any:
    """The value of a column, ``a.b`` inside another; None: there is none."""
    if column in row:
        return row[column]
    head, _, rest = column.partition(".")
    inner = row.get(head)
    return _value(inner, rest) if rest and isinstance(inner, dict) else None


def _text(value: Any, where: str) -> str:
    """Text, or the texts of a conversation's messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, (_text(one, where) for one in value)))
    if isinstance(value, dict):
        return _text(value.get("content", value.get("text") or ""), where)
    return str(value)


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {value!r:.40} is no number") from None


def _gold(value: Any, where: str) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _truncated(value: Any, where: str) -> bool:
    return value == TOP if isinstance(value, str) else bool(value)


def _images(value: Any, where: str) -> tuple[str, ...]:
    return tuple(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one)


CONVERSIONS: Mapping[str, Any] = {
    "question": _text, "text": _text, "prompt": _text, "split": _text, "setting": _text, "step": _number,
    "correct": _number, "tokens": lambda value, where: int(_number(value, where)), "gold": _gold,
    "truncated": _truncated, "images": _images,
}  # fmt: skip
