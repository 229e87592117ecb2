"""Rows of a source with a model's own responses in the place of their answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import Endless, Source
from pivot_jax.data.sources.choose import SHOW_FROM
from pivot_jax.data.sources.prompts import prompt_example
from pivot_jax.data.sources.rows import open_rows
from pivot_jax.errors import RowError, UserError
from pivot_jax.progress import progress

ROW = "row"  # the field that names the row of the source


@dataclass(frozen=True)
class _Line:
    """A line of the file: the row that it answers, and its answers."""

    id: str
    row: str
    completion: str | None
    chosen: str | None
    rejected: str | None


class Responses:
    """The rows that a file of ``pivot-jax prepare responses`` has responses to, in the file's order.

    Prompt and images are the source's. A ``completion`` becomes the last turn of a conversation, ``chosen`` and
    ``rejected`` those of a pair. So data that a model made of a source keep its images, whatever form these have.

    Raises:
      UserError: a source without an end, a file that cannot be read, or a line of another source.
    """

    def __init__(self, source: Source, path: str | Path):
        if isinstance(source, Endless):
            raise UserError(f"responses: {source.name} has no end, so its rows cannot be found; name a source with one")
        self.source, self.name = source, source.name
        rows = open_rows(path)
        self._lines = [_line(rows[index], f"{path}:{index + 1}") for index in range(len(rows))]
        numbers = _numbers(source)
        if lost := [line for line in self._lines if line.row not in numbers]:
            raise UserError(f"{path}: row '{lost[0].row}' is not in {source.name}; name the source of the prompts")
        self._numbers = [numbers[line.row] for line in self._lines]
        digest = hashlib.sha256(repr(self._lines).encode()).hexdigest()[:16]
        self.fingerprint = f"{source.fingerprint}|responses {digest}" if source.fingerprint else ""

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Example:
        line = self._lines[index]
        prompt = prompt_example(self.source[self._numbers[index]])
        if line.completion is None:
            return replace(prompt, id=line.id, chosen=line.chosen, rejected=line.rejected)
        return replace(prompt, id=line.id, messages=(*prompt.messages, Message("assistant", line.completion)))


def _line(row: Mapping[str, Any], where: str) -> _Line:
    found = {name: row.get(name) for name in ("completion", "chosen", "rejected")}
    pair = found["chosen"] is not None and found["rejected"] is not None
    texts = [value for value in found.values() if value is not None]
    if ROW not in row or pair == (found["completion"] is not None) or not all(isinstance(one, str) for one in texts):
        raise UserError(
            f"{where}: no line of responses, which has '{ROW}' and 'completion', or 'chosen' and 'rejected'; write the "
            "file with `pivot-jax prepare responses`"
        )
    return _Line(str(row.get("id", row[ROW])), str(row[ROW]), **found)


def _numbers(source: Source) -> dict[str, int]:
    """Row id → index. Rows that cannot be read are left out; nothing can have answered them."""
    found: dict[str, int] = {}
    with progress(f"rows of {source.name}", len(source), show=len(source) >= SHOW_FROM) as advance:
        for index in range(len(source)):
            advance()
            try:
                found.setdefault(source[index].id, index)
            except RowError:
                continue
    return found
